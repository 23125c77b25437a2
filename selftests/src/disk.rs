// SPDX-License-Identifier: GPL-2.0

//! File systems for files to be lost from.

use crate::case::{skip, Context};
use crate::file;
use crate::zram::Zram;
use anyhow::{ensure, Context as _, Result};
use nix::mount::{mount, umount, MsFlags};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of the test's own, where the victim looks for it.
#[derive(Debug)]
pub struct Disk {
    /// Where file systems are mounted; the last one is that of the test.
    mounts: Vec<PathBuf>,
    zram: Option<Zram>,
}

impl Disk {
    /// One in memory.
    pub fn tmpfs(cx: &Context) -> Result<Self> {
        let mut disk = Self {
            mounts: Vec::new(),
            zram: None,
        };
        disk.mount(place(cx, "")?, Path::new("none"), "tmpfs", "")?;
        Ok(disk)
    }

    /// ext4 on a RAM disk. Skips the test where there is none.
    pub fn ext4(cx: &Context) -> Result<Self> {
        Self::ext4_at(place(cx, "")?)
    }

    fn ext4_at(at: PathBuf) -> Result<Self> {
        must_know("ext4")?;
        let zram = Zram::new(64 << 20)?;
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F"])
            .arg(zram.device()))?;
        let device = zram.device();
        let mut disk = Self {
            mounts: Vec::new(),
            zram: Some(zram),
        };
        disk.mount(at, &device, "ext4", "")?;
        Ok(disk)
    }

    /// As a container has it: an image of erofs that is only read, and ext4 for what is written. The
    /// [file](Self::file) is in the image, so many `bytes` long.
    pub fn overlay(cx: &Context, bytes: u64) -> Result<Self> {
        must_know("overlay")?;
        must_know("erofs")?;
        let mut disk = Self::ext4_at(place(cx, ".upper")?)?;
        let below = disk.mounts[0].clone();
        let [content, image, upper, work] =
            ["content", "image", "upper", "work"].map(|name| below.join(name));
        for dir in [&content, &upper, &work] {
            std::fs::create_dir(dir)?;
        }
        std::fs::write(content.join("f"), vec![0; usize::try_from(bytes)?])?;
        run(Command::new("mkfs.erofs").arg(&image).arg(&content))?;
        let lower = place(cx, ".lower")?;
        disk.mount(lower.clone(), &image, "erofs", "")?;
        let [lower, upper, work] = [&lower, &upper, &work].map(|path| path.display());
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        disk.mount(place(cx, "")?, Path::new("none"), "overlay", &options)?;
        Ok(disk)
    }

    fn mount(&mut self, at: PathBuf, what: &Path, kind: &str, options: &str) -> Result<()> {
        mount(Some(what), &at, Some(kind), MsFlags::empty(), Some(options))
            .with_context(|| format!("mounting {kind} at {}", at.display()))?;
        self.mounts.push(at);
        Ok(())
    }

    /// Whether there is a disk behind it.
    pub fn is_real(&self) -> bool {
        self.zram.is_some()
    }

    /// A file in it.
    pub fn file(&self) -> PathBuf {
        self.mounts
            .last()
            .map_or_else(PathBuf::new, |at| at.join("f"))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for at in self.mounts.iter().rev() {
            let _ = umount(at);
            let _ = std::fs::remove_dir(at);
        }
    }
}

/// A directory of this test's to mount something at.
fn place(cx: &Context, suffix: &str) -> Result<PathBuf> {
    let name = cx.cgroup.path().file_name().context("no name")?;
    let at = Path::new("/run").join(format!("{}{suffix}", name.to_string_lossy()));
    std::fs::create_dir_all(&at)?;
    Ok(at)
}

/// Skips the test if the kernel does not have this file system.
fn must_know(kind: &str) -> Result<()> {
    if !file::read("/proc/filesystems")?.contains(kind) {
        skip!("no {kind}");
    }
    Ok(())
}

/// Makes a file system. Skips the test where there is no program for it.
fn run(command: &mut Command) -> Result<()> {
    match command.output() {
        Ok(made) => ensure!(made.status.success(), "{command:?}: {made:?}"),
        Err(_) => skip!("no {}", command.get_program().to_string_lossy()),
    }
    Ok(())
}
