// SPDX-License-Identifier: GPL-2.0

//! Off means gone.

use crate::case::{skip, Case, Context};
use crate::file;
use crate::inject::Door;
use crate::kmemleak::Search;
use crate::module::{self, REGION};
use crate::pagemap::{self, MIRRORED};
use crate::rig::{must_be_empty, Rig};
use crate::runner;
use anyhow::{ensure, Context as _, Result};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "mode_off",
        "switching off drops all replicas of a cgroup and clears PG_mirrored on its pages",
        off,
    ),
    Case::new(
        "mode_cycles",
        "switching on and off, loading and unloading leave nothing behind that grows",
        cycles,
    )
    .limit(120),
    Case::new(
        "mode_cycles_kmemleak",
        "no memory of the kernel is forgotten over 1,000 times off and on, and some of unloading",
        forget_nothing,
    )
    .limit(300),
];

fn off(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 256)?;
    ensure!(pagemap::count_flags(MIRRORED)? >= 256);
    rig.mirror.set("mode", "off")?;
    for page in 0..256 {
        rig.must_not_be_mirrored(page)?;
    }
    pagemap::must_be_none_mirrored()?;
    ensure!(rig.mirror.number("current")? == 0, "replicas are left");
    must_be_empty()?;

    // Whatever is hit now is lost, and not counted.
    let before = rig.counters()?;
    rig.must_lose(Door::Fail, 0)?;
    rig.must_lose(Door::Mce, 1)?;
    let after = rig.counters()?;
    ensure!(
        after.restored == before.restored && after.unrestorable == before.unrestorable,
        "{after:?}"
    );
    // There is nobody who could run an epoch.
    let refused = rig.mirror.try_set("sync", "1");
    println!("mirror.sync when off: {refused:?}");
    rig.must_not_be_mirrored(2)?;

    rig.mirror.track()?;
    rig.sync()?;
    ensure!(rig.mirror.event("restored")? == 0, "events begin anew");
    rig.must_restore(Door::Fail, 2, 1)?;
    Ok(())
}

/// Memory may go up and down by this much for other reasons.
const SLACK_KB: u64 = 2 << 10;

/// What KASAN keeps of freed memory, as a part of all there is (QUARANTINE_FRACTION in
/// mm/kasan/quarantine.c). There kmemleak looks for what is lost.
const QUARANTINE: u64 = 32;

fn cycles(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 256)?;
    must_not_sink(&mut rig, "off and on", CYCLES, off_and_on)?;
    must_not_sink(&mut rig, "unloaded and loaded", RELOADS, reload)
}

const CYCLES: u64 = 1000;
const RELOADS: u64 = 10;

fn off_and_on(rig: &Rig) -> Result<()> {
    rig.mirror.set("mode", "off")?;
    ensure!(rig.mirror.number("current")? == 0, "replicas are left");
    rig.mirror.track()?;
    rig.sync()
}

fn reload(rig: &Rig) -> Result<()> {
    module::unload("kmirror").context("rmmod kmirror")?;
    module::load_kmirror(&format!("region={REGION}"))?;
    rig.mirror.track()?;
    rig.sync()
}

fn forget_nothing(cx: &Context) -> Result<()> {
    let Some(search) = Search::from_now()? else {
        skip!("the kernel does not look for lost memory (CONFIG_DEBUG_KMEMLEAK)");
    };
    let mut rig = Rig::synced(cx, 256)?;
    for page in 0..16 {
        rig.must_restore(Door::Fail, page, 1)?;
    }
    (0..CYCLES).try_for_each(|_| off_and_on(&rig))?;
    (0..RELOADS).try_for_each(|_| reload(&rig))?;
    let lost = search.lost()?;
    ensure!(lost.is_empty(), "lost:\n{lost}");
    Ok(())
}

/// Free memory, without what lies in the lists of the CPUs: retiring a frame empties these.
fn free_kb(rig: &mut Rig) -> Result<u64> {
    rig.must_restore(Door::Fail, 9, 1)?;
    file::meminfo("MemFree")
}

/// Fails if there is less free memory after doing `work` so many times.
fn must_not_sink(
    rig: &mut Rig,
    what: &str,
    times: u64,
    work: impl Fn(&Rig) -> Result<()>,
) -> Result<()> {
    // What is allocated once and kept has been by then.
    work(rig)?;
    let before = free_kb(rig)?;
    (0..times).try_for_each(|_| work(rig))?;
    let after = free_kb(rig)?;
    println!("{before} kB free, after {times} times {what} {after} kB");
    let kept = if runner::is_watchful() {
        file::meminfo("MemTotal")? / QUARANTINE
    } else {
        0
    };
    ensure!(after + SLACK_KB + kept >= before, "memory is lost");
    Ok(())
}
