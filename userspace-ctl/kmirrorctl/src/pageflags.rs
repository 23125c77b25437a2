// SPDX-License-Identifier: GPL-2.0

//! What the kernel says about a frame in `/proc/kpageflags`, and about an address in
//! `/proc/PID/pagemap`. Formats: Documentation/admin-guide/mm/pagemap.rst.

use crate::error::{Error, Kind, Result};
use crate::system::System;
use crate::units::PAGE;
use serde::Serialize;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Names of the bits of `/proc/kpageflags`, from include/uapi/linux/kernel-page-flags.h and
/// include/linux/kernel-page-flags.h.
const NAMES: [(u32, &str); 26] = [
    (0, "locked"),
    (2, "referenced"),
    (3, "uptodate"),
    (4, "dirty"),
    (5, "lru"),
    (6, "active"),
    (7, "slab"),
    (8, "writeback"),
    (9, "reclaim"),
    (10, "buddy"),
    (11, "mmap"),
    (12, "anon"),
    (13, "swapcache"),
    (14, "swapbacked"),
    (15, "head"),
    (16, "tail"),
    (17, "huge"),
    (18, "unevictable"),
    (19, "hwpoison"),
    (20, "nopage"),
    (21, "ksm"),
    (22, "thp"),
    (23, "offline"),
    (24, "zero_page"),
    (26, "pgtable"),
    (43, "mirrored"),
];

/// The flags of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageFlags(pub u64);

impl PageFlags {
    /// Reads those of a frame.
    pub fn read(system: &System, pfn: u64) -> Result<Self> {
        word(&system.path("/proc/kpageflags"), pfn).map(Self)
    }

    /// Whether the flag of this name is set.
    pub fn has(self, name: &str) -> bool {
        NAMES
            .iter()
            .any(|&(bit, known)| known == name && self.0 >> bit & 1 != 0)
    }

    /// The names of all that are set.
    pub fn names(self) -> Vec<&'static str> {
        NAMES
            .iter()
            .filter(|(bit, _)| self.0 >> bit & 1 != 0)
            .map(|&(_, name)| name)
            .collect()
    }
}

impl Serialize for PageFlags {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_seq(self.names())
    }
}

/// How often a frame is mapped; `None` where `/proc/kpagecount` does not tell.
pub fn map_count(system: &System, pfn: u64) -> Option<u64> {
    word(&system.path("/proc/kpagecount"), pfn).ok()
}

/// What the page tables of a process have at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// This frame.
    Present(u64),
    /// A swap entry of any kind, also that of a page under migration, or lost.
    Swapped,
    /// Nothing.
    None,
}

impl Entry {
    /// Takes a word of `/proc/PID/pagemap` apart.
    pub fn of(word: u64) -> Self {
        if word >> 63 & 1 != 0 {
            Self::Present(word & ((1 << 55) - 1))
        } else if word >> 62 & 1 != 0 {
            Self::Swapped
        } else {
            Self::None
        }
    }

    /// Looks an address of a process up.
    pub fn read(system: &System, pid: u32, addr: u64) -> Result<Self> {
        let entry = word(&system.process(pid, "pagemap"), addr / PAGE).map(Self::of)?;
        if entry == Self::Present(0) {
            // Nobody but root is told frame numbers.
            return Err(Error::new(
                Kind::Denied,
                "the kernel tells frame numbers to root only; run this with sudo",
            ));
        }
        Ok(entry)
    }
}

/// Looks many addresses up, from `start` on.
pub fn entries(system: &System, pid: u32, start: u64, pages: usize) -> Result<Vec<Entry>> {
    let path = system.process(pid, "pagemap");
    let mut bytes = vec![0; pages * 8];
    let file = File::open(&path).map_err(|error| Error::file(&path, &error))?;
    let len = file
        .read_at(&mut bytes, start / PAGE * 8)
        .map_err(|error| Error::file(&path, &error))?;
    Ok(bytes[..len]
        .chunks_exact(8)
        .map(|word| Entry::of(number(word)))
        .collect())
}

/// The word at an index of a file of words.
fn word(path: &Path, index: u64) -> Result<u64> {
    let mut bytes = [0; 8];
    let read = || -> io::Result<()> { File::open(path)?.read_exact_at(&mut bytes, index * 8) };
    let mut read = read;
    match read() {
        Ok(()) => Ok(number(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Error::missing(format!(
            "{} ends before entry {index:#x}; is the address right?",
            path.display()
        ))),
        Err(error) => Err(Error::file(path, &error)),
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_taken_apart() {
        assert_eq!(Entry::of(0), Entry::None);
        assert_eq!(
            Entry::of(1 << 63 | 1 << 55 | 0x1234),
            Entry::Present(0x1234)
        );
        assert_eq!(Entry::of(1 << 62 | 5), Entry::Swapped);
        assert_eq!(Entry::of(1 << 61), Entry::None);
    }

    #[test]
    fn flags_have_names() {
        let flags = PageFlags(1 << 43 | 1 << 12 | 1 << 14);
        assert_eq!(flags.names(), ["anon", "swapbacked", "mirrored"]);
        assert!(flags.has("mirrored") && !flags.has("ksm") && !flags.has("nothing"));
    }
}
