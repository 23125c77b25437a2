// SPDX-License-Identifier: GPL-2.0

//! What is said about coverage is true, and the worker sees to it by itself.

use crate::case::{Case, Context};
use crate::inject::Door;
use crate::memory::Mapping;
use crate::rig::Rig;
use crate::{wait, PAGE};
use anyhow::{ensure, Context as _, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;
use std::thread::JoinHandle;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "coverage_is_true",
        "coverage is read from the page tables and flags as they are, not from what an epoch saw",
        is_true,
    ),
    Case::new(
        "background_worker",
        "the worker runs epochs by itself, and leaves nothing out that rests",
        background,
    ),
    Case::new(
        "fresh_pages",
        "mirror.sync covers pages that were touched just now and still wait for the LRU",
        fresh,
    ),
    Case::new(
        "freed_pages",
        "the replicas of memory that was given back go with the next epochs",
        freed,
    ),
    Case::new(
        "hot_page",
        "a page that is dirty in every epoch is not copied in every epoch",
        hot,
    ),
    Case::new(
        "renewed_pages",
        "a page that is always new is not copied where epochs are short",
        renewed,
    ),
];

/// Many more than the victim has otherwise.
const PAGES: u64 = 1024;

fn is_true(cx: &Context) -> Result<()> {
    let mut rig = Rig::new(cx, PAGES)?;
    let coverage = |rig: &Rig| rig.mirror.number("coverage");
    // The first epoch has begun with the mode; what it has found is no promise. But all of these
    // are protected, and what is written is not covered.
    rig.sync()?;
    let before = coverage(&rig)?;
    ensure!(
        before >= 950_000,
        "{before} ppm after an epoch\n{}",
        rig.mirror.get("stat")?
    );
    let current = rig.mirror.stat("current")?;
    let protected = rig.mirror.stat("protected")?;
    ensure!(
        current >= PAGES && protected >= current,
        "{current} of {protected} pages"
    );
    // Threads have one address space among them, which counts once.
    rig.victim.call(
        |_, _, _| {
            (0..3).for_each(|_| {
                drop(std::thread::spawn(|| loop {
                    std::thread::park();
                }))
            });
            Ok(0)
        },
        0,
        0,
    )?;
    let threaded = rig.mirror.stat("protected")?;
    ensure!(
        threaded < protected + PAGES,
        "{threaded} pages with threads, {protected} without"
    );
    let bytes = rig.mirror.number("current")?;
    ensure!(
        bytes >= current * PAGE,
        "{bytes} bytes of replicas for {current} pages"
    );

    rig.victim.call(
        |scene, _, _| {
            (0..PAGES / 2).for_each(|page| scene.mem.store(page, 0, page));
            Ok(0)
        },
        0,
        0,
    )?;
    let half = coverage(&rig)?;
    ensure!(
        (300_000..600_000).contains(&half),
        "{half} ppm with half of the pages written"
    );
    let stale = rig.mirror.stat("stale")?;
    ensure!(stale >= PAGES / 2, "{stale} pages are stale");

    // Each page is in one line: all lines that are reasons come to what is not current.
    let reasons = [
        "stale",
        "pinned",
        "lazyfree",
        "huge",
        "shared_foreign",
        "notifier",
        "shadow_stack",
    ];
    for reason in reasons {
        rig.mirror.stat(reason)?;
    }
    rig.sync()?;
    let after = coverage(&rig)?;
    ensure!(after >= 950_000, "{after} ppm after another epoch");

    // More memory that no epoch has seen.
    rig.victim.call(
        |_, _, _| {
            Mapping::anon(PAGES, 1)?;
            Ok(0)
        },
        0,
        0,
    )?;
    let grown = coverage(&rig)?;
    ensure!(
        (300_000..600_000).contains(&grown),
        "{grown} ppm with twice the memory"
    );
    Ok(())
}

fn background(cx: &Context) -> Result<()> {
    let mut rig = Rig::new(cx, PAGES)?;
    rig.mirror.set("interval_ms", "50")?;
    // All of it: also the last pages that it has touched, which wait in a batch of their CPU for the
    // LRU and would wait there for ever on a machine where nothing else happens.
    let mut page = 0;
    wait::until(
        "every page of an idle program is covered",
        wait::BOUND,
        || {
            while page < PAGES && rig.is_mirrored(page)? {
                page += 1;
            }
            Ok(page == PAGES)
        },
    )
    .with_context(|| rig.mirror.get("stat").unwrap_or_default())?;
    ensure!(rig.mirror.number("coverage")? >= 950_000);
    rig.must_restore(Door::Fail, 17, 1)?;

    // And again, after a store.
    rig.fill(3, 2)?;
    // The flag says nothing, it may be of the moment before the store. Of three epochs that end
    // after it, the second has begun after it.
    rig.mirror.wait_epochs(3)?;
    rig.must_restore(Door::Fail, 3, 2)?;
    Ok(())
}

/// Fewer than fill the batch in which fresh pages wait.
const FEW: u64 = 5;

fn fresh(cx: &Context) -> Result<()> {
    let mut rig = Rig::new(cx, FEW)?;
    for version in 2..12 {
        rig.victim.call(
            |scene, version, _| {
                scene.mem.advise(0, FEW, libc::MADV_DONTNEED)?;
                (0..FEW).for_each(|page| scene.mem.fill(page, version));
                Ok(0)
            },
            version,
            0,
        )?;
        rig.sync()?;
        for page in 0..FEW {
            rig.must_be_mirrored(page)?;
        }
    }
    Ok(())
}

fn freed(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, PAGES)?;
    let before = rig.mirror.number("current")?;
    rig.victim.call(
        |scene, _, _| {
            scene.mem.advise(0, PAGES, libc::MADV_DONTNEED)?;
            Ok(0)
        },
        0,
        0,
    )?;
    // Those whose frame somebody else has by now go when two sweeps have not seen them in use.
    for _ in 0..3 {
        rig.sync()?;
    }
    let after = rig.mirror.number("current")?;
    ensure!(
        after + PAGES * PAGE <= before,
        "{before} bytes of replicas, and {after} without {PAGES} pages"
    );
    Ok(())
}

/// In the victim: writes to the first pages all the time.
static STOP: AtomicBool = AtomicBool::new(false);
static WRITER: Mutex<Option<JoinHandle<()>>> = Mutex::new(None);
const HOT: u64 = 64;

/// Starts the writer. With `renew` it gives them back meanwhile, one after the other, and so gets others.
fn start_writer(rig: &mut Rig, renew: bool) -> Result<()> {
    rig.victim.call(
        |scene, renew, _| {
            let mem = scene.mem;
            *WRITER.lock().unwrap() = Some(std::thread::spawn(move || {
                let mut round = 0;
                while !STOP.load(Ordering::Relaxed) {
                    if renew != 0 && round % 16 == 0 {
                        let next = round / 16 % HOT;
                        mem.advise(next, 1, libc::MADV_DONTNEED).unwrap();
                    }
                    (0..HOT).for_each(|page| mem.store(page, 1, round));
                    round += 1;
                }
            }));
            Ok(0)
        },
        renew.into(),
        0,
    )?;
    Ok(())
}

/// Stops the writer. What has come to rest is copied, so that at least `ppm` are covered.
fn rest(rig: &mut Rig, ppm: u64) -> Result<()> {
    rig.victim.call(
        |_, _, _| {
            STOP.store(true, Ordering::Relaxed);
            let writer = WRITER.lock().unwrap().take().context("no writer")?;
            writer.join().map_err(|_| anyhow::anyhow!("a panic"))?;
            Ok(0)
        },
        0,
        0,
    )?;
    wait::until("what rests has been copied", wait::BOUND, || {
        let covered = rig.mirror.number("coverage")? >= ppm;
        Ok(covered && rig.is_mirrored(0)? && rig.is_mirrored(HOT - 1)?)
    })
    .with_context(|| rig.mirror.get("stat").unwrap_or_default())
}

/// Waits for so many epochs more. How many it were, and the pages copied meanwhile.
fn epochs(rig: &Rig, count: u64) -> Result<(u64, u64)> {
    let copied = rig.mirror.stat("copied")?;
    let ran = rig.mirror.wait_epochs(count)?;
    Ok((ran, rig.mirror.stat("copied")? - copied))
}

fn hot(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 256)?;
    start_writer(&mut rig, false)?;
    const EPOCHS: u64 = 40;
    rig.mirror.set("interval_ms", "10")?;
    let (ran, copies) = epochs(&rig, EPOCHS)?;
    let deferred = rig.mirror.stat("deferred")?;
    println!("{ran} epochs, {HOT} hot pages: {copies} copies, {deferred} deferred");
    ensure!(deferred >= HOT * EPOCHS / 4, "{deferred} deferred");
    ensure!(
        copies <= HOT * ran / 2,
        "{copies} copies of pages that never rest"
    );

    // When they rest they are copied.
    rest(&mut rig, 990_000)
}

fn renewed(cx: &Context) -> Result<()> {
    // Where the next epoch comes soon they wait for it, and then are others.
    let mut rig = Rig::new(cx, 1)?;
    rig.mirror.set("interval_ms", "20")?;
    rig.sync()?;
    // In frames of which no epoch has made a replica.
    let addr = rig.victim.call(
        |scene, _, _| {
            scene.mem = Mapping::untouched(HOT)?;
            Ok(scene.mem.addr(0))
        },
        0,
        0,
    )?;
    rig.victim.mem = Mapping::at(addr, HOT);
    start_writer(&mut rig, true)?;
    let (ran, copies) = epochs(&rig, 40)?;
    println!("{ran} short epochs, {HOT} pages that come and go: {copies} copies");
    ensure!(copies <= HOT * ran / 16, "{copies} copies in {ran} epochs");
    // A longer one is not waited for.
    rig.mirror.set("interval_ms", "300")?;
    let (ran, copies) = epochs(&rig, 3)?;
    ensure!(copies >= HOT * ran / 4, "{copies} copies in {ran} epochs");
    rig.mirror.set("interval_ms", "20")?;
    rest(&mut rig, 900_000)
}
