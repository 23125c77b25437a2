// SPDX-License-Identifier: GPL-2.0

//! Fork and copy on write: one frame, several owners, one replica.

use crate::case::{Case, Context};
use crate::inject::{self, Door};
use crate::pagemap::{self, Entry};
use crate::rig::{must_be, must_be_lost, Rig};
use crate::victim::Victim;
use anyhow::{bail, ensure, Result};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "fork_shared_page",
        "a restore maps the new frame for every process that shares the page",
        shared,
    ),
    Case::new(
        "fork_copy_on_write",
        "a copy made on write has a frame of its own, and no part in the other's replica",
        copy_on_write,
    ),
    Case::new(
        "fork_dirty",
        "dirty bits of every mapper are seen, and fork keeps the parent's",
        dirty,
    ),
];

fn frame(victim: &Victim, page: u64) -> Result<u64> {
    pagemap::frame(victim.pid, victim.mem.addr(page))
}

fn fill(victim: &mut Victim, page: u64, version: u64) -> Result<()> {
    victim.call(
        |scene, page, version| {
            scene.mem.fill(page, version);
            Ok(0)
        },
        page,
        version,
    )?;
    Ok(())
}

fn shared(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 8)?;
    let mut child = rig.victim.fork()?;
    for (page, door) in (0..).zip(Door::ALL) {
        let frame = frame(&child, page)?;
        ensure!(rig.frame(page)? == frame, "the page is not shared");
        // Whoever is looked at, it is the same page.
        let by = if page % 2 == 0 {
            rig.victim.pid
        } else {
            child.pid
        };
        let addr = rig.mem().addr(page);
        let struck = inject::strike_at(&rig.cgroup, door.as_str(), by, addr)?;
        let Entry::Present(new) = struck.new else {
            bail!("page {page} by {door}: lost");
        };
        must_be(&mut rig.victim, page, 1)?;
        must_be(&mut child, page, 1)?;
        ensure!(rig.frame(page)? == new, "the parent is elsewhere");
        ensure!(new != frame, "still the broken frame");
    }
    ensure!(rig.counters()?.restored == 5);

    // It is still copied on write.
    fill(&mut child, 0, 2)?;
    must_be(&mut rig.victim, 0, 1)?;
    must_be(&mut child, 0, 2)
}

fn copy_on_write(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 8)?;
    let mut child = rig.victim.fork()?;
    for page in 0..3 {
        fill(&mut child, page, 2)?;
    }
    // The parent's is the old frame, and current; the child's is new, and was never copied.
    rig.must_restore(Door::Fail, 0, 1)?;
    must_be(&mut child, 0, 2)?;
    let result = inject::strike(&rig.cgroup, "fail", frame(&child, 1)?)?;
    ensure!(result.is_ok(), "{result:?}");
    must_be_lost(&mut child, 1)?;
    rig.must_be(1, 1)?;

    // After an epoch both are safe.
    rig.sync()?;
    let result = inject::strike(&rig.cgroup, "fail", frame(&child, 2)?)?;
    ensure!(result.is_ok(), "{result:?}");
    must_be(&mut child, 2, 2)?;
    rig.must_restore(Door::Fail, 2, 1)?;
    Ok(())
}

fn dirty(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 8)?;
    for page in 0..4 {
        rig.fill(page, 2)?;
    }
    let mut child = rig.victim.fork()?;
    // Read by the child only, whose own entries may be clean.
    for page in 0..2 {
        rig.must_refuse(Door::Fail, page)?;
        must_be_lost(&mut child, page)?;
    }
    // Nor when the dirty one has gone away with its process.
    let pid = child.pid;
    let cgroup = rig.cgroup.clone();
    let frame = frame(&child, 2)?;
    rig.victim.end()?;
    let result = inject::strike_at(&cgroup, "fail", pid, child.mem.addr(2))?;
    ensure!(result.old == frame && result.result.is_ok(), "{result:?}");
    must_be_lost(&mut child, 2)?;
    must_be(&mut child, 4, 1)?;

    // And the orphan is protected like anybody.
    rig.mirror.sync()?;
    let struck = inject::strike_at(&cgroup, "fail", pid, child.mem.addr(3))?;
    ensure!(struck.result.is_ok(), "{struck:?}");
    must_be(&mut child, 3, 2)
}
