// SPDX-License-Identifier: GPL-2.0

//! `on`, `off`, `set`, `sync`, `region`: what is written, and what is not.

mod fake;

use fake::Fake;

const WEB: &str = "/sys/kernel/kmirror/cgroup/system.slice/web.service";
const DB: &str = "/sys/kernel/kmirror/cgroup/system.slice/db.service";

#[test]
fn on_writes_settings_and_mode() {
    let fake = Fake::busy();
    fake.ok(&[
        "on",
        "db.service",
        "--interval",
        "200",
        "--max",
        "64M",
        "--sync",
    ]);
    assert_eq!(fake.read(&format!("{DB}/mirror.interval_ms")), "200\n");
    assert_eq!(fake.read(&format!("{DB}/mirror.max")), "67108864\n");
    assert_eq!(fake.read(&format!("{DB}/mirror.mode")), "tracked\n");
    assert_eq!(fake.read(&format!("{DB}/mirror.sync")), "1\n");
}

#[test]
fn off_and_inherit() {
    let fake = Fake::busy();
    fake.ok(&["off", "/system.slice/web.service"]);
    assert_eq!(fake.read(&format!("{WEB}/mirror.mode")), "off\n");
    fake.ok(&["off", "--inherit", "/system.slice/web.service"]);
    assert_eq!(fake.read(&format!("{WEB}/mirror.mode")), "inherit\n");
}

#[test]
fn every_name_of_a_cgroup_is_understood() {
    let fake = Fake::busy();
    for name in [
        "web.service",
        "system.slice/web.service",
        "/system.slice//web.service/",
        "/sys/fs/cgroup/system.slice/web.service",
        "/sys/kernel/kmirror/cgroup/system.slice/web.service",
    ] {
        let text = fake.ok(&["--json", "status", name]);
        assert!(
            text.contains(r#""path": "/system.slice/web.service""#),
            "{name}"
        );
    }
    fake.group("/user.slice/web.service", "off", "", "");
    let (status, text) = fake.err(&["status", "web.service"]);
    assert_eq!(status, 4);
    assert!(
        text.contains("/system.slice/web.service, /user.slice/web.service"),
        "{text}"
    );
    assert_eq!(fake.err(&["status", "../../etc"]).0, 2);
}

#[test]
fn a_refused_setting_undoes_those_before() {
    let fake = Fake::busy();
    let (status, text) = fake.err(&["set", "web.service", "interval_ms=50", "nothing=1"]);
    assert_eq!(status, 2);
    assert!(text.contains("no setting nothing; it has"), "{text}");
    assert_eq!(fake.read(&format!("{WEB}/mirror.interval_ms")), "1000\n");
    // Nonsense is found before anything is written.
    let (status, _) = fake.err(&["set", "web.service", "interval_ms=50", "max=lots"]);
    assert_eq!(status, 2);
    assert_eq!(fake.read(&format!("{WEB}/mirror.interval_ms")), "1000\n");
}

#[test]
fn settings_of_later_kernels_can_be_set() {
    let fake = Fake::busy();
    fake.write(&format!("{WEB}/mirror.store"), "region\n");
    let text = fake.ok(&["set", "web.service", "store=host"]);
    assert_eq!(fake.read(&format!("{WEB}/mirror.store")), "host\n");
    assert_eq!(text, "/system.slice/web.service: store is host\n");
    assert!(fake.ok(&["status", "web.service"]).contains("store"));
}

#[test]
fn the_region_is_not_shrunk_under_replicas_unless_told() {
    let fake = Fake::busy();
    let total = "/sys/kernel/kmirror/region/total";
    let (status, text) = fake.err(&["region", "2M"]);
    assert_eq!(status, 6);
    assert!(text.contains("--yes"), "{text}");
    assert_eq!(fake.read(total), "1073741824\n");
    fake.ok(&["region", "2M", "--yes"]);
    assert_eq!(fake.read(total), "2097152\n");
    fake.ok(&["region", "2G"]);
    assert_eq!(fake.read(total), "2147483648\n");
    for size in ["1", "5P", "many", "2MB"] {
        assert_eq!(fake.err(&["region", size]).0, 2, "{size}");
    }
}

#[test]
fn errors_have_their_status_and_say_what_to_do() {
    let (bare, busy) = (Fake::bare(), Fake::busy());
    for (fake, args, want) in [
        (&bare, &["status"][..], 3),
        (&bare, &["on", "x"], 3),
        (&bare, &["events"], 3),
        (&bare, &["region"], 3),
        (&busy, &["status", "nowhere"], 4),
        (&busy, &["on", "/no/where"], 4),
        (&busy, &["set", "web.service", "mode"], 2),
        (&busy, &["set", "web.service"], 2),
        (&busy, &["frobnicate"], 2),
    ] {
        let (status, text) = fake.err(args);
        assert_eq!(status, want, "{args:?}: {text}");
        let one_sentence = text.lines().count() == 1 && text.contains("; ");
        assert!(one_sentence || want == 2, "{args:?}: {text}");
    }
}

#[test]
fn a_setting_that_the_kernel_refuses_undoes_those_before() {
    let fake = Fake::busy();
    // A file that cannot be written, whoever tries.
    std::fs::create_dir(fake.path(&format!("{WEB}/mirror.strange"))).unwrap();
    let (status, text) = fake.err(&[
        "set",
        "web.service",
        "interval_ms=50",
        "max=1M",
        "strange=1",
    ]);
    assert_eq!(status, 1, "{text}");
    assert_eq!(fake.read(&format!("{WEB}/mirror.interval_ms")), "1000\n");
    assert_eq!(fake.read(&format!("{WEB}/mirror.max")), "536870912\n");
}

#[test]
fn protection_begins_when_all_else_is_set() {
    let fake = Fake::busy();
    let (mode, max) = (format!("{DB}/mirror.mode"), format!("{DB}/mirror.max"));
    std::fs::remove_file(fake.path(&max)).unwrap();
    std::fs::create_dir(fake.path(&max)).unwrap();
    let past = std::time::SystemTime::UNIX_EPOCH;
    let file = std::fs::File::options()
        .write(true)
        .open(fake.path(&mode))
        .unwrap();
    file.set_modified(past).unwrap();
    assert_eq!(fake.err(&["on", "db.service", "--max", "64M"]).0, 1);
    let written = fake.path(&mode).metadata().unwrap().modified().unwrap();
    assert_eq!(
        written, past,
        "it was protected for a moment, without its limit"
    );
}

#[test]
fn an_empty_region_is_said() {
    let fake = Fake::busy();
    let said = |fake: &Fake| {
        let output = fake.run(&["on", "db.service"]);
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(said(&fake), "");
    fake.write("/sys/kernel/kmirror/region/total", "0\n");
    assert!(said(&fake).contains("kmirrorctl region 1G"));
}

#[test]
fn a_path_of_sysfs_ends_where_its_name_does() {
    let fake = Fake::busy();
    assert_eq!(
        fake.err(&["off", "/sys/fs/cgroupsystem.slice/web.service"])
            .0,
        4
    );
    assert_eq!(fake.read(&format!("{WEB}/mirror.mode")), "tracked\n");
}

#[test]
fn arguments_out_of_range() {
    let fake = Fake::busy();
    let out = fake.path("/x.svg");
    let out = out.to_str().unwrap();
    for args in [
        &["top", "-n", "1", "-d", "99"][..],
        &["top", "-n", "1", "-d", "60001"],
        &["plot", "web.service", "-o", out, "--time", "0"],
        &["plot", "web.service", "-o", out, "--time", "86401"],
        &["plot", "web.service", "-o", out, "--every", "49"],
        &["plot", "web.service", "-o", out, "--from", out],
        &["plot", "-o", out, "--from", out, "--save", out],
        &["exporter", "--listen", "unix:/x", "--textfile", out],
        &["status", "--color", "sometimes"],
        &["on"],
        &["sync"],
    ] {
        assert_eq!(fake.err(args).0, 2, "{args:?}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let fake = Fake::busy();
    let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(reader);
    let writer = std::os::fd::OwnedFd::from(writer);
    let output = fake
        .command(&["status", "--all"])
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
