// SPDX-License-Identifier: GPL-2.0

//! What kmirror shows and takes in sysfs.

use crate::cgroup::Cgroup;
use crate::{file, wait};
use anyhow::{Context, Result};
use std::io;
use std::path::{Path, PathBuf};

/// The top directory.
pub const ROOT: &str = "/sys/kernel/kmirror";

/// An interval of epochs so long that none runs by itself during a test.
pub const NEVER_MS: &str = "600000";

/// The directory of a cgroup.
#[derive(Clone, Debug)]
pub struct Mirror {
    dir: PathBuf,
}

impl Mirror {
    /// That of `cgroup`.
    pub fn of(cgroup: &Cgroup) -> Self {
        Self {
            dir: Path::new(ROOT).join("cgroup").join(cgroup.path()),
        }
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// One of its files; `name` without `mirror.`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("mirror.{name}"))
    }

    /// What a file says, without the newline.
    pub fn get(&self, name: &str) -> Result<String> {
        Ok(file::read(self.file(name))?.trim_end().to_owned())
    }

    /// The number in a file.
    pub fn number(&self, name: &str) -> Result<u64> {
        file::number(self.file(name))
    }

    /// Writes a file, with the kernel's own error.
    pub fn try_set(&self, name: &str, text: &str) -> io::Result<()> {
        file::try_write(self.file(name), text)
    }

    /// Writes a file.
    pub fn set(&self, name: &str, text: &str) -> Result<()> {
        file::write(self.file(name), text)
    }

    /// Switches protection on; epochs only run when somebody asks.
    pub fn track(&self) -> Result<()> {
        self.set("interval_ms", NEVER_MS)?;
        self.set("mode", "tracked")
    }

    /// Runs an epoch that copies everything.
    pub fn sync(&self) -> Result<()> {
        self.set("sync", "1")
    }

    /// Waits until `count` epochs more have ended. How many it were, which may be more. The first
    /// may have begun before the call.
    pub fn wait_epochs(&self, count: u64) -> Result<u64> {
        let before = self.stat("epochs")?;
        let mut more = 0;
        wait::until("more epochs", wait::BOUND, || {
            more = self.stat("epochs")? - before;
            Ok(more >= count)
        })?;
        Ok(more)
    }

    /// A number of mirror.stat.
    pub fn stat(&self, key: &str) -> Result<u64> {
        file::keyed(self.file("stat"), key)
    }

    /// A number of mirror.events.
    pub fn event(&self, key: &str) -> Result<u64> {
        file::keyed(self.file("events"), key)
    }
}

/// A number of the whole system's stat.
pub fn stat(key: &str) -> Result<u64> {
    file::keyed(Path::new(ROOT).join("stat"), key)
}

/// A file of the region.
pub fn region_file(name: &str) -> PathBuf {
    Path::new(ROOT).join("region").join(name)
}

/// Bytes of the region, all or those that are free.
pub fn region(name: &str) -> Result<u64> {
    file::number(region_file(name))
}

/// Grows or shrinks the region, with the kernel's own error.
pub fn resize(bytes: u64) -> io::Result<()> {
    file::try_write(region_file("total"), &bytes.to_string())
}

/// The frame of the replica of frame `pfn`, and the id of the cgroup that owns it.
pub fn replica_of(pfn: u64) -> Result<Option<(u64, u64)>> {
    let text = file::read("/sys/kernel/debug/kmirror/replicas")?;
    // Those that are in no frame of the region have a colon.
    for line in text.lines().filter(|line| !line.contains(':')) {
        let mut words = line.split(' ').map(str::parse::<u64>);
        let mut next = || -> Result<u64> { Ok(words.next().context("a short line")??) };
        let (primary, replica, owner) = (next()?, next()?, next()?);
        if primary == pfn {
            return Ok(Some((replica, owner)));
        }
    }
    Ok(None)
}
