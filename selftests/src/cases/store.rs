// SPDX-License-Identifier: GPL-2.0

//! A page that was written after its last epoch is never restored.

use crate::case::{Case, Context};
use crate::inject::Door;
use crate::rig::Rig;
use anyhow::Result;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "stale_after_store",
        "a dirty PTE that is met while the page is unmapped clears PG_mirrored",
        store,
    ),
    Case::new(
        "stale_after_second_epoch",
        "an epoch cleans the PTEs and flushes the TLB before it copies",
        second_epoch,
    ),
];

fn store(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 16)?;
    for (page, door) in (0..).zip(Door::ALL) {
        // One byte of a page is enough.
        rig.victim.call(
            |scene, page, _| {
                scene.mem.store(page, 511, 1);
                Ok(0)
            },
            page,
            0,
        )?;
        rig.must_refuse(door, page)?;
    }
    // Those beside them were not written.
    for (page, door) in (8..).zip(Door::ALL) {
        rig.must_restore(door, page, 1)?;
    }
    Ok(())
}

fn second_epoch(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 32)?;
    for version in 2..8 {
        // The same CPU's TLB has seen all these pages, and must see each first store anew.
        rig.victim.call(
            |scene, version, _| {
                (0..32).for_each(|page| scene.mem.fill(page, version));
                Ok(0)
            },
            version,
            0,
        )?;
        rig.must_refuse(Door::Fail, version)?;
        rig.fill(version, version)?;
        rig.sync()?;
        rig.must_restore(Door::Fail, version, version)?;
        rig.must_restore(Door::Mce, 20 + version, version)?;
        rig.sync()?;
    }
    Ok(())
}
