// SPDX-License-Identifier: GPL-2.0

//! The frame that breaks is a replica's.

use crate::case::{skip, Case, Context};
use crate::inject::{self, Door};
use crate::pagemap::{self, HWPOISON};
use crate::rig::Rig;
use crate::{file, mirror};
use anyhow::{ensure, Context as _, Result};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "replica_error",
        "an error in the mirror region drops the replica, clears PG_mirrored and retires the frame",
        error,
    ),
    Case::new(
        "replica_corrupt",
        "the hash of a replica is compared before it is used",
        corrupt,
    ),
];

/// The frame of the region that the replica of a page is in.
pub(super) fn replica(rig: &Rig, page: u64) -> Result<u64> {
    let frame = rig.frame(page)?;
    let (replica, owner) = mirror::replica_of(frame)?.context("no replica is listed")?;
    ensure!(
        owner == rig.cgroup.id()?,
        "the replica is of cgroup {owner}"
    );
    Ok(replica)
}

fn error(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 16)?;
    for (page, door) in (0..).zip(Door::ALL) {
        let frame = rig.frame(page)?;
        let broken = replica(&rig, page)?;
        let before = rig.counters()?;
        let free = mirror::region("free")?;
        let retired = file::keyed("/sys/kernel/kmirror/stat", "retired")?;
        let result = inject::strike(&rig.cgroup, door.as_str(), broken)?;
        println!("{door}: {result:?}");
        let after = rig.counters()?;
        ensure!(
            after.replica_lost == before.replica_lost + 1,
            "{door}: {after:?}"
        );
        ensure!(after.restored == before.restored, "{door}: {after:?}");
        ensure!(after.corrupted == before.corrupted + 4, "{door}: {after:?}");
        ensure!(
            pagemap::flags(broken)? & HWPOISON != 0,
            "{door}: not poisoned"
        );
        ensure!(
            file::keyed("/sys/kernel/kmirror/stat", "retired")? == retired + 1,
            "{door}: the slot is not retired"
        );
        ensure!(mirror::region("free")? <= free, "{door}: the slot is free");

        // The program has not noticed.
        ensure!(rig.frame(page)? == frame, "{door}: the primary has moved");
        rig.must_be(page, 1)?;
        rig.must_not_be_mirrored(page)?;
        ensure!(mirror::replica_of(frame)?.is_none(), "{door}: still listed");
    }
    // Without a replica there is no restore,
    rig.must_lose(Door::Fail, 0)?;
    // and the next epoch makes one, in another frame.
    rig.sync()?;
    for (page, door) in (1..).zip(Door::ALL) {
        let fresh = replica(&rig, page)?;
        ensure!(pagemap::flags(fresh)? & HWPOISON == 0, "in a broken frame");
        rig.must_restore(door, page, 1)?;
    }
    Ok(())
}

fn corrupt(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 4)?;
    let replica = replica(&rig, 0)?;
    // Overwritten, and nobody is told: as if it had rotted.
    if inject::report("silent", replica).is_err() {
        skip!("the injector has no door \"silent\"");
    }
    rig.must_refuse(Door::Fail, 0)?;
    rig.must_restore(Door::Fail, 1, 1)?;
    Ok(())
}
