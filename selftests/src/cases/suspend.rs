// SPDX-License-Identifier: GPL-2.0

//! The machine sleeps, and goes on.

use crate::case::{skip, Case, Context};
use crate::file::{self, Setting};
use crate::inject::Door;
use crate::rig::Rig;
use anyhow::Result;
use std::path::Path;

pub(super) const CASES: &[Case] = &[Case::new(
    "suspend",
    "replicas stay current, what was written stays stale, and the worker wakes up with the machine",
    suspend,
)
.limit(120)];

const SLEEP: &str = "/sys/power/mem_sleep";
const TEST: &str = "/sys/power/pm_test";

/// What must hold over a sleep.
fn over(cx: &Context, sleep: impl Fn() -> Result<()>) -> Result<()> {
    let mut rig = Rig::synced(cx, 256)?;
    rig.fill(0, 2)?;
    sleep()?;
    // Before any epoch: what was current, and what was not.
    rig.must_refuse(Door::ALL[0], 0)?;
    for (page, door) in (1..).zip(Door::ALL) {
        rig.must_be_mirrored(page)?;
        rig.must_restore(door, page, 1)?;
    }

    // The worker is asleep with it, in the middle of whatever it was doing, and wakes up.
    rig.mirror.set("interval_ms", "10")?;
    for version in 2..4 {
        for page in 64..128 {
            rig.fill(page, version)?;
        }
        sleep()?;
        rig.mirror.wait_epochs(2)?;
        rig.sync()?;
        for (page, door) in (version * 32..).zip(Door::ALL) {
            rig.must_restore(door, page, version)?;
        }
    }
    Ok(())
}

/// How far to go. A root by 9p does not survive that its device is suspended: then the processes are
/// stopped, and no more. Elsewhere devices are suspended, the other processors off, interrupts too, and
/// in the place of the firmware a second passes.
fn level() -> Result<&'static str> {
    let mounts = file::read("/proc/mounts")?;
    let by_9p = mounts.lines().any(|line| line.contains(" 9p "));
    Ok(if by_9p { "freezer" } else { "core" })
}

fn suspend(cx: &Context) -> Result<()> {
    let deep = file::read(SLEEP).is_ok_and(|text| text.contains("deep"));
    if !deep || !Path::new(TEST).exists() {
        skip!("the machine cannot suspend to memory, or not for a test");
    }
    let level = level()?;
    println!("as far as {level}");
    let _deep = Setting::change(SLEEP, "deep")?;
    let _test = Setting::change(TEST, level)?;
    let _delay = Setting::change("/sys/module/suspend/parameters/pm_test_delay", "1")?;
    over(cx, || file::write("/sys/power/state", "mem"))
}
