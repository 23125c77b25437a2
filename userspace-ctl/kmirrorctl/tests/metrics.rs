// SPDX-License-Identifier: GPL-2.0

//! `exporter`, and the generator for systemd.

mod fake;

use fake::{golden, Fake};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn all_numbers_are_there() {
    let fake = Fake::busy();
    golden("metrics", &fake.ok(&["exporter"]));
}

#[test]
fn a_textfile_is_written_whole_or_not() {
    let fake = Fake::busy();
    let file = fake.path("/kmirror.prom");
    fake.ok(&["exporter", "--textfile", file.to_str().unwrap()]);
    let text = fake.read("/kmirror.prom");
    assert!(text.contains("kmirror_coverage_ratio") && text.ends_with("# EOF\n"));
    // When there is nothing to tell, the old file stays, with its age.
    fake.write("/sys/kernel/kmirror/stat", "nonsense\n");
    assert_eq!(
        fake.err(&["exporter", "--textfile", file.to_str().unwrap()])
            .0,
        1
    );
    assert_eq!(fake.read("/kmirror.prom"), text);
}

fn ask(socket: &std::path::Path, what: &str) -> String {
    let end = Instant::now() + Duration::from_secs(20);
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::yield_now();
    };
    let request = format!("{what} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn it_is_served() {
    let fake = Fake::busy();
    let socket = fake.path("/metrics.sock");
    let listen = format!("unix:{}", socket.display());
    let mut server = fake
        .command(&["exporter", "--listen", &listen])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let text = ask(&socket, "GET /metrics");
    assert!(
        text.starts_with("HTTP/1.1 200") && text.contains("openmetrics-text"),
        "{text}"
    );
    assert!(text.contains("kmirror_region_bytes{} 1073741824"), "{text}");
    assert!(ask(&socket, "GET /").starts_with("HTTP/1.1 404"));
    assert!(ask(&socket, "POST /metrics").starts_with("HTTP/1.1 405"));
    fake.write("/sys/kernel/kmirror/stat", "nonsense\n");
    assert!(ask(&socket, "GET /metrics").starts_with("HTTP/1.1 503"));
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn only_on_loopback() {
    let fake = Fake::busy();
    for place in ["0.0.0.0:9943", "192.0.2.1:9943", "somewhere"] {
        assert_eq!(fake.err(&["exporter", "--listen", place]).0, 2, "{place}");
    }
}

#[test]
fn units_that_ask_get_a_drop_in() {
    let fake = Fake::bare();
    fake.write(
        "/etc/a.service.d/x.conf",
        "[X-Kmirror]\nMirrorMode=tracked\n",
    );
    fake.write("/etc/b.service", "[Service]\nExecStart=/bin/true\n");
    let status = Command::new(env!("CARGO_BIN_EXE_kmirror-generator"))
        .arg(fake.path("/out"))
        .env("SYSTEMD_UNIT_PATH", fake.path("/etc"))
        .status()
        .unwrap();
    assert!(status.success());
    let text = fake.read("/out/a.service.d/50-kmirror.conf");
    assert!(text.contains("Wants=kmirror@%n.service"), "{text}");
    assert!(!fake.path("/out/b.service.d").exists());
}
