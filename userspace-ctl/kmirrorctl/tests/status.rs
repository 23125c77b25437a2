// SPDX-License-Identifier: GPL-2.0

//! `status` and `events`: what is shown.

mod fake;

use fake::{golden, Fake};
use serde_json::Value;

#[test]
fn tables() {
    let fake = Fake::busy();
    golden("status", &fake.ok(&["status"]));
    golden("status-all", &fake.ok(&["status", "--all"]));
    golden("status-one", &fake.ok(&["status", "web.service"]));
    golden("status-color", &fake.ok(&["status", "--color", "always"]));
    golden("events", &fake.ok(&["events"]));
    golden("status-empty", &Fake::loaded().ok(&["status"]));
}

#[test]
fn a_region_of_nothing_is_said() {
    let fake = Fake::loaded();
    fake.write("/sys/kernel/kmirror/region/total", "0\n");
    assert!(fake.ok(&["status"]).contains("kmirrorctl region 1G"));
}

#[test]
fn json() {
    let fake = Fake::busy();
    let all: Value = serde_json::from_str(&fake.ok(&["status", "--json"])).unwrap();
    assert_eq!(all["region"]["total"], 1_073_741_824);
    assert_eq!(all["region"]["node"], 1);
    assert_eq!(all["stat"]["retired"], 2);
    let groups = all["groups"].as_array().unwrap();
    let paths: Vec<&str> = groups.iter().filter_map(|g| g["path"].as_str()).collect();
    assert_eq!(
        paths,
        ["/system.slice/db.service", "/system.slice/web.service"]
    );
    assert_eq!(groups[1]["coverage_ppm"], 997_750);
    assert_eq!(groups[1]["stat"]["deferred"], 77);
    assert_eq!(groups[1]["max_bytes"], 536_870_912);
    assert_eq!(groups[0]["stat"], Value::Null, "off: not read");

    let one: Value = serde_json::from_str(&fake.ok(&["--json", "status", "worker"])).unwrap();
    assert_eq!(one["mode"], "inherit");
    assert_eq!(one["mode_in_force"], "tracked");
}

#[test]
fn coverage_is_never_rounded_up() {
    let fake = Fake::loaded();
    fake.group("/a", "tracked", "protected 1000000\ncurrent 999999\n", "");
    let text = fake.ok(&["status"]);
    assert!(text.contains("99.99 %"), "{text}");
}

#[test]
fn colours_only_when_wanted() {
    let fake = Fake::busy();
    assert!(!fake.ok(&["status"]).contains('\x1b'), "no terminal");
    assert!(fake.ok(&["status", "--color", "always"]).contains('\x1b'));
}

#[test]
fn malformed_files_are_errors_and_not_numbers() {
    let web = "/sys/kernel/kmirror/cgroup/system.slice/web.service";
    for (file, text) in [
        (format!("{web}/mirror.stat"), "protected many\n"),
        (format!("{web}/mirror.events"), "restored\n"),
        (format!("{web}/mirror.max"), "-1\n"),
        (format!("{web}/mirror.current"), ""),
        (format!("{web}/mirror.interval_ms"), "1000 2000\n"),
        ("/sys/kernel/kmirror/region/node".into(), "one\n"),
        ("/sys/kernel/kmirror/region/total".into(), "1G\n"),
        ("/sys/kernel/kmirror/version".into(), "\n"),
    ] {
        let fake = Fake::busy();
        fake.write(&file, text);
        let (status, said) = fake.err(&["status"]);
        assert_eq!(status, 1, "{file}: {said}");
        assert!(said.contains(&file), "{said}");
        fake.write_bytes(&file, b"\xff\xfe");
        assert_eq!(fake.err(&["status"]).0, 1, "{file}");
    }
}

#[test]
fn a_cgroup_that_goes_is_left_out() {
    let fake = Fake::busy();
    // Its directory is being removed: some of its files are gone.
    std::fs::remove_file(
        fake.path("/sys/kernel/kmirror/cgroup/system.slice/db.service/mirror.mode"),
    )
    .unwrap();
    let text = fake.ok(&["status"]);
    assert!(!text.contains("db.service") && text.contains("web.service"));
}

#[test]
fn manual_and_completions() {
    let fake = Fake::bare();
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            fake.ok(&["completions", shell]).contains("interval"),
            "{shell}"
        );
    }
    let dir = fake.path("/man");
    fake.ok(&["man", dir.to_str().unwrap()]);
    let page = fake.read("/man/kmirrorctl.8");
    assert!(page.contains(".TH kmirrorctl 8"), "{page}");
    assert!(page.contains("doctor has found a fault"), "exit statuses");
    assert!(fake.read("/man/kmirrorctl-on.8").contains("interval"));
}
