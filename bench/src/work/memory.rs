// SPDX-License-Identifier: GPL-2.0

//! Loads and stores, and nothing else: kMemvisor's sequential read, sequential write and stressful
//! write, and the worst that one can do to a mirror that copies what rests.

use super::Work;
use crate::peer;
use crate::tenant::REGISTER;
use anyhow::{ensure, Context, Result};
use kmirror_selftests::rng::Rng;
use kmirror_selftests::{PAGE, PAGE_SIZE};
use nix::errno::Errno;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Memory of each of them: far more than any cache or TLB holds.
const PAGES: usize = 16384;
/// Words of a page.
const WORDS: usize = PAGE_SIZE / size_of::<u64>();
/// Pages of a unit.
const PART: usize = 1024;

/// Pages of a page table.
const TABLE: usize = 512;
/// Pages of a MiB.
const MIB: usize = (1 << 20) / PAGE_SIZE;

/// Memory that is all there. Atomics, relaxed: plain loads and stores, each of which is made.
fn memory() -> Result<Vec<AtomicU64>> {
    filled(PAGES, |word| word)
}

/// So many pages of it, each word as `content` has it for its number, from 1 on.
fn filled(pages: usize, content: impl Fn(u64) -> u64) -> Result<Vec<AtomicU64>> {
    let words = 1..=(pages * WORDS) as u64;
    let memory: Vec<AtomicU64> = words.map(|word| AtomicU64::new(content(word))).collect();
    if std::env::var_os(REGISTER).is_some() {
        let start = (memory.as_ptr().addr() as u64).next_multiple_of(PAGE);
        // Until the process ends.
        std::mem::forget(peer::register(start, ((pages - 1) * PAGE_SIZE) as u64)?);
    }
    Ok(memory)
}

/// Part number `turn` of the first `pages` of memory, round and round.
fn part(memory: &[AtomicU64], pages: usize, turn: usize) -> &[AtomicU64] {
    let first = turn % (pages / PART) * PART * WORDS;
    &memory[first..first + PART * WORDS]
}

/// Reads all memory, word by word.
pub(super) struct SequentialRead {
    memory: Vec<AtomicU64>,
    turn: usize,
}

impl SequentialRead {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            memory: memory()?,
            turn: 0,
        })
    }
}

impl Work for SequentialRead {
    fn unit(&mut self) -> Result<()> {
        let sum = part(&self.memory, PAGES, self.turn)
            .iter()
            .fold(0_u64, |sum, word| sum.wrapping_add(word.load(Relaxed)));
        black_box(sum);
        self.turn += 1;
        Ok(())
    }
}

/// The same, shared with whoever is forked, as PostgreSQL's buffers are.
fn shared(pages: usize) -> Result<&'static [AtomicU64]> {
    // SAFETY: The kernel chooses a place where nothing is.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            pages * PAGE_SIZE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(Errno::last()).context("shared memory");
    }
    // SAFETY: The mapping is aligned, as long as this, all zeros at first, and never taken away.
    let memory = unsafe { std::slice::from_raw_parts(start.cast::<AtomicU64>(), pages * WORDS) };
    for (word, at) in memory.iter().zip(1..) {
        word.store(at, Relaxed);
    }
    Ok(memory)
}

/// Writes memory, word by word.
pub(super) struct SequentialWrite {
    memory: &'static [AtomicU64],
    pages: usize,
    turn: usize,
}

impl SequentialWrite {
    /// All of it.
    pub(super) fn new() -> Result<Self> {
        Self::of(PAGES, PAGES)
    }

    /// The same work, by one who has `mib` of memory and leaves the rest alone.
    pub(super) fn among(mib: usize) -> Result<Self> {
        ensure!(mib * MIB >= PAGES, "{mib} MiB are less than are written");
        Self::of(PAGES, mib * MIB)
    }

    /// As `among()`, with memory that is shared.
    pub(super) fn among_shared(mib: usize) -> Result<Self> {
        ensure!(mib * MIB >= PAGES, "{mib} MiB are less than are written");
        Ok(Self {
            memory: shared(mib * MIB)?,
            pages: PAGES,
            turn: 0,
        })
    }

    /// Less work of the same kind.
    pub(super) fn small() -> Result<Self> {
        Self::of(2 * PART, 2 * PART)
    }

    fn of(pages: usize, there: usize) -> Result<Self> {
        Ok(Self {
            // Until the process ends.
            memory: filled(there, |word| word)?.leak(),
            pages,
            turn: 0,
        })
    }
}

impl Work for SequentialWrite {
    fn unit(&mut self) -> Result<()> {
        for (word, at) in part(self.memory, self.pages, self.turn).iter().zip(1..) {
            // Pages of one value over and over would take no replica.
            word.store(self.turn as u64 + at, Relaxed);
        }
        self.turn += 1;
        Ok(())
    }
}

/// Reads a word of each of some pages, and leaves all others alone. Nothing is ever dirty.
pub(super) struct Reread {
    memory: Vec<AtomicU64>,
    /// Number of the first word that is read.
    first: usize,
    touched: usize,
}

impl Reread {
    /// Of `mib` of memory, `touched` of them.
    pub(super) fn new(touched: usize, mib: usize) -> Result<Self> {
        ensure!(touched <= mib, "{touched} MiB are more than {mib} MiB");
        let memory = filled(mib * MIB + TABLE, |word| word)?;
        // Whole page tables, so that no page is in one with others that are read.
        let start = memory.as_ptr().addr();
        let before = start.next_multiple_of(TABLE * PAGE_SIZE) - start;
        Ok(Self {
            memory,
            first: before / size_of::<u64>(),
            touched: touched * MIB,
        })
    }

    /// Pages that hold one value over and over.
    pub(super) fn same_filled() -> Result<Self> {
        Ok(Self {
            // One for all: where in a page the allocator has begun is not known here.
            memory: filled(PAGES, |_| 0x0123_4567_89ab_cdef)?,
            first: 0,
            touched: PAGES,
        })
    }
}

impl Work for Reread {
    fn unit(&mut self) -> Result<()> {
        let words = self.memory[self.first..].iter();
        let words = words.step_by(WORDS).take(self.touched);
        black_box(words.fold(0_u64, |sum, word| sum.wrapping_add(word.load(Relaxed))));
        Ok(())
    }
}

/// Writes one word of a random page after the other; some pages often, all of them sometimes.
pub(super) struct StressWrite {
    memory: Vec<AtomicU64>,
    rng: Rng,
}

impl StressWrite {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            memory: memory()?,
            rng: Rng::new(1),
        })
    }
}

impl Work for StressWrite {
    fn unit(&mut self) -> Result<()> {
        for _ in 0..100_000 {
            let random = self.rng.next_u64();
            // The square of a number between 0 and 1 is near 0 more often than not.
            let (place, word) = (random & 0xffff_ffff, random >> 32);
            let page = ((place * place) >> 32) * PAGES as u64 >> 32;
            let word = page as usize * WORDS + word as usize % WORDS;
            self.memory[word].store(random, Relaxed);
        }
        Ok(())
    }
}

/// Writes a small part of memory for a fifth of a second (of instructions at 1 GHz), then the next
/// part. What it has left rests and is copied, only to be written again: no copy is spared, and
/// none lasts.
pub(super) struct MovingWrite {
    memory: Vec<AtomicU64>,
    turn: usize,
}

impl MovingWrite {
    /// Passes over one part.
    const PASSES: usize = 100;

    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            memory: memory()?,
            turn: 0,
        })
    }
}

impl Work for MovingWrite {
    fn unit(&mut self) -> Result<()> {
        let part = part(&self.memory, PAGES, self.turn / Self::PASSES);
        for (word, at) in part.iter().zip(1..) {
            word.store(self.turn as u64 + at, Relaxed);
        }
        self.turn += 1;
        Ok(())
    }
}
