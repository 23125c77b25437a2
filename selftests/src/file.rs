// SPDX-License-Identifier: GPL-2.0

//! Reading and writing the small files of /proc and /sys.

use anyhow::{Context, Result};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// The whole text.
pub fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// The text without the newline, as a number.
pub fn number(path: impl AsRef<Path>) -> Result<u64> {
    let path = path.as_ref();
    let text = read(path)?;
    text.trim()
        .parse()
        .with_context(|| format!("{}: {text:?} is no number", path.display()))
}

/// Writes `text` to a file that exists, in one piece, with the kernel's own error.
pub fn try_write(path: impl AsRef<Path>, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

/// The same, for what must work.
pub fn write(path: impl AsRef<Path>, text: &str) -> Result<()> {
    let path = path.as_ref();
    try_write(path, text).with_context(|| format!("writing {text:?} to {}", path.display()))
}

/// The number after `key` in a flat-keyed file (`key value` or `key: value` on each line).
pub fn keyed(path: impl AsRef<Path>, key: &str) -> Result<u64> {
    let path = path.as_ref();
    read(path)?
        .lines()
        .filter_map(|line| line.split_once([' ', ':']))
        .find(|(name, _)| *name == key)
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no {key} in {}", path.display()))
}

/// A line of /proc/meminfo, in kB.
pub fn meminfo(key: &str) -> Result<u64> {
    keyed("/proc/meminfo", key)
}

/// A setting of the machine that a test has changed. It gets its old value back.
#[derive(Debug)]
pub struct Setting {
    path: String,
    old: String,
}

impl Setting {
    /// Changes it. Of a list of words the one in brackets is the value.
    pub fn change(path: &str, value: &str) -> Result<Self> {
        let text = read(path)?;
        let old = match text
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'))
        {
            Some((word, _)) => word.to_owned(),
            None => text.trim().to_owned(),
        };
        write(path, value)?;
        Ok(Self {
            path: path.to_owned(),
            old,
        })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = try_write(&self.path, &self.old);
    }
}
