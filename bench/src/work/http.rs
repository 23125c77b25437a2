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
    stream: BufReader<TcpStream>,
    rng: Rng,
    body: Vec<u8>,
}

fn files() -> Result<()> {
    fs::create_dir_all(WWW)?;
    for file in 0..FILES {
        fs::write(format!("{WWW}/{file}.bin"), vec![file as u8; BYTES])?;
    }
    Ok(())
}

impl Http {
    pub(super) fn nginx() -> Result<Self> {
        files()?;
        fs::write("/tmp/nginx.conf", NGINX)?;
        // What the last one has logged takes memory.
        let _ = fs::remove_file("/tmp/access.log");
        let nginx = command(&["nginx", "-c", "/tmp/nginx.conf"]);
        Self::new(serve(nginx, || TcpStream::connect(("127.0.0.1", PORT)))?)
    }

    pub(super) fn caddy() -> Result<Self> {
        files()?;
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
        Self::new(serve(caddy, || TcpStream::connect(("127.0.0.1", PORT)))?)
    }

    fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
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
            let file = self.rng.below(FILES);
            self.fetch(file)
        })
    }
}
