// SPDX-License-Identifier: GPL-2.0

//! Loads and stores, and nothing else: kMemvisor's sequential read, sequential write and stressful
//! write, and the worst that one can do to a mirror that copies what rests.

use super::Work;
use crate::peer;
use crate::tenant::REGISTER;
use anyhow::Result;
use kmirror_selftests::rng::Rng;
use kmirror_selftests::{PAGE, PAGE_SIZE};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Memory of each of them: far more than any cache or TLB holds.
const PAGES: usize = 16384;
/// Words of a page.
const WORDS: usize = PAGE_SIZE / size_of::<u64>();
/// Pages of a unit.
const PART: usize = 1024;

/// Memory that is all there. Atomics, relaxed: plain loads and stores, each of which is made.
fn memory() -> Result<Vec<AtomicU64>> {
    let memory: Vec<AtomicU64> = (1..=(PAGES * WORDS) as u64).map(AtomicU64::new).collect();
    if std::env::var_os(REGISTER).is_some() {
        let start = (memory.as_ptr().addr() as u64).next_multiple_of(PAGE);
        // Until the process ends.
        std::mem::forget(peer::register(start, ((PAGES - 1) * PAGE_SIZE) as u64)?);
    }
    Ok(memory)
}

/// Part number `turn` of memory, round and round.
fn part(memory: &[AtomicU64], turn: usize) -> &[AtomicU64] {
    let first = turn % (PAGES / PART) * PART * WORDS;
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
        let sum = part(&self.memory, self.turn)
            .iter()
            .fold(0_u64, |sum, word| sum.wrapping_add(word.load(Relaxed)));
        black_box(sum);
        self.turn += 1;
        Ok(())
    }
}

/// Writes all memory, word by word.
pub(super) struct SequentialWrite {
    memory: Vec<AtomicU64>,
    turn: usize,
}

impl SequentialWrite {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            memory: memory()?,
            turn: 0,
        })
    }
}

impl Work for SequentialWrite {
    fn unit(&mut self) -> Result<()> {
        for word in part(&self.memory, self.turn) {
            word.store(self.turn as u64, Relaxed);
        }
        self.turn += 1;
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
        for word in part(&self.memory, self.turn / Self::PASSES) {
            word.store(self.turn as u64, Relaxed);
        }
        self.turn += 1;
        Ok(())
    }
}
