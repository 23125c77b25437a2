// SPDX-License-Identifier: GPL-2.0

//! The machine sleeps, with all its devices, and is woken by its clock.

use super::service::rig;
use crate::case::{skip, Case, Context};
use crate::cases::service::again;
use crate::file::{self, Setting};
use crate::inject::Door;
use crate::mirror::stat;
use crate::rig::Rig;
use anyhow::{ensure, Result};

pub(super) const CASES: &[Case] = &[Case::new(
    "mce_suspend",
    "the region's replicas stay current, what was written stays stale, and the device is found again: freeze() in rust/virtio.rs",
    suspend,
)
.limit(180)];

const SLEEP: &str = "/sys/power/mem_sleep";
const SLEPT: &str = "/sys/power/suspend_stats/success";
const ALARM: &str = "/sys/class/rtc/rtc0/wakealarm";

/// Sleeps for a second or two.
fn sleep() -> Result<()> {
    let before = file::number(SLEPT)?;
    file::write(ALARM, "0")?;
    file::write(ALARM, "+2")?;
    file::write("/sys/power/state", "mem")?;
    ensure!(
        file::number(SLEPT)? == before + 1,
        "the machine did not sleep"
    );
    Ok(())
}

/// L1 cannot be asked for a true machine check afterwards: the port to it does not survive the sleep. Frames that
/// are healed make `HardwareCorrupted` fall again, so that is not looked at.
fn must_survive(rig: &mut Rig, page: u64, version: u64) -> Result<()> {
    let struck = rig.strike(Door::Fail, page)?;
    ensure!(struck.result.is_ok(), "page {page}: {struck:?}");
    rig.must_be(page, version)
}

fn suspend(cx: &Context) -> Result<()> {
    const PAGES: u64 = 64;
    if !file::read(SLEEP).is_ok_and(|text| text.contains("deep")) {
        skip!("the machine cannot suspend to memory");
    }
    let _deep = Setting::change(SLEEP, "deep")?;
    let mut rig = rig(cx, "guest", PAGES)?;
    rig.fill(0, 2)?;
    let sessions = stat("host_sessions")?;
    sleep()?;
    // Before any epoch: what was current, and what was not.
    for page in 1..4 {
        rig.must_be_mirrored(page)?;
        must_survive(&mut rig, page, 1)?;
    }
    rig.must_lose(Door::Fail, 0)?;

    // The device has forgotten its queue, and the service what it held.
    again(sessions)?;
    rig.mirror.set("store", "host")?;
    rig.fill(4, 2)?;
    rig.sync()?;
    for (page, version) in [(4, 2), (5, 1)] {
        rig.must_be_mirrored(page)?;
        must_survive(&mut rig, page, version)?;
    }

    // The worker falls asleep in the middle of whatever it is doing, and wakes up.
    rig.mirror.set("interval_ms", "10")?;
    (16..PAGES).try_for_each(|page| rig.fill(page, 3))?;
    sleep()?;
    rig.mirror.wait_epochs(2)?;
    again(sessions + 1)?;
    rig.sync()?;
    must_survive(&mut rig, 16, 3)
}
