// SPDX-License-Identifier: GPL-2.0

//! Cgroups, version 2.

use crate::{file, wait};
use anyhow::{bail, ensure, Context, Result};
use nix::poll::PollFlags;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the hierarchy is mounted.
pub const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup, by its path below the root; the root's own is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// One that exists.
    pub fn at(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        Self {
            path: path.strip_prefix("/").unwrap_or(path).to_owned(),
        }
    }

    /// The one that a process is in.
    pub fn of(pid: i32) -> Result<Self> {
        let text = file::read(format!("/proc/{pid}/cgroup"))?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"));
        Ok(Self::at(path.context("no cgroup version 2")?))
    }

    /// Makes one below this.
    pub fn child(&self, name: &str) -> Result<Self> {
        let child = Self {
            path: self.path.join(name),
        };
        let dir = child.dir();
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        Ok(child)
    }

    /// The path below the root.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its directory.
    pub fn dir(&self) -> PathBuf {
        Path::new(ROOT).join(&self.path)
    }

    /// One of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Its number, which kmirror calls it by.
    pub fn id(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        Ok(fs::metadata(self.dir())?.ino())
    }

    /// Moves a process into it.
    pub fn add(&self, pid: i32) -> Result<()> {
        file::write(self.file("cgroup.procs"), &pid.to_string())
    }

    /// Has the memory of those below it counted for each, where the machine can. Without that, the
    /// pages of a file are those of an ancestor.
    pub fn count_memory(&self) -> Result<()> {
        if file::read(self.file("cgroup.controllers"))?.contains("memory") {
            file::write(self.file("cgroup.subtree_control"), "+memory")?;
        }
        Ok(())
    }

    /// Stops all its processes, and waits until they stand still. They go on when the value is
    /// dropped.
    pub fn freeze(&self) -> Result<Frozen<'_>> {
        // Made first, so that whatever goes wrong thaws it.
        let frozen = Frozen { cgroup: self };
        file::write(self.file("cgroup.freeze"), "1")?;
        self.wait_event("frozen", 1, wait::BOUND)?;
        Ok(frozen)
    }

    /// Kills all processes in it and below, and waits until they are gone.
    pub fn kill(&self) -> Result<()> {
        file::write(self.file("cgroup.kill"), "1")?;
        self.wait_event("populated", 0, wait::BOUND)
    }

    /// Removes it, which must be empty.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_dir(self.dir())
    }

    /// Kills what is in it and removes it with all below.
    pub fn remove_tree(&self) -> Result<()> {
        self.kill()?;
        remove_dirs(&self.dir())
    }

    /// Waits until cgroup.events says so.
    pub fn wait_event(&self, key: &str, value: u64, bound: Duration) -> Result<()> {
        let path = self.file("cgroup.events");
        let mut events = File::open(&path).with_context(|| format!("{}", path.display()))?;
        let line = format!("{key} {value}");
        let end = Instant::now() + bound;
        loop {
            // Reading before polling misses nothing: the poll ends for any change since.
            let mut text = String::new();
            events.rewind()?;
            events.read_to_string(&mut text)?;
            if text.lines().any(|have| have == line) {
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            let changed = wait::ready(events.as_fd(), PollFlags::POLLPRI, left)?;
            ensure!(changed, "{}: never \"{line}\"", path.display());
        }
    }
}

fn remove_dirs(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_dirs(&entry.path())?;
        }
    }
    if let Err(error) = fs::remove_dir(dir) {
        bail!("removing {}: {error}", dir.display());
    }
    Ok(())
}

/// A cgroup whose processes stand still.
#[derive(Debug)]
pub struct Frozen<'a> {
    cgroup: &'a Cgroup,
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        // Nothing to be done if the cgroup is gone.
        let _ = file::try_write(self.cgroup.file("cgroup.freeze"), "0");
    }
}
