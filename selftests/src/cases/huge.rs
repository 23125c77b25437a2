// SPDX-License-Identifier: GPL-2.0

//! Huge pages: one dirty bit for 512 pages.

use crate::case::{skip, Case, Context};
use crate::inject::Door;
use crate::memory::{Mapping, Seen};
use crate::pagemap;
use crate::rig::Rig;
use anyhow::{ensure, Result};

pub(super) const CASES: &[Case] = &[Case::new(
    "huge_page",
    "a huge mapping is split, or refused; a split copies the dirty bit down",
    huge,
)];

const PAGES: u64 = 512;

fn huge(cx: &Context) -> Result<()> {
    let mut rig = Rig::new(cx, 1)?;
    let addr = rig.victim.call(
        |scene, _, _| {
            // Room enough for an aligned one.
            let room = Mapping::new(PAGES * 2, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
            let aligned = room.addr(0).next_multiple_of(PAGES * crate::PAGE);
            scene.mem = Mapping::at(aligned, PAGES);
            scene.mem.advise(0, PAGES, libc::MADV_HUGEPAGE)?;
            (0..PAGES).for_each(|page| scene.mem.fill(page, 1));
            Ok(aligned)
        },
        0,
        0,
    )?;
    rig.victim.mem = Mapping::at(addr, PAGES);
    if pagemap::flags(rig.frame(0)?)? & pagemap::THP == 0 {
        skip!("no huge page was to be had");
    }
    rig.sync()?;
    let refused = rig.mirror.stat("huge")?;
    let mirrored = rig.is_mirrored(9)?;
    ensure!(
        mirrored || refused >= PAGES,
        "{refused} pages are counted as huge, page 9 is not mirrored"
    );

    // Written through the huge mapping, which is split afterwards.
    rig.fill(3, 2)?;
    rig.victim.call(
        |scene, _, _| {
            scene.mem.advise(100, 1, libc::MADV_DONTNEED)?;
            Ok(0)
        },
        0,
        0,
    )?;
    rig.must_lose(Door::Fail, 3)?;
    if mirrored {
        rig.must_restore(Door::Fail, 9, 1)?;
    }
    rig.must_not_lie(Door::Mce, 5, 1)?;

    // What is left of it is small pages, in time.
    rig.sync()?;
    rig.fill(200, 2)?;
    rig.must_lose(Door::Fail, 200)?;
    let seen = rig.must_not_lie(Door::Fail, 300, 1)?;
    println!("after the split, page 300 was {seen:?}");
    for page in 301..PAGES {
        ensure!(rig.seen(page, 1)? != Seen::Wrong(0), "page {page}");
    }
    Ok(())
}
