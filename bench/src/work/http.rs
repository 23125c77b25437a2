// SPDX-License-Identifier: GPL-2.0

//! Servers of files over HTTP, with a client that asks for one after the other: nginx, in the place
//! of thttpd, and caddy, a server written in Go with its garbage collector.

use super::program::{command, serve};
use super::Work;
use anyhow::{ensure, Context, Result};
use kmirror_selftests::rng::Rng;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

const WWW: &str = "/tmp/www";
const PORT: u16 = 8080;
const FILES: u64 = 100;
const BYTES: usize = 16 << 10;
const FILES_PER_MIB: u64 = (1 << 20) / BYTES as u64;
/// Requests of a unit.
const BATCH: u64 = 20;

const NGINX: &str =
    "daemon off; user root; pid /tmp/nginx.pid; error_log /tmp/nginx.log; worker_processes 1;
events { worker_connections 64; }
http {
	access_log /tmp/access.log;
	sendfile on; tcp_nodelay on; keepalive_requests 100000000;
	client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
	uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
	server { listen 127.0.0.1:8080; root /tmp/www; }
}
";

pub(super) struct Http {
    files: u64,
    stream: BufReader<TcpStream>,
    rng: Rng,
    body: Vec<u8>,
}

fn make_files(count: u64) -> Result<()> {
    fs::create_dir_all(WWW)?;
    for file in 0..count {
        fs::write(format!("{WWW}/{file}.bin"), vec![file as u8; BYTES])?;
    }
    Ok(())
}

impl Http {
    pub(super) fn nginx() -> Result<Self> {
        Self::nginx_of(FILES)
    }

    /// With so many MiB of files.
    pub(super) fn nginx_with(mib: u64) -> Result<Self> {
        Self::nginx_of(mib * FILES_PER_MIB)
    }

    fn nginx_of(files: u64) -> Result<Self> {
        make_files(files)?;
        fs::write("/tmp/nginx.conf", NGINX)?;
        // What the last one has logged takes memory.
        let _ = fs::remove_file("/tmp/access.log");
        let nginx = command(&["nginx", "-c", "/tmp/nginx.conf"]);
        let stream = serve(nginx, || TcpStream::connect(("127.0.0.1", PORT)))?;
        Self::new(files, stream)
    }

    pub(super) fn caddy() -> Result<Self> {
        make_files(FILES)?;
        let mut caddy = command(&[
            "caddy",
            "file-server",
            "--listen",
            "127.0.0.1:8080",
            "--root",
            WWW,
        ]);
        caddy
            .env("HOME", "/tmp")
            .env("XDG_DATA_HOME", "/tmp")
            .env("XDG_CONFIG_HOME", "/tmp");
        let stream = serve(caddy, || TcpStream::connect(("127.0.0.1", PORT)))?;
        Self::new(FILES, stream)
    }

    fn new(files: u64, stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            files,
            stream: BufReader::with_capacity(BYTES, stream),
            rng: Rng::new(3),
            body: vec![0; BYTES],
        })
    }

    fn fetch(&mut self, file: u64) -> Result<()> {
        write!(
            self.stream.get_mut(),
            "GET /{file}.bin HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        ensure!(line.starts_with("HTTP/1.1 200 "), "file {file}: {line:?}");
        let mut length: Option<usize> = None;
        while line != "\r\n" {
            line.clear();
            ensure!(self.stream.read_line(&mut line)? > 0, "hung up");
            if let Some((key, value)) = line.split_once(": ") {
                if key.eq_ignore_ascii_case("content-length") {
                    length = value.trim().parse().ok();
                }
            }
        }
        ensure!(
            length.context("no length")? == BYTES,
            "file {file} has another length"
        );
        self.stream.read_exact(&mut self.body)?;
        ensure!(
            self.body.iter().all(|&byte| byte == file as u8),
            "file {file} has other contents"
        );
        Ok(())
    }
}

impl Work for Http {
    fn unit(&mut self) -> Result<()> {
        (0..BATCH).try_for_each(|_| {
            let file = self.rng.below(self.files);
            self.fetch(file)
        })
    }
}
