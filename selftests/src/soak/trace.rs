// SPDX-License-Identifier: GPL-2.0

//! What the kernel's tracepoints say about an error: the only place that names frame and reason.

use crate::file;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const INSTANCE: &str = "/sys/kernel/tracing/instances/kmirror-soak";

/// What has become of one frame.
#[derive(Clone, Debug, Default)]
pub(super) struct Fate {
    /// To which frame kmirror has restored it.
    pub(super) restored: Option<u64>,
    /// Why kmirror did not.
    pub(super) refused: Option<String>,
    /// A replica was in it.
    pub(super) replica: bool,
    /// How the kernel calls it, and what it made of it.
    pub(super) kernel: Option<String>,
}

/// A buffer of tracepoints of its own.
pub(super) struct Trace {
    pipe: File,
}

impl Trace {
    /// Begins to listen. kmirror must be loaded.
    pub(super) fn new() -> Result<Self> {
        let dir = Path::new(INSTANCE);
        let _ = fs::remove_dir(dir);
        fs::create_dir(dir).context("no tracing")?;
        for event in [
            "kmirror/kmirror_restore",
            "kmirror/kmirror_refuse",
            "kmirror/kmirror_replica_lost",
            "ras/memory_failure_event",
        ] {
            file::write(dir.join("events").join(event).join("enable"), "1")?;
        }
        let pipe = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(dir.join("trace_pipe"))?;
        Ok(Self { pipe })
    }

    /// The fates of all frames that were reported since this was called last.
    pub(super) fn fates(&mut self) -> Result<BTreeMap<u64, Fate>> {
        let mut text = Vec::new();
        let mut buf = vec![0; 1 << 16];
        loop {
            match self.pipe.read(&mut buf) {
                Ok(0) => break,
                Ok(len) => text.extend_from_slice(&buf[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("trace_pipe"),
            }
        }
        let mut fates = BTreeMap::new();
        for line in String::from_utf8_lossy(&text).lines() {
            note(&mut fates, line);
        }
        Ok(fates)
    }
}

fn note(fates: &mut BTreeMap<u64, Fate>, line: &str) -> Option<()> {
    let value = |key: &str| {
        let rest = line.split_once(key)?.1;
        Some(rest.split([' ', ':']).next().unwrap_or(rest))
    };
    let hex = |key| {
        let text: &str = value(key)?;
        u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()
    };
    let fate: &mut Fate = fates
        .entry(hex(" pfn=").or_else(|| hex("pfn "))?)
        .or_default();
    if line.contains("kmirror_restore:") {
        fate.restored = Some(hex(" to=")?);
    } else if line.contains("kmirror_refuse:") {
        fate.refused = Some(value(" why=")?.to_owned());
    } else if line.contains("kmirror_replica_lost:") {
        fate.replica = true;
    } else if let Some((_, action)) = line.split_once("recovery action for ") {
        fate.kernel = Some(action.to_owned());
    }
    Some(())
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = file::try_write(Path::new(INSTANCE).join("tracing_on"), "0");
        // It can be removed once the pipe is closed, which the next one to begin sees to.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        let mut fates = BTreeMap::new();
        for line in [
            " x-1 [000] ..... 1.0: kmirror_restore: cgroup=7 pfn=0x1a to=0x2b",
            " x-1 [000] ..... 1.0: memory_failure_event: pfn 0x1a: recovery action for mirrored page: Recovered",
            " x-1 [000] ..... 1.0: kmirror_refuse: cgroup=7 pfn=0x1c why=stale",
        ] {
            note(&mut fates, line).unwrap();
        }
        assert_eq!(fates[&0x1a].restored, Some(0x2b));
        assert_eq!(
            fates[&0x1a].kernel.as_deref(),
            Some("mirrored page: Recovered")
        );
        assert_eq!(fates[&0x1c].refused.as_deref(), Some("stale"));
    }
}
