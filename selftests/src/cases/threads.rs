// SPDX-License-Identifier: GPL-2.0

//! Threads that go on writing while pages break and epochs run.

use crate::case::{Case, Context};
use crate::inject::Door;
use crate::memory::{word, Mapping, Seen, WORDS};
use crate::rig::Rig;
use crate::rng::Rng;
use crate::sigbus;
use anyhow::{ensure, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Mutex;
use std::thread::JoinHandle;

pub(super) const CASES: &[Case] = &[Case::new(
    "threads_writing",
    "the flag is set before the copy, the proof is made while nobody can write, TLBs are flushed",
    writing,
)
.limit(120)];

const THREADS: u64 = 2;
/// Of each thread.
const PAGES: u64 = 64;

static STOP: AtomicBool = AtomicBool::new(false);
static WRITTEN: AtomicU64 = AtomicU64::new(0);
static RUNNING: Mutex<Vec<JoinHandle<Result<(), String>>>> = Mutex::new(Vec::new());

/// Writes words of pages of its own, and looks each time whether what it has written is there. Half
/// of the pages it visits rarely, so that there is something to be restored.
fn write(mem: Mapping, first: u64) -> Result<(), String> {
    let mut rng = Rng::new(first);
    let mut mine = vec![1; PAGES as usize];
    while !STOP.load(Ordering::Relaxed) {
        let rare = rng.below(64) == 0;
        let index = rng.below(PAGES / 2) + if rare { PAGES / 2 } else { 0 };
        let page = first + index;
        let version = mine[index as usize];
        match mem.check(page, version) {
            Seen::Wrong(at) => return Err(format!("page {page}, version {version}, word {at}")),
            Seen::Right | Seen::Lost => {}
        }
        // In two halves, so that epochs and errors come between.
        let next = version + 1;
        let lost = sigbus::count();
        for at in 0..WORDS {
            mem.store(page, at, word(page, next, at));
            if at == WORDS / 2 {
                std::thread::yield_now();
            }
        }
        if sigbus::count() != lost {
            // The first half went with the page, and we were told.
            mem.fill(page, next);
        }
        mine[index as usize] = next;
        WRITTEN.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn writing(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, THREADS * PAGES)?;
    rig.victim.call(
        |scene, _, _| {
            let mem = scene.mem;
            let mut running = RUNNING.lock().unwrap();
            for thread in 0..THREADS {
                running.push(std::thread::spawn(move || write(mem, thread * PAGES)));
            }
            Ok(0)
        },
        0,
        0,
    )?;
    let mut rng = Rng::new(cx.seed);
    for round in 0..60 {
        if round % 3 == 0 {
            rig.sync()?;
        }
        let door = Door::ALL[rng.below(5) as usize];
        let page = rng.below(THREADS * PAGES);
        // A page that is lost and not touched yet has no frame to hit.
        if rig.frame(page).is_ok() {
            // By now it may be gone.
            let _ = rig.strike(door, page);
        }
    }
    let counters = rig.counters()?;
    let written = rig.victim.call(
        |_, _, _| {
            STOP.store(true, Ordering::Relaxed);
            for thread in RUNNING.lock().unwrap().drain(..) {
                let result = thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a thread panicked"))?;
                ensure!(result.is_ok(), "wrong bytes: {result:?}");
            }
            Ok(WRITTEN.load(Ordering::Relaxed))
        },
        0,
        0,
    )?;
    println!("{written} pages written, {counters:?}");
    ensure!(written > 100, "the threads have hardly run: {written}");
    ensure!(
        counters.restored > 0,
        "nothing was restored: nothing is shown"
    );
    Ok(())
}
