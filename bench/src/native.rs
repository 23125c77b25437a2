// SPDX-License-Identifier: GPL-2.0

//! What moving the bytes of a page costs on the machine itself, outside of any guest: QEMU emulates a
//! copy byte by byte, and says nothing about how fast a processor makes one.

use anyhow::{ensure, Result};
use kmirror_selftests::PAGE_SIZE;
use serde::Serialize;
use std::hint::black_box;
use std::time::Instant;
use xxhash_rust::xxh64::xxh64;

/// Far more than a cache holds.
const PAGES: usize = 32768;
/// Of which the best is taken: whatever else runs on the machine only makes it slower.
const ROUNDS: usize = 9;

/// Bytes a second.
#[derive(Debug, Serialize)]
struct Bandwidth {
    /// `memcpy()` of everything at once.
    memcpy_bytes_per_s: u64,
    /// Page after page, as a replica is made: copied, and nothing else.
    pages_bytes_per_s: u64,
    /// Page after page, and the copy hashed (XXH64), as kmirror does.
    hashed_bytes_per_s: u64,
}

/// Measures, and prints it as one line of JSON.
pub(crate) fn run() -> Result<()> {
    let from: Vec<u8> = (0..PAGES * PAGE_SIZE).map(|at| (at * 7) as u8).collect();
    let mut to = vec![1_u8; PAGES * PAGE_SIZE];
    let mut best = [f64::MAX; 3];
    for _ in 0..ROUNDS {
        // In turn, so that a slow moment hits all of them.
        let taken = [
            time(|| to.copy_from_slice(black_box(&from))),
            time(|| copy_pages(&from, &mut to, |_| 0)),
            time(|| copy_pages(&from, &mut to, |page| xxh64(page, 0))),
        ];
        for (best, taken) in best.iter_mut().zip(taken) {
            *best = best.min(taken);
        }
    }
    ensure!(from == to, "the copy is not what was copied");
    let rate = |seconds: f64| (from.len() as f64 / seconds) as u64;
    let bandwidth = Bandwidth {
        memcpy_bytes_per_s: rate(best[0]),
        pages_bytes_per_s: rate(best[1]),
        hashed_bytes_per_s: rate(best[2]),
    };
    println!("{}", serde_json::to_string(&bandwidth)?);
    Ok(())
}

fn copy_pages(from: &[u8], to: &mut [u8], hash: impl Fn(&[u8]) -> u64) {
    let pages = from.chunks(PAGE_SIZE).zip(to.chunks_mut(PAGE_SIZE));
    for (from, to) in pages {
        to.copy_from_slice(black_box(from));
        black_box(hash(to));
    }
}

fn time(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}
