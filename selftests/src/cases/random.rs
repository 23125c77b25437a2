// SPDX-License-Identifier: GPL-2.0

//! A thousand random errors under a program that checks every byte that it ever wrote.

use crate::case::{Case, Context};
use crate::inject::Door;
use crate::memory::{word, Seen, WORDS};
use crate::rig::Rig;
use crate::rng::Rng;
use anyhow::{ensure, Context as _, Result};
use std::collections::HashSet;
use std::sync::Mutex;

pub(super) const CASES: &[Case] = &[Case::new(
    "thousand_errors",
    "all of them together: a page is restored exactly or lost, and it is lost only if it was written",
    thousand,
)
.limit(240)];

const PAGES: u64 = 2000;
const ERRORS: u64 = 1000;
/// Stores between two errors, at most.
const STORES: u64 = 24;

/// In the victim: every word that its memory should have.
static MODEL: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// The stores of a round: page, word, value. Director and victim know the same.
fn stores(seed: u64, count: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let mut rng = Rng::new(seed);
    (0..count).map(move |_| (rng.below(PAGES), rng.below(WORDS), rng.next_u64()))
}

fn begin(rig: &mut Rig) -> Result<()> {
    rig.victim.call(
        |_, _, _| {
            let mut model = MODEL.lock().unwrap();
            *model = (0..PAGES * WORDS)
                .map(|at| word(at / WORDS, 1, at % WORDS))
                .collect();
            Ok(0)
        },
        0,
        0,
    )?;
    Ok(())
}

fn store(rig: &mut Rig, seed: u64, count: u64) -> Result<()> {
    rig.victim.call(
        |scene, seed, count| {
            let mut model = MODEL.lock().unwrap();
            for (page, at, value) in stores(seed, count) {
                scene.mem.store(page, at, value);
                model[(page * WORDS + at) as usize] = value;
            }
            Ok(0)
        },
        seed,
        count,
    )?;
    Ok(())
}

/// Looks at every byte of so many pages. One that is lost is written again from the start.
fn check(rig: &mut Rig, first: u64, count: u64) -> Result<Seen> {
    let raw = rig.victim.call(
        |scene, first, count| {
            let model = MODEL.lock().unwrap();
            let mut worst = Seen::Right;
            for page in first..first + count {
                let want = &model[(page * WORDS) as usize..((page + 1) * WORDS) as usize];
                match scene.mem.compare(page, |at| want[at as usize]) {
                    Seen::Right => {}
                    Seen::Lost => {
                        for (at, &value) in (0..).zip(want) {
                            scene.mem.store(page, at, value);
                        }
                        worst = Seen::Lost;
                    }
                    wrong => return Ok(wrong.to_raw()),
                }
            }
            Ok(worst.to_raw())
        },
        first,
        count,
    )?;
    Ok(Seen::from_raw(raw))
}

fn thousand(cx: &Context) -> Result<()> {
    println!("seed {}", cx.seed);
    let mut rig = Rig::synced(cx, PAGES)?;
    begin(&mut rig)?;
    let mut rng = Rng::new(cx.seed);
    let mut written = HashSet::new();
    let (mut restored, mut lost) = (0, 0);
    for round in 0..ERRORS {
        let seed = rng.next_u64();
        let count = rng.below(STORES + 1);
        store(&mut rig, seed, count)?;
        written.extend(stores(seed, count).map(|(page, _, _)| page));
        if rng.below(4) == 0 {
            rig.sync()?;
            written.clear();
        }
        // Half of the errors hit what was written last, if anything was.
        let recent = stores(seed, count).last().map(|(page, _, _)| page);
        let page = match recent {
            Some(page) if rng.below(2) == 0 => page,
            _ => rng.below(PAGES),
        };
        let door = Door::ALL[rng.below(5) as usize];
        let what = format!("round {round}, page {page} by {door}");

        let struck = rig.strike(door, page).with_context(|| what.clone())?;
        let seen = check(&mut rig, page, 1).with_context(|| what.clone())?;
        match (seen, written.contains(&page)) {
            (Seen::Right, false) => {
                ensure!(rig.frame(page)? != struck.old, "{what}: not hit at all");
                restored += 1;
                // Its new frame has no replica yet.
                written.insert(page);
            }
            (Seen::Lost, true) => lost += 1,
            (Seen::Lost, false) => anyhow::bail!("{what}: clean, and lost"),
            (Seen::Right, true) => anyhow::bail!("{what}: was written, and is restored"),
            (wrong, _) => anyhow::bail!("{what}: {wrong:?}"),
        }
        if round % 100 == 99 {
            let seen = check(&mut rig, 0, PAGES)?;
            ensure!(seen == Seen::Right, "{what}, then all pages: {seen:?}");
        }
    }
    println!("{restored} restored, {lost} lost, no wrong byte");
    ensure!(
        restored >= ERRORS / 4 && lost >= ERRORS / 8,
        "too one-sided to show much"
    );
    Ok(())
}
