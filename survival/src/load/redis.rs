// SPDX-License-Identifier: GPL-2.0

//! A dictionary in redis.

use super::{fill, Client, PATIENCE};
use anyhow::{bail, ensure, Context, Result};
use kmirror_selftests::rng::{mix, Rng};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

const KEYS: u64 = 5000;
const BYTES: usize = 4000;
/// Values written, and values read, in a round; all sent in one go.
const BATCH: u64 = 4;
/// One value in so many is ever written again: the others rest, as most of a cache does.
const BUSY: u64 = 8;

/// One server's keys, and how often each was written.
pub(super) struct Keys {
    port: u16,
    stream: Option<BufReader<TcpStream>>,
    rng: Rng,
    versions: Vec<u64>,
    out: Vec<u8>,
    got: Vec<u8>,
    wanted: Vec<u8>,
}

impl Keys {
    pub(super) fn new(port: u16) -> Self {
        Self {
            port,
            stream: None,
            rng: Rng::new(port.into()),
            versions: vec![0; KEYS as usize],
            out: Vec::new(),
            got: vec![0; BYTES + 2],
            wanted: vec![0; BYTES],
        }
    }

    fn value(&mut self, key: u64) {
        let version = self.versions[key as usize];
        let seed = mix(u64::from(self.port) << 48 | version << 24 | key);
        fill(seed, &mut self.wanted);
    }

    fn ask_set(&mut self, key: u64) {
        self.versions[key as usize] += 1;
        self.value(key);
        let name = format!("key:{key}");
        let head = format!(
            "*3\r\n$3\r\nSET\r\n${}\r\n{name}\r\n${BYTES}\r\n",
            name.len()
        );
        self.out.extend_from_slice(head.as_bytes());
        self.out.extend_from_slice(&self.wanted);
        self.out.extend_from_slice(b"\r\n");
    }

    fn ask_get(&mut self, key: u64) {
        let name = format!("key:{key}");
        let text = format!("*2\r\n$3\r\nGET\r\n${}\r\n{name}\r\n", name.len());
        self.out.extend_from_slice(text.as_bytes());
    }

    fn send(&mut self) -> Result<()> {
        let stream = self.stream.as_mut().context("not connected")?;
        stream.get_mut().write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    fn head(&mut self) -> Result<String> {
        let stream = self.stream.as_mut().context("not connected")?;
        let mut line = String::new();
        ensure!(stream.read_line(&mut line)? > 0, "hung up");
        Ok(line.trim_end().to_owned())
    }

    fn expect_ok(&mut self) -> Result<()> {
        match self.head()?.as_str() {
            "+OK" => Ok(()),
            other => bail!("answer {other:?}"),
        }
    }

    fn expect_value(&mut self, key: u64) -> Result<()> {
        let head = self.head()?;
        ensure!(head == format!("${BYTES}"), "key {key}: answer {head:?}");
        let stream = self.stream.as_mut().context("not connected")?;
        stream.read_exact(&mut self.got)?;
        self.value(key);
        ensure!(
            self.got[..BYTES] == self.wanted,
            "key {key} has another value"
        );
        Ok(())
    }
}

impl Client for Keys {
    fn name(&self) -> String {
        format!("redis {}", self.port)
    }

    fn prepare(&mut self) -> Result<()> {
        let stream = super::connect(|| TcpStream::connect(("127.0.0.1", self.port)))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        self.stream = Some(BufReader::with_capacity(64 << 10, stream));
        for first in (0..KEYS).step_by(20) {
            let keys = first..(first + 20).min(KEYS);
            keys.clone().for_each(|key| self.ask_set(key));
            self.send()?;
            keys.clone().try_for_each(|_| self.expect_ok())?;
        }
        Ok(())
    }

    fn round(&mut self) -> Result<()> {
        let written: Vec<u64> = (0..BATCH).map(|_| self.rng.below(KEYS / BUSY)).collect();
        written.iter().for_each(|&key| self.ask_set(key));
        let read: Vec<u64> = (0..BATCH).map(|_| self.rng.below(KEYS)).collect();
        read.iter().for_each(|&key| self.ask_get(key));
        self.send()?;
        written.iter().try_for_each(|_| self.expect_ok())?;
        read.iter().try_for_each(|&key| self.expect_value(key))
    }

    fn check(&mut self) -> Result<()> {
        for first in (0..KEYS).step_by(20) {
            let keys = first..(first + 20).min(KEYS);
            keys.clone().for_each(|key| self.ask_get(key));
            self.send()?;
            keys.clone().try_for_each(|key| self.expect_value(key))?;
        }
        Ok(())
    }
}
