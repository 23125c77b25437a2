// SPDX-License-Identifier: GPL-2.0

//! MADV_FREE drops the dirty bit without a word.

use crate::case::{Case, Context};
use crate::inject::Door;
use crate::memory::Seen;
use crate::rig::Rig;
use anyhow::{ensure, Result};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "lazyfree_restore",
        "a restore refuses a page that is not swap-backed",
        restore,
    ),
    Case::new(
        "lazyfree_epoch",
        "an epoch refuses a page that is not swap-backed",
        epoch,
    ),
];

fn free(rig: &mut Rig, page: u64) -> Result<()> {
    rig.victim.call(
        |scene, page, _| {
            scene.mem.advise(page, 1, libc::MADV_FREE)?;
            Ok(0)
        },
        page,
        0,
    )?;
    Ok(())
}

/// A page in version 2 that was freed lazily may read as version 2 or as zeros, or be lost.
fn must_not_be_older(rig: &mut Rig, page: u64, version: u64) -> Result<()> {
    let zeros = rig.victim.call(
        |scene, page, version| {
            let seen = scene.mem.check(page, version);
            let zeros = scene.mem.compare(page, |_| 0);
            Ok(u64::from(seen != Seen::Lost && zeros == Seen::Right) | seen.to_raw() << 1)
        },
        page,
        version,
    )?;
    let seen = Seen::from_raw(zeros >> 1);
    ensure!(
        zeros & 1 == 1 || !matches!(seen, Seen::Wrong(_)),
        "page {page}: neither version {version} nor zeros: {seen:?}"
    );
    Ok(())
}

fn restore(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 8)?;
    for page in 0..3 {
        rig.fill(page, 2)?;
        // The only sign of version 2 goes.
        free(&mut rig, page)?;
    }
    rig.strike(Door::Fail, 0)?;
    must_not_be_older(&mut rig, 0, 2)?;
    rig.strike(Door::Mce, 1)?;
    must_not_be_older(&mut rig, 1, 2)?;

    // Written after all, it is in use again.
    rig.fill(2, 3)?;
    rig.must_lose(Door::Fail, 2)?;
    ensure!(
        rig.counters()?.restored == 0,
        "a lazily freed page was restored"
    );
    rig.must_restore(Door::Fail, 4, 1)?;
    Ok(())
}

fn epoch(cx: &Context) -> Result<()> {
    // MADV_FREE passes over pages that are not on the LRU yet, which an epoch on demand sees to.
    let mut rig = Rig::synced(cx, 8)?;
    rig.mirror.set("mode", "off")?;
    for page in 0..4 {
        free(&mut rig, page)?;
    }
    rig.fill(1, 2)?;
    rig.mirror.track()?;
    rig.sync()?;
    // Not those that are freed, and not the one that is written again: the kernel has not found out
    // yet that this one is wanted.
    for page in 0..4 {
        rig.must_not_be_mirrored(page)?;
    }
    rig.must_be_mirrored(4)?;
    let counted = rig.mirror.stat("lazyfree")?;
    ensure!(counted >= 4, "{counted} pages are counted as lazily freed");
    rig.fill(1, 3)?;
    free(&mut rig, 1)?;
    rig.strike(Door::Fail, 1)?;
    must_not_be_older(&mut rig, 1, 3)
}
