// SPDX-License-Identifier: GPL-2.0

//! `exporter`, and the generator for systemd.

mod fake;

use fake::{golden, Fake};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
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

#[test]
fn a_textfile_is_replaced_and_not_written_over() {
    use std::os::unix::fs::PermissionsExt;
    let fake = Fake::busy();
    let file = fake.path("/kmirror.prom");
    fake.write("/kmirror.prom", "what was there before\n");
    let mut reader = std::fs::File::open(&file).unwrap();
    fake.ok(&["exporter", "--textfile", file.to_str().unwrap()]);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "what was there before\n", "a reader has half of each");
    let mode = file.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "the node exporter is not root");
    let left = std::fs::read_dir(fake.root()).unwrap();
    let left = left.filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with(".kmirror")
    });
    assert_eq!(left.count(), 0, "what it was written to first is gone");
}

/// An exporter, which ends with the value: a test that fails must not leave it behind.
struct Exporter(Child);

impl Exporter {
    fn start(fake: &Fake, args: &[&str]) -> Self {
        let mut command = fake.command(args);
        Self(command.stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
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
    let _server = Exporter::start(&fake, &["exporter", "--listen", &listen]);
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
}

#[test]
fn a_socket_that_is_served_is_not_taken_away() {
    let fake = Fake::busy();
    let socket = fake.path("/metrics.sock");
    let listen = format!("unix:{}", socket.display());
    let args = ["exporter", "--listen", &listen];
    // One that was left behind is.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let _server = Exporter::start(&fake, &args);
    assert!(ask(&socket, "GET /metrics").starts_with("HTTP/1.1 200"));
    let (status, text) = fake.err(&args);
    assert_eq!(status, 1);
    assert!(text.contains("another exporter"), "{text}");
    assert!(ask(&socket, "GET /metrics").starts_with("HTTP/1.1 200"));
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
