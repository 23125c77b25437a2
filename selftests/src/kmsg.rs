// SPDX-License-Identifier: GPL-2.0

//! Listening to what the kernel says while a test runs.

use anyhow::{Context, Result};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

/// What it says when something is wrong with it. Memory errors are reported in other words.
const COMPLAINTS: [&str; 12] = [
    "BUG:",
    "WARNING:",
    "Oops",
    "general protection fault",
    "KASAN",
    "UBSAN",
    "Bad page",
    "possible circular locking",
    "refcount_t:",
    "rcu_sched self-detected stall",
    "blocked for more than",
    "Call Trace",
];

/// The log, from a moment on.
#[derive(Debug)]
pub struct Log {
    file: File,
}

impl Log {
    /// From now on.
    pub fn from_now() -> Result<Self> {
        let mut log = Self::from_oldest()?;
        log.file.seek(SeekFrom::End(0))?;
        Ok(log)
    }

    /// From the oldest record that there still is.
    pub fn from_oldest() -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .context("/dev/kmsg")?;
        Ok(Self { file })
    }

    /// All complaints since then, or since this was called last.
    pub fn complaints(&mut self) -> Result<Vec<String>> {
        let mut lines = self.lines()?;
        lines.retain(|line| is_complaint(line));
        Ok(lines)
    }

    /// The first lines of all records since then.
    pub fn lines(&mut self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut record = [0; 8192];
        loop {
            match self.file.read(&mut record) {
                Ok(0) => return Ok(found),
                Ok(len) => {
                    // "priority,number,time,flags;text", then lines for programs.
                    let text = String::from_utf8_lossy(&record[..len]);
                    let text = text.split_once(';').map_or(&*text, |(_, text)| text);
                    found.push(text.lines().next().unwrap_or_default().to_owned());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(found),
                // Records were overwritten before they were read: go on with the oldest there is.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) => return Err(error).context("reading /dev/kmsg"),
            }
        }
    }
}

/// Whether a line of the log says that something is wrong with the kernel.
pub fn is_complaint(line: &str) -> bool {
    COMPLAINTS.iter().any(|sign| line.contains(sign))
}
