// SPDX-License-Identifier: GPL-2.0

//! Files that nginx serves.

use super::{fill, Client, PATIENCE};
use anyhow::{ensure, Context, Result};
use kmirror_selftests::rng::Rng;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;

const FILES: u64 = 240;
const BYTES: usize = 64 << 10;
/// Files fetched in a round.
const BATCH: u64 = 3;

fn seed(file: u64) -> u64 {
    0xf11e_0000 + file
}

/// Writes all of them.
pub(crate) fn write_files(dir: &Path) -> Result<()> {
    let mut body = vec![0; BYTES];
    for file in 0..FILES {
        fill(seed(file), &mut body);
        fs::write(dir.join(format!("{file}.bin")), &body)?;
    }
    Ok(())
}

/// A client that fetches them over one connection.
pub(super) struct Files {
    port: u16,
    stream: Option<BufReader<TcpStream>>,
    rng: Rng,
    body: Vec<u8>,
    wanted: Vec<u8>,
}

impl Files {
    pub(super) fn new(port: u16) -> Self {
        Self {
            port,
            stream: None,
            rng: Rng::new(3),
            body: vec![0; BYTES],
            wanted: vec![0; BYTES],
        }
    }

    fn fetch(&mut self, file: u64) -> Result<()> {
        let stream = self.stream.as_mut().context("not connected")?;
        write!(
            stream.get_mut(),
            "GET /{file}.bin HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )?;
        let mut status = String::new();
        let mut line = String::new();
        stream.read_line(&mut status)?;
        ensure!(
            status.starts_with("HTTP/1.1 200 "),
            "file {file}: answer {:?}",
            status.trim()
        );
        loop {
            line.clear();
            ensure!(stream.read_line(&mut line)? > 0, "hung up");
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(length) = line.strip_prefix("content-length: ") {
                ensure!(
                    length.parse() == Ok(BYTES),
                    "file {file}: {length} bytes long"
                );
            }
        }
        stream.read_exact(&mut self.body)?;
        fill(seed(file), &mut self.wanted);
        ensure!(self.body == self.wanted, "file {file} has other contents");
        Ok(())
    }
}

impl Client for Files {
    fn name(&self) -> String {
        "nginx".into()
    }

    fn prepare(&mut self) -> Result<()> {
        let stream = super::connect(|| TcpStream::connect(("127.0.0.1", self.port)))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        self.stream = Some(BufReader::with_capacity(BYTES, stream));
        self.check()
    }

    fn round(&mut self) -> Result<()> {
        (0..BATCH).try_for_each(|_| {
            let file = self.rng.below(FILES);
            self.fetch(file)
        })
    }

    fn check(&mut self) -> Result<()> {
        (0..FILES).try_for_each(|file| self.fetch(file))
    }
}
