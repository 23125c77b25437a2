// SPDX-License-Identifier: GPL-2.0

//! What nobody uses is passed over, and what is used after that is found.

use crate::case::{Case, Context};
use crate::inject::Door;
use crate::memory::image;
use crate::rig::Rig;
use crate::wait;
use anyhow::{Context as _, Result};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "rest_passed_over",
        "page tables that nobody has used are passed over, and looked at when somebody has",
        passed_over,
    ),
    Case::new(
        "rest_waits",
        "a page that waits for its copy does not let its page table rest",
        waits,
    ),
    Case::new(
        "rest_parts",
        "a page table that several mappings share is looked at for each of them",
        parts,
    ),
    Case::new(
        "rest_written_around",
        "a page that is written around the page tables is copied again, although its page table rests",
        written_around,
    ),
    Case::new(
        "rest_replica_dropped",
        "a page whose replica was dropped gets another, although its page table rests",
        dropped,
    ),
    Case::new(
        "rest_refused",
        "pages that cannot be copied are tried again in every epoch, although their page tables rest",
        refused,
    ),
];

/// 16 page tables, and a part of two more.
const PAGES: u64 = 16 * 512;

/// Page-table entries looked at in each epoch, as things are.
fn scanned(rig: &Rig) -> Result<u64> {
    let both =
        || -> Result<(u64, u64)> { Ok((rig.mirror.stat("scanned")?, rig.mirror.stat("epochs")?)) };
    let before = both()?;
    rig.mirror.wait_epochs(5)?;
    let after = both()?;
    Ok((after.0 - before.0) / (after.1 - before.1))
}

/// A victim that does nothing, all of whose pages are covered, and whose page tables rest.
fn resting(cx: &Context) -> Result<Rig> {
    let rig = Rig::synced(cx, PAGES)?;
    rig.mirror.set("interval_ms", "20")?;
    // What a walk finds in a page table that is used in part is looked at each time: of the victim's
    // memory two page tables at the ends, and what else it has; and one has its turn.
    let mut seen = 0;
    wait::until("the page tables rest", wait::BOUND, || {
        seen = scanned(&rig)?;
        Ok(seen < PAGES / 2)
    })
    .with_context(|| format!("{seen} entries an epoch"))?;
    println!("{seen} of {PAGES} entries an epoch");
    Ok(rig)
}

fn passed_over(cx: &Context) -> Result<()> {
    let mut rig = resting(cx)?;
    // In the middle of a page table, and in every one.
    for page in (100..PAGES).step_by(512) {
        rig.fill(page, 2)?;
    }
    // The dirty bit is there, whoever looks at it.
    rig.must_not_lie(Door::Fail, 100, 2)?;
    rig.mirror.wait_epochs(3)?;
    for (page, door) in (612..PAGES).step_by(512).zip(Door::ALL.into_iter().cycle()) {
        rig.must_restore(door, page, 2)?;
    }
    // A page that was read only is no reason to look at it for ever.
    rig.must_be(PAGES - 1, 1)?;
    wait::until("the page tables rest again", wait::BOUND, || {
        Ok(scanned(&rig)? < PAGES / 2)
    })
}

fn waits(cx: &Context) -> Result<()> {
    let mut rig = resting(cx)?;
    let pages = || (200..PAGES - 512).step_by(512);
    // Dirty in so many epochs that they are not copied any more.
    for version in 2..8 {
        for page in pages() {
            rig.fill(page, version)?;
        }
        rig.mirror.wait_epochs(1)?;
    }
    // One epoch finds them dirty and leaves them, the next finds them clean and copies them.
    rig.mirror.wait_epochs(3)?;
    for page in pages() {
        rig.must_be_mirrored(page)?;
    }
    rig.must_restore(Door::Fail, 200, 7)?;
    Ok(())
}

fn parts(cx: &Context) -> Result<()> {
    let mut rig = resting(cx)?;
    // However they lie, each page table has parts of at least two of these mappings.
    rig.victim.call(
        |scene, _, _| {
            for first in (0..PAGES - 200).step_by(400) {
                scene.mem.advise(first, 200, libc::MADV_SEQUENTIAL)?;
            }
            Ok(0)
        },
        0,
        0,
    )?;
    rig.mirror.wait_epochs(5)?;
    for version in 2..6 {
        for page in (100..PAGES - 200).step_by(200) {
            rig.fill(page, version)?;
        }
        rig.mirror.wait_epochs(4)?;
        for page in (100..PAGES - 200).step_by(200) {
            rig.must_be_mirrored(page)?;
        }
        // And they rest.
        rig.mirror.wait_epochs(13)?;
    }
    rig.must_restore(Door::Fail, 300, 5)?;
    Ok(())
}

fn written_around(cx: &Context) -> Result<()> {
    let mut rig = resting(cx)?;
    let pid = rig.victim.pid;
    let page = PAGES / 2 + 100;
    let mem = OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/mem"))?;
    mem.write_all_at(&image(page, 2), rig.mem().addr(page))?;
    wait::until("the page is covered again", wait::BOUND, || {
        rig.is_mirrored(page)
    })?;
    rig.must_restore(Door::Fail, page, 2)?;
    Ok(())
}

/// All replicas go, and there is no room for others for so many epochs.
fn without_room(cx: &Context, for_epochs: u64, door: Door) -> Result<()> {
    let mut rig = resting(cx)?;
    rig.mirror.set("max", "0")?;
    if for_epochs > 0 {
        rig.mirror.wait_epochs(for_epochs + 1)?;
    }
    rig.must_not_be_mirrored(PAGES / 2)?;
    rig.mirror.set("max", "max")?;
    rig.mirror.wait_epochs(3)?;
    for page in (50..PAGES).step_by(512) {
        rig.must_be_mirrored(page)?;
    }
    rig.must_restore(door, PAGES / 2, 1)?;
    Ok(())
}

fn dropped(cx: &Context) -> Result<()> {
    without_room(cx, 0, Door::Mce)
}

fn refused(cx: &Context) -> Result<()> {
    // All that has to be known of the pages that were dropped is known after two.
    without_room(cx, 2, Door::Fail)
}
