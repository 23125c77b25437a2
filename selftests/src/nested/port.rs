// SPDX-License-Identifier: GPL-2.0

//! What L2 asks of L1, over a port of virtio-serial: one line each way.
//!
//! ```text
//! L2 -> L1   NUMBER ORDER [ARGUMENT]...
//! L1 -> L2   NUMBER ok [VALUE]...   or   NUMBER error TEXT
//! ```
//!
//! The number tells the answer of a process that was killed meanwhile from one's own.

use crate::wait;
use anyhow::{bail, ensure, Context, Result};
use nix::poll::PollFlags;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// L2's end.
const PATH: &str = "/dev/kmirror.port";

/// What L1 may take for an order. It starts processes, and saves a whole guest.
const BOUND: Duration = Duration::from_secs(120);

/// L1, as L2 sees it.
#[derive(Debug)]
pub struct Host {
    port: File,
    number: u64,
    text: Vec<u8>,
}

impl Host {
    /// Whether there is one.
    pub fn is_there() -> bool {
        Path::new(PATH).exists()
    }

    /// Opens the port, which one process at a time can.
    pub fn connect() -> Result<Self> {
        let port = OpenOptions::new().read(true).write(true).open(PATH);
        let port = port.context(PATH)?;
        Ok(Self {
            port,
            number: u64::from(std::process::id()) << 32,
            text: Vec::new(),
        })
    }

    /// Gives an order and returns the words of the answer.
    pub fn order(&mut self, order: &str) -> Result<Vec<String>> {
        self.number += 1;
        let number = self.number.to_string();
        // Waits until L1 has opened its end.
        self.port
            .write_all(format!("{number} {order}\n").as_bytes())
            .context(PATH)?;
        let end = Instant::now() + BOUND;
        loop {
            let line = self.line(end).with_context(|| format!("L1: {order}"))?;
            let mut words = line.split(' ');
            if words.next() != Some(&number) {
                continue;
            }
            match words.next() {
                Some("ok") => return Ok(words.map(str::to_owned).collect()),
                _ => bail!("L1: {order}: {}", words.collect::<Vec<_>>().join(" ")),
            }
        }
    }

    /// The same, for what answers a number.
    pub fn number(&mut self, order: &str) -> Result<u64> {
        let words = self.order(order)?;
        let word = words.first().context("no number")?;
        word.parse().with_context(|| format!("{order}: {word}"))
    }

    /// Breaks the memory behind a frame. When this returns, whoever touches it has a machine check; the
    /// report to those who do not is under way.
    pub fn poison(&mut self, frame: u64) -> Result<()> {
        self.order(&format!("poison {frame}")).map(|_| ())
    }

    fn line(&mut self, end: Instant) -> Result<String> {
        loop {
            if let Some(len) = self.text.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=len).collect();
                return Ok(String::from_utf8_lossy(&line[..len]).into_owned());
            }
            let left = end.saturating_duration_since(Instant::now());
            let came = wait::ready(self.port.as_fd(), PollFlags::POLLIN, left)?;
            ensure!(came, "no answer within {} s", BOUND.as_secs());
            let mut buf = [0; 512];
            match self.port.read(&mut buf) {
                Ok(0) => bail!("nobody is at the other end"),
                Ok(len) => self.text.extend_from_slice(&buf[..len]),
                Err(error) => return Err(error).context(PATH),
            }
        }
    }
}
