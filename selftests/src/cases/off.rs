// SPDX-License-Identifier: GPL-2.0

//! Off means gone.

use crate::case::{Case, Context};
use crate::inject::Door;
use crate::module::{self, REGION};
use crate::pagemap::{self, MIRRORED};
use crate::rig::{must_be_empty, Rig};
use crate::{file, wait};
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
const SLACK_KB: u64 = 4096;

fn cycles(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 256)?;
    let cycle = |rig: &Rig| -> Result<()> {
        rig.mirror.set("mode", "off")?;
        ensure!(rig.mirror.number("current")? == 0, "replicas are left");
        rig.mirror.track()?;
        rig.sync()
    };
    // What is allocated once and kept has been by then.
    (0..10).try_for_each(|_| cycle(&rig))?;
    must_not_sink("100 times off and on", || {
        (0..100).try_for_each(|_| cycle(&rig))
    })?;
    rig.must_restore(Door::Fail, 9, 1)?;

    let reload = || -> Result<()> {
        module::unload("kmirror").context("rmmod kmirror")?;
        module::load_kmirror(&format!("region={REGION}"))?;
        rig.mirror.track()?;
        rig.sync()
    };
    reload()?;
    must_not_sink("5 times unloaded and loaded", || {
        (0..5).try_for_each(|_| reload())
    })?;
    rig.must_restore(Door::Fail, 10, 1)?;
    Ok(())
}

/// Fails if there is lastingly less free memory after `work`: what lies in lists of the CPUs
/// comes back.
fn must_not_sink(what: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = file::meminfo("MemFree")?;
    work()?;
    wait::until(
        &format!("as much memory is free after {what}"),
        wait::BOUND,
        || Ok(file::meminfo("MemFree")? + SLACK_KB >= before),
    )
}
