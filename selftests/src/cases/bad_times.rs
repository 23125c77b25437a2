// SPDX-License-Identifier: GPL-2.0

//! CPUs that go, memory that is short, and a worker that cannot keep up.

use crate::case::{skip, Case, Context};
use crate::inject::Door;
use crate::memory::Mapping;
use crate::rig::Rig;
use crate::{file, wait};
use anyhow::{ensure, Result};
use std::path::Path;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "cpu_hotplug",
        "epochs and restores go on while a CPU goes and comes",
        hotplug,
    ),
    Case::new(
        "memory_limit",
        "replicas are not charged to the cgroup: protecting it kills nobody for memory.max",
        limit,
    ),
    Case::new(
        "late_epochs",
        "a worker that cannot keep its interval says so, and leaves CPU time to others",
        late,
    ),
];

/// A CPU that can be switched off. It is on again when the value goes.
struct Cpu(&'static str);

impl Drop for Cpu {
    fn drop(&mut self) {
        let _ = file::try_write(self.0, "1");
    }
}

fn hotplug(cx: &Context) -> Result<()> {
    let cpu = Cpu("/sys/devices/system/cpu/cpu1/online");
    if !Path::new(cpu.0).exists() {
        skip!("no CPU can be switched off");
    }
    let mut rig = Rig::synced(cx, 256)?;
    rig.mirror.set("interval_ms", "10")?;
    for round in 0..8 {
        let version = round + 2;
        file::write(cpu.0, if round % 2 == 0 { "0" } else { "1" })?;
        for page in 0..64 {
            rig.fill(page, version)?;
        }
        rig.mirror.wait_epochs(2)?;
        rig.sync()?;
        rig.must_restore(Door::ALL[round as usize % Door::ALL.len()], round, version)?;
        rig.must_be(100 + round, 1)?;
    }
    Ok(())
}

fn limit(cx: &Context) -> Result<()> {
    const PAGES: u64 = 4096;
    let mut rig = Rig::new(cx, 1)?;
    let max = rig.cgroup.file("memory.max");
    if !max.exists() {
        skip!("no memory controller");
    }
    // Room for the program and its pages, but not for as much again.
    let bytes = (PAGES + 2048) * crate::PAGE;
    file::write(&max, &bytes.to_string())?;
    let addr = rig.victim.call(
        |scene, _, _| {
            scene.mem = Mapping::anon(PAGES, 1)?;
            Ok(scene.mem.addr(0))
        },
        0,
        0,
    )?;
    rig.victim.mem = Mapping::at(addr, PAGES);
    rig.mirror.set("interval_ms", "20")?;
    rig.sync()?;
    ensure!(
        rig.mirror.number("current")? >= PAGES * crate::PAGE,
        "not all of it has replicas"
    );
    for page in 0..PAGES {
        rig.fill(page, 2)?;
    }
    rig.sync()?;
    // A restore takes a frame before it gives one back.
    for (page, door) in (0..).zip(Door::ALL) {
        rig.must_restore(door, page, 2)?;
    }
    let killed = file::keyed(rig.cgroup.file("memory.events"), "oom_kill")?;
    ensure!(killed == 0, "{killed} killed");
    Ok(())
}

fn late(cx: &Context) -> Result<()> {
    const PAGES: u64 = 16384;
    let rig = Rig::new(cx, PAGES)?;
    rig.mirror.set("interval_ms", "10")?;
    wait::until("epochs that were left out are counted", wait::BOUND, || {
        Ok(rig.mirror.stat("late")? > 0)
    })?;
    // Without more to copy it keeps up, or says that it does not.
    rig.sync()?;
    ensure!(rig.mirror.number("coverage")? > 950_000);
    Ok(())
}
