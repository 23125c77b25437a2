// SPDX-License-Identifier: GPL-2.0

//! What it costs to make replicas, beside what it costs a program to copy the same bytes.

use super::{protected, Times};
use anyhow::{ensure, Result};
use kmirror_selftests::victim::Victim;
use kmirror_selftests::PAGE_SIZE;
use serde::Serialize;
use std::hint::black_box;

const PAGES: u64 = 8192;
const ROUNDS: u64 = 7;

#[derive(Debug, Serialize)]
pub(super) struct Copies {
    /// Pages of a round.
    pages: u64,
    /// Of each round, time that kmirror takes for what it does with the pages that it was handed:
    /// deciding, locking, copying, hashing.
    copy_ns: Vec<u64>,
    /// Page after page, by a program.
    memcpy: Times,
}

pub(super) fn measure() -> Result<Copies> {
    let (cgroup, mirror) = protected("copy", 96 << 20)?;
    let mut victim = Victim::start(&cgroup, PAGES, 1)?;
    // What is only done once: slots, the index.
    mirror.sync()?;
    let (from, mut to) = (
        vec![1_u8; PAGES as usize * PAGE_SIZE],
        vec![2_u8; PAGES as usize * PAGE_SIZE],
    );
    let mut copies = Copies {
        pages: PAGES,
        copy_ns: Vec::new(),
        memcpy: Times::default(),
    };
    for round in 0..ROUNDS {
        victim.call(
            |scene, round, _| {
                (0..scene.mem.pages()).for_each(|page| scene.mem.store(page, 0, round));
                Ok(0)
            },
            round,
            0,
        )?;
        let before = (mirror.stat("copied")?, mirror.stat("copy_ns")?);
        mirror.sync()?;
        let after = (mirror.stat("copied")?, mirror.stat("copy_ns")?);
        let copied = after.0 - before.0;
        // And the few pages of its stack and heap.
        ensure!(
            (PAGES..PAGES + 256).contains(&copied),
            "{copied} pages copied of {PAGES}"
        );
        copies.copy_ns.push((after.1 - before.1) * PAGES / copied);
        copies.memcpy.take(|| {
            let pages = from.chunks(PAGE_SIZE).zip(to.chunks_mut(PAGE_SIZE));
            pages.for_each(|(from, to)| to.copy_from_slice(black_box(from)));
            Ok(())
        })?;
    }
    black_box(to);
    victim.end()?;
    Ok(copies)
}
