// SPDX-License-Identifier: GPL-2.0

//! Out to swap and in again.

use crate::case::{skip, Case, Context};
use crate::inject::Door;
use crate::memory::Mapping;
use crate::pagemap::{self, Entry};
use crate::rig::Rig;
use crate::victim::Scene;
use crate::zram::Zram;
use crate::{file, wait, PAGE};
use anyhow::{ensure, Result};
use nix::sys::memfd::{memfd_create, MemFdCreateFlag};
use std::fs::File;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "swap_clean",
        "a frame that is freed loses PG_mirrored; what comes back from swap is mirrored afresh",
        clean,
    ),
    Case::new(
        "swap_dirty",
        "cleaning a PTE hands its dirty bit on (folio_mark_dirty()), or swap-out drops the page",
        dirty,
    ),
    Case::new(
        "swap_truncated",
        "shared memory that is swapped out huge is truncated in its middle (shmem_undo_range())",
        truncated,
    ),
];

const PAGES: u64 = 32;
/// In a huge page, and how many of them a file keeps.
const HUGE: u64 = 512;
const KEPT: u64 = 193;

/// Moves the pages of the victim out, from `first` on. (In the place of one that was lost and only
/// read since there is the zero page, which never goes.)
fn page_out(rig: &mut Rig, first: u64) -> Result<()> {
    // Pages on their way to the LRU are left out the first time.
    wait::until("all pages are swapped out", wait::BOUND, || {
        rig.victim.call(
            |scene, _, _| {
                scene.mem.advise(0, PAGES, libc::MADV_PAGEOUT)?;
                Ok(0)
            },
            0,
            0,
        )?;
        for page in first..PAGES {
            if pagemap::entry(rig.victim.pid, rig.mem().addr(page))? != Entry::Swapped {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

fn clean(cx: &Context) -> Result<()> {
    let mut zram = Zram::new(16 << 20)?;
    zram.swap_on()?;
    let mut rig = Rig::synced(cx, PAGES)?;
    page_out(&mut rig, 0)?;
    for page in 0..PAGES {
        rig.must_be(page, 1)?;
    }
    // In again, in some frame, with no replica that could be trusted.
    for page in 0..4 {
        rig.must_not_be_mirrored(page)?;
        rig.must_lose(Door::Fail, page)?;
    }
    rig.sync()?;
    for (page, door) in (4..).zip(Door::ALL) {
        rig.must_restore(door, page, 1)?;
    }
    // An epoch finds pages that are out, and leaves them there.
    page_out(&mut rig, 4)?;
    rig.sync()?;
    for page in 4..PAGES {
        rig.must_be(page, 1)?;
    }
    Ok(())
}

fn dirty(cx: &Context) -> Result<()> {
    let mut zram = Zram::new(16 << 20)?;
    zram.swap_on()?;
    let mut rig = Rig::synced(cx, PAGES)?;
    page_out(&mut rig, 0)?;
    // Some are only read now, and may keep their place in swap; the others are written.
    for page in 0..PAGES {
        if page % 2 == 0 {
            rig.fill(page, 2)?;
        } else {
            rig.must_be(page, 1)?;
        }
    }
    let version = |page: u64| 2 - page % 2;
    // The epoch takes the dirty bits away.
    rig.sync()?;
    page_out(&mut rig, 0)?;
    for page in 0..PAGES {
        rig.must_be(page, version(page))?;
    }
    for page in 0..8 {
        rig.must_not_lie(Door::Fail, page, version(page))?;
    }
    // Written, and out and in without an epoch: nothing knows of an older version.
    rig.fill(8, 3)?;
    page_out(&mut rig, 8)?;
    rig.must_be(8, 3)?;
    rig.must_lose(Door::Fail, 8)?;
    rig.must_be(10, 2)?;
    rig.must_be(11, 1)?;
    rig.must_be(10, 2)?;
    rig.must_be(11, 1)?;
    rig.sync()?;
    rig.must_restore(Door::Fail, 10, 2)?;
    rig.must_restore(Door::Fail, 11, 1)?;
    rig.must_be(12, 2)
}

/// One entry of swap then crosses the new end of the file. Linux 7.3 looks at it again and again, and
/// would show what is behind the end to whoever makes the file longer.
fn truncated(cx: &Context) -> Result<()> {
    let enabled = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let _policy = file::Setting::change(enabled, "advise")?;
    let mut zram = Zram::new(16 << 20)?;
    zram.swap_on()?;
    let mut rig = Rig::new(cx, 1)?;
    let addr = rig.victim.call(
        |scene, _, _| {
            let file = File::from(memfd_create(c"huge", MemFdCreateFlag::empty())?);
            file.set_len(HUGE * PAGE)?;
            scene.map_file(file, HUGE)?;
            scene.mem.advise(0, HUGE, libc::MADV_HUGEPAGE)?;
            (0..HUGE).for_each(|page| scene.mem.fill(page, 1));
            Ok(scene.mem.addr(0))
        },
        0,
        0,
    )?;
    rig.victim.mem = Mapping::at(addr, HUGE);
    if pagemap::flags(rig.frame(0)?)? & pagemap::THP == 0 {
        skip!("no huge page was to be had");
    }
    let count = |how: &str| file::keyed("/proc/vmstat", how);
    let (whole, parts) = (count("thp_swpout")?, count("thp_swpout_fallback")?);
    // What waits for the LRU is left out the first time.
    wait::until("it is swapped out", wait::BOUND, || {
        let advise = |scene: &mut Scene, _, _| {
            scene.mem.advise(0, HUGE, libc::MADV_PAGEOUT)?;
            Ok(0)
        };
        rig.victim.call(advise, 0, 0)?;
        Ok(count("thp_swpout")? + count("thp_swpout_fallback")? > whole + parts)
    })?;
    if count("thp_swpout")? == whole {
        skip!("it was not swapped out as a whole");
    }
    rig.victim.call(
        |scene, _, _| {
            scene.file()?.set_len(KEPT * PAGE)?;
            scene.file()?.set_len(HUGE * PAGE)?;
            for page in KEPT..HUGE {
                ensure!(scene.mem.load(page, 7) == 0, "page {page} is not empty");
            }
            Ok(0)
        },
        0,
        0,
    )?;
    for page in 0..KEPT {
        rig.must_be(page, 1)?;
    }
    Ok(())
}
