// SPDX-License-Identifier: GPL-2.0

//! Which frame is where, and what the kernel says about it.

use crate::{file, PAGE};
use anyhow::{ensure, Context, Result};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// KPF_COMPOUND_HEAD or KPF_COMPOUND_TAIL: part of a large folio.
pub const LARGE: u64 = 1 << 15 | 1 << 16;
/// KPF_HWPOISON: retired, its contents are lost.
pub const HWPOISON: u64 = 1 << 19;
/// KPF_KSM: shared by KSM.
pub const KSM: u64 = 1 << 21;
/// KPF_THP: part of a transparent huge page.
pub const THP: u64 = 1 << 22;
/// KPF_OFFLINE: nobody's but its owner's; here, of the mirror region.
pub const OFFLINE: u64 = 1 << 23;
/// KPF_MLOCKED: locked in memory.
pub const MLOCKED: u64 = 1 << 33;
/// KPF_MIRRORED: has a replica that the page tables can prove current.
pub const MIRRORED: u64 = 1 << 43;

/// What the page tables of a process say about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// This frame.
    Present(u64),
    /// A swap entry of any kind, also that of a page under migration or lost.
    Swapped,
    /// Nothing.
    None,
}

/// The page tables of a process.
#[derive(Debug)]
pub struct Table {
    file: File,
}

impl Table {
    /// Those of `pid`.
    pub fn of(pid: i32) -> Result<Self> {
        let path = format!("/proc/{pid}/pagemap");
        let file = File::open(&path).context(path)?;
        Ok(Self { file })
    }

    /// Looks an address up.
    pub fn entry(&self, addr: u64) -> Result<Entry> {
        let mut raw = [0; 8];
        self.file
            .read_exact_at(&mut raw, addr / PAGE * 8)
            .context("pagemap")?;
        let raw = u64::from_ne_bytes(raw);
        Ok(if raw & 1 << 63 != 0 {
            Entry::Present(raw & ((1 << 55) - 1))
        } else if raw & 1 << 62 != 0 {
            Entry::Swapped
        } else {
            Entry::None
        })
    }
}

/// Looks an address of a process up.
pub fn entry(pid: i32, addr: u64) -> Result<Entry> {
    Table::of(pid)?.entry(addr)
}

/// The frame at an address.
pub fn frame(pid: i32, addr: u64) -> Result<u64> {
    match entry(pid, addr)? {
        Entry::Present(pfn) => {
            ensure!(pfn != 0, "the kernel does not tell frame numbers: not root");
            Ok(pfn)
        }
        other => anyhow::bail!("no page at {addr:#x} of {pid}: {other:?}"),
    }
}

/// The flags of a frame.
pub fn flags(pfn: u64) -> Result<u64> {
    let mut raw = [0; 8];
    File::open("/proc/kpageflags")
        .and_then(|file| file.read_exact_at(&mut raw, pfn * 8))
        .context("/proc/kpageflags")?;
    Ok(u64::from_ne_bytes(raw))
}

/// How many frames of the whole machine have all of `flags`.
pub fn count_flags(flags: u64) -> Result<u64> {
    let mut file = File::open("/proc/kpageflags")?;
    let mut buf = vec![0; 1 << 16];
    let mut count = 0;
    loop {
        let len = file.read(&mut buf)?;
        if len == 0 {
            return Ok(count);
        }
        let words = buf[..len].chunks_exact(8);
        count += words
            .filter(|word| {
                u64::from_ne_bytes((*word).try_into().unwrap_or_default()) & flags == flags
            })
            .count() as u64;
    }
}

/// How many of these frames have all of `flags`.
pub fn count_flags_in(frames: Range<u64>, flags: u64) -> Result<u64> {
    let mut raw = vec![0; usize::try_from(frames.end - frames.start)? * 8];
    File::open("/proc/kpageflags")
        .and_then(|file| file.read_exact_at(&mut raw, frames.start * 8))
        .context("/proc/kpageflags")?;
    let words = raw.chunks_exact(8);
    let words = words.map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()));
    Ok(words.filter(|word| word & flags == flags).count() as u64)
}

/// Fails if any frame of the machine still has PG_mirrored.
pub fn must_be_none_mirrored() -> Result<()> {
    let (left, broken) = (count_flags(MIRRORED)?, count_flags(MIRRORED | HWPOISON)?);
    ensure!(
        left == 0,
        "{left} frames of the machine are still mirrored, {broken} of them retired"
    );
    Ok(())
}

/// kB of memory that is retired.
pub fn corrupted_kb() -> Result<u64> {
    file::meminfo("HardwareCorrupted")
}
