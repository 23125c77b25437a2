// SPDX-License-Identifier: GPL-2.0

//! A compressed RAM disk: a block device for direct I/O and for swapping.

use crate::case::skip;
use crate::{file, module, PAGE, PAGE_SIZE};
use anyhow::{Context, Result};
use nix::errno::Errno;
use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

const CONTROL: &str = "/sys/class/zram-control";

/// A disk of its own, which goes with the value.
#[derive(Debug)]
pub struct Zram {
    id: u64,
    swapping: bool,
}

impl Zram {
    /// A disk of so many bytes. Skips the test where there is no zram.
    pub fn new(bytes: u64) -> Result<Self> {
        if !Path::new(CONTROL).exists() && !module::probe("zram") {
            skip!("no zram");
        }
        // Reading it makes a new one.
        let id = file::number(Path::new(CONTROL).join("hot_add"))?;
        let zram = Self {
            id,
            swapping: false,
        };
        file::write(format!("/sys/block/zram{id}/disksize"), &bytes.to_string())?;
        Ok(zram)
    }

    /// The device.
    pub fn device(&self) -> PathBuf {
        PathBuf::from(format!("/dev/zram{}", self.id))
    }

    /// Begins to swap to it.
    pub fn swap_on(&mut self) -> Result<()> {
        let bytes = file::number(format!("/sys/block/zram{}/disksize", self.id))?;
        // The header of union swap_header in the kernel's include/linux/swap.h.
        let mut header = vec![0; PAGE_SIZE];
        header[1024..1028].copy_from_slice(&1u32.to_ne_bytes());
        let last = u32::try_from(bytes / PAGE - 1)?;
        header[1028..1032].copy_from_slice(&last.to_ne_bytes());
        header[PAGE_SIZE - 10..].copy_from_slice(b"SWAPSPACE2");
        let mut disk = OpenOptions::new().write(true).open(self.device())?;
        disk.write_all(&header)?;
        disk.sync_all()?;
        drop(disk);

        let path = self.path()?;
        // SAFETY: The path ends with NUL.
        Errno::result(unsafe { libc::swapon(path.to_bytes_with_nul().as_ptr().cast(), 0) })
            .context("swapon")?;
        self.swapping = true;
        Ok(())
    }

    fn path(&self) -> Result<CString> {
        Ok(CString::new(format!("/dev/zram{}", self.id))?)
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        if let (true, Ok(path)) = (self.swapping, self.path()) {
            // SAFETY: The path ends with NUL.
            unsafe { libc::swapoff(path.to_bytes_with_nul().as_ptr().cast()) };
        }
        // A disk that is still in use stays, which harms nobody.
        let _ = file::try_write(format!("/sys/block/zram{}/reset", self.id), "1");
        let _ = file::try_write(Path::new(CONTROL).join("hot_remove"), &self.id.to_string());
    }
}
