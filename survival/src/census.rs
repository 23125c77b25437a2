// SPDX-License-Identifier: GPL-2.0

//! Who owns which frame, as /proc and debugfs tell.

use anyhow::{Context, Result};
use kmirror_selftests::pagemap::{HWPOISON, MIRRORED, THP};
use kmirror_selftests::{file, PAGE};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

const DIRTY: u64 = 1 << 4;
const LRU: u64 = 1 << 5;
const SLAB: u64 = 1 << 7;
const WRITEBACK: u64 = 1 << 8;
const BUDDY: u64 = 1 << 10;
const MMAP: u64 = 1 << 11;
const ANON: u64 = 1 << 12;
const SWAPBACKED: u64 = 1 << 14;
const HUGE: u64 = 1 << 17;
const NOPAGE: u64 = 1 << 20;
/// Of the mirror region, which says by that that it can be taken offline.
const OFFLINE: u64 = 1 << 23;
const PGTABLE: u64 = 1 << 26;

/// Frames of a block of the mirror region.
const BLOCK: u64 = 512;

/// Classes of owners, by the letter that stands for them between guest and host.
///
/// `X` is no frame of RAM, or one that is retired already: nothing that could break.
pub(crate) const NONE: char = 'X';

/// A part of the machine's memory.
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Frames that are wholly within the lines of /proc/iomem whose name is wanted.
    fn iomem(wanted: impl Fn(&str) -> bool) -> Result<Self> {
        let mut ranges = Vec::new();
        for line in file::read("/proc/iomem")?.lines() {
            let (range, name) = line.split_once(" : ").context("/proc/iomem")?;
            let (start, end) = range.trim().split_once('-').context("/proc/iomem")?;
            let (start, end) = (
                u64::from_str_radix(start, 16)?,
                u64::from_str_radix(end, 16)?,
            );
            if wanted(name) {
                ranges.push((start.div_ceil(PAGE), (end + 1) / PAGE));
            }
        }
        Ok(Self(ranges))
    }

    fn has(&self, pfn: u64) -> bool {
        self.0
            .iter()
            .any(|&(start, end)| (start..end).contains(&pfn))
    }
}

/// What is known about one frame.
pub(crate) struct Frame {
    pub(crate) class: char,
    pub(crate) flags: u64,
    pub(crate) mappings: u64,
    pub(crate) inside: bool,
    pub(crate) replica: Option<u64>,
}

/// The state of all frames at one moment.
pub(crate) struct Census {
    ram: Ranges,
    kernel: Ranges,
    slice: u64,
    replicas: HashMap<u64, u64>,
    region: HashSet<u64>,
    flags: File,
    counts: File,
    cgroups: File,
}

impl Census {
    /// Looks at what changes: which replicas there are. `slice` is the id of the protected cgroup.
    pub(crate) fn take(slice: u64) -> Result<Self> {
        let mut replicas = HashMap::new();
        let list = "/sys/kernel/debug/kmirror/replicas";
        for line in std::fs::read_to_string(list).unwrap_or_default().lines() {
            let mut words = line.split(' ').map(str::parse::<u64>);
            if let (Some(Ok(primary)), Some(Ok(replica))) = (words.next(), words.next()) {
                replicas.insert(primary, replica);
            }
        }
        Ok(Self {
            ram: Ranges::iomem(|name| name == "System RAM")?,
            kernel: Ranges::iomem(|name| name.starts_with("Kernel "))?,
            slice,
            replicas,
            region: HashSet::new(),
            flags: File::open("/proc/kpageflags")?,
            counts: File::open("/proc/kpagecount")?,
            cgroups: File::open("/proc/kpagecgroup")?,
        })
    }

    /// Which blocks belong to the mirror region; nothing in /proc tells.
    pub(crate) fn set_region(&mut self, blocks: &HashSet<u64>) {
        self.region.clone_from(blocks);
    }

    /// The blocks that have a free frame.
    pub(crate) fn free_blocks(&self) -> Result<HashSet<u64>> {
        let flags = words(&self.flags, self.end())?;
        Ok((0..)
            .zip(flags)
            .filter(|&(_, flags)| flags & BUDDY != 0)
            .map(|(pfn, _)| pfn / BLOCK)
            .collect())
    }

    /// Those of them that have been taken as a whole since then. If that is asked for right after
    /// the region was made, this is the region.
    pub(crate) fn taken_blocks(&self, before: &HashSet<u64>) -> Result<HashSet<u64>> {
        let flags = words(&self.flags, self.end())?;
        Ok((0..)
            .zip(flags.chunks_exact(BLOCK as usize))
            .filter(|(block, flags)| {
                before.contains(block) && flags.iter().all(|&bits| bits & !OFFLINE == 0)
            })
            .map(|(block, _)| block)
            .collect())
    }

    /// One more than the highest frame of RAM.
    fn end(&self) -> u64 {
        self.ram.0.iter().map(|&(_, end)| end).max().unwrap_or(0)
    }

    /// Looks a frame up.
    pub(crate) fn frame(&self, pfn: u64) -> Result<Frame> {
        let flags = word(&self.flags, pfn)?;
        let cgroup = word(&self.cgroups, pfn)?;
        let inside = cgroup == self.slice;
        Ok(Frame {
            class: self.class(pfn, flags, inside),
            flags,
            mappings: word(&self.counts, pfn)?,
            inside,
            replica: self.replicas.get(&pfn).copied(),
        })
    }

    /// The class of a frame. The order matters: what is tested first is the surer sign.
    fn class(&self, pfn: u64, flags: u64, inside: bool) -> char {
        let has = |bits: u64| flags & bits != 0;
        if !self.ram.has(pfn) || has(NOPAGE | HWPOISON) {
            return NONE;
        }
        if self.kernel.has(pfn) && !has(BUDDY | LRU | SLAB) {
            return 'K'; // text, read-only data, data of the kernel's image
        }
        if has(BUDDY) {
            'F' // free
        } else if has(HUGE) {
            'G' // hugetlb
        } else if has(SLAB) {
            'S' // slab
        } else if has(PGTABLE) {
            'T' // page table
        } else if has(ANON) && !inside {
            'O' // anonymous, of those who are not protected: init and the driver
        } else if has(ANON) && has(THP) {
            'H' // huge
        } else if has(ANON) {
            'A' // anonymous, small
        } else if has(LRU) && has(SWAPBACKED) {
            'M' // shmem
        } else if has(LRU) && has(DIRTY | WRITEBACK) {
            'D' // page cache, dirty
        } else if has(LRU) {
            'C' // page cache, clean
        } else if self.region.contains(&(pfn / BLOCK)) {
            'R' // mirror region
        } else if has(MMAP) {
            'C' // mapped, and just not on a list
        } else {
            'N' // the kernel's other memory: stacks, vmalloc, per CPU, memmap, reserved
        }
    }

    /// One letter for each frame of the machine, in their order, equal ones as `COUNTLETTER`.
    pub(crate) fn all(&self) -> Result<String> {
        let end = self.end();
        let flags = words(&self.flags, end)?;
        let cgroups = words(&self.cgroups, end)?;
        let mut text = String::new();
        let mut run = (NONE, 0);
        for (pfn, (&flags, &cgroup)) in (0..).zip(flags.iter().zip(&cgroups)) {
            let class = self.class(pfn, flags, cgroup == self.slice);
            if class == run.0 {
                run.1 += 1;
                continue;
            }
            text += &format!("{}{}", run.1, run.0);
            run = (class, 1);
        }
        text += &format!("{}{}", run.1, run.0);
        Ok(text)
    }

    /// The frames that are page tables.
    pub(crate) fn page_tables(&self) -> Result<Vec<u64>> {
        let flags = words(&self.flags, self.end())?;
        Ok((0..)
            .zip(flags)
            .filter(|&(_, flags)| flags & PGTABLE != 0)
            .map(|(pfn, _)| pfn)
            .collect())
    }
}

impl Frame {
    /// Whether the kernel says that the frame's replica may be current.
    pub(crate) fn mirrored(&self) -> bool {
        self.flags & MIRRORED != 0 && self.replica.is_some()
    }
}

fn word(file: &File, pfn: u64) -> Result<u64> {
    let mut raw = [0; 8];
    file.read_exact_at(&mut raw, pfn * 8)?;
    Ok(u64::from_ne_bytes(raw))
}

/// The words of the frames from 0 to `end`.
fn words(file: &File, end: u64) -> Result<Vec<u64>> {
    let mut raw = vec![0; end as usize * 8];
    let mut at = 0;
    while at < raw.len() {
        let len = file.read_at(&mut raw[at..], at as u64)?;
        if len == 0 {
            break;
        }
        at += len;
    }
    Ok(raw[..at]
        .chunks_exact(8)
        .map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()))
        .collect())
}
