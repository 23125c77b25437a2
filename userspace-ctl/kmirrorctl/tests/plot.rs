// SPDX-License-Identifier: GPL-2.0

//! `plot`: pictures of a recording.

mod fake;

use fake::Fake;
use std::fs;

fn recording() -> String {
    let samples: Vec<String> = (0..60)
        .map(|n| {
            let dip = if (20..26).contains(&n) { 120_000 } else { 2_000 + n * 10 };
            let busy = if (20..30).contains(&n) { 9_000.0 } else { 400.0 };
            format!(
                r#"{{"seconds":{n}.0,"coverage_ppm":{},"protected_bytes":67108864,"replica_bytes":66060288,"copied":{busy},"cpu":{}}}"#,
                1_000_000 - dip,
                0.01 + busy / 100_000.0
            )
        })
        .collect();
    format!(
        r#"{{"cgroup":"/system.slice/web.service","interval_ms":1000,"samples":[{}]}}"#,
        samples.join(",")
    )
}

#[test]
fn both_kinds_of_pictures() {
    let fake = Fake::busy();
    fake.write("/rec.json", &recording());
    let rec = fake.path("/rec.json");
    for (name, magic) in [("/a.svg", &b"<svg"[..]), ("/a.png", b"\x89PNG")] {
        let out = fake.path(name);
        let args = [
            "plot",
            "--from",
            rec.to_str().unwrap(),
            "-o",
            out.to_str().unwrap(),
        ];
        let text = fake.ok(&args);
        assert!(text.contains("worst 88.00 %"), "{text}");
        let bytes = fs::read(&out).unwrap();
        assert!(bytes.starts_with(magic), "{name}");
        if name == "/a.svg" {
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.contains("Coverage and cost of /system.slice/web.service"));
            assert!(text.contains("pages covered") && text.contains("seconds"));
        }
    }
    // To look at it: KEEP=directory.
    if let Some(dir) = std::env::var_os("KEEP") {
        for name in ["a.svg", "a.png"] {
            fs::copy(fake.path(name), std::path::Path::new(&dir).join(name)).unwrap();
        }
    }
}

#[test]
fn a_cgroup_is_recorded() {
    let fake = Fake::busy();
    let (out, rec) = (fake.path("/b.svg"), fake.path("/b.json"));
    fake.ok(&[
        "plot",
        "web.service",
        "--time",
        "1",
        "--every",
        "250",
        "-o",
        out.to_str().unwrap(),
        "--save",
        rec.to_str().unwrap(),
    ]);
    let saved: serde_json::Value = serde_json::from_str(&fake.read("/b.json")).unwrap();
    assert_eq!(saved["samples"].as_array().unwrap().len(), 5);
    assert_eq!(saved["samples"][3]["coverage_ppm"], 997_750);
    let again = fake.path("/c.svg");
    fake.ok(&[
        "plot",
        "--from",
        rec.to_str().unwrap(),
        "-o",
        again.to_str().unwrap(),
    ]);
    assert_eq!(fake.read("/b.svg"), fake.read("/c.svg"));
}

#[test]
fn what_cannot_be_drawn_is_said_first() {
    let fake = Fake::busy();
    for args in [
        &["plot", "web.service", "-o", "x.gif"][..],
        &["plot", "-o", "x.svg"],
    ] {
        assert_eq!(fake.err(args).0, 2, "{args:?}");
    }
    let (status, text) = fake.err(&["plot", "db.service", "-o", "x.svg"]);
    assert_eq!(status, 1);
    assert!(text.contains("not protected"), "{text}");
    for text in [
        "",
        "{}",
        r#"{"cgroup":"/","interval_ms":1,"samples":[{"seconds":1}]}"#,
    ] {
        fake.write("/bad.json", text);
        let bad = fake.path("/bad.json");
        assert_eq!(
            fake.err(&["plot", "--from", bad.to_str().unwrap(), "-o", "x.svg"])
                .0,
            2
        );
    }
}
