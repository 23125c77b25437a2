// SPDX-License-Identifier: GPL-2.0

//! The kernel moves pages to other frames by itself.

use crate::case::{skip, Case, Context};
use crate::file;
use crate::inject::Door;
use crate::memory::Seen;
use crate::rig::Rig;
use anyhow::{ensure, Context as _, Result};
use nix::errno::Errno;
use std::path::Path;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "migrate_soft_offline",
        "a page under migration hands its dirty bit on; PG_mirrored stays with the old frame",
        soft_offline,
    ),
    Case::new("migrate_nodes", "the same, moved to another node", nodes),
    Case::new(
        "migrate_compaction",
        "the same, moved while memory is compacted",
        compaction,
    ),
];

/// `MADV_SOFT_OFFLINE`: moves the page somewhere else, for sure.
const MADV_SOFT_OFFLINE: i32 = 101;

fn soft_offline(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 16)?;
    rig.fill(0, 2)?;
    rig.fill(1, 2)?;
    for page in 0..8 {
        let old = rig.frame(page)?;
        rig.victim.call(
            |scene, page, _| {
                scene.mem.advise(page, 1, MADV_SOFT_OFFLINE)?;
                Ok(0)
            },
            page,
            0,
        )?;
        ensure!(rig.frame(page)? != old, "page {page} has not moved");
    }
    rig.must_lose(Door::Fail, 0)?;
    rig.must_be(1, 2)?;
    rig.must_be(2, 1)?;
    // Nothing vouches for the new frame yet.
    rig.must_not_lie(Door::Mce, 3, 1)?;
    rig.sync()?;
    rig.must_restore(Door::Fail, 1, 2)?;
    rig.must_restore(Door::Mce, 2, 1)?;
    rig.must_restore(Door::Fail, 9, 1)?;
    Ok(())
}

fn nodes(cx: &Context) -> Result<()> {
    if !Path::new("/sys/devices/system/node/node1").exists() {
        skip!("one node only");
    }
    let mut rig = Rig::synced(cx, 16)?;
    rig.fill(0, 2)?;
    let mut moved = 0;
    for node in [1, 0, 1] {
        for page in 0..8 {
            let addr = rig.mem().addr(page) as *const libc::c_void;
            let mut status = 0;
            // SAFETY: One address, one node and one place for the answer, as `1` says.
            let ret = unsafe {
                libc::syscall(
                    libc::SYS_move_pages,
                    rig.victim.pid,
                    1,
                    &addr,
                    &node,
                    &mut status,
                    2,
                )
            };
            Errno::result(ret).context("move_pages")?;
            moved += u64::from(status == node);
        }
    }
    ensure!(moved >= 8, "{moved} pages on the node that was asked for");
    rig.must_lose(Door::Fail, 0)?;
    for page in 1..4 {
        rig.must_not_lie(Door::Fail, page, 1)?;
    }
    rig.sync()?;
    for page in 4..12 {
        rig.must_restore(Door::Fail, page, 1)?;
    }
    Ok(())
}

fn compaction(cx: &Context) -> Result<()> {
    const PAGES: u64 = 512;
    let mut rig = Rig::synced(cx, PAGES)?;
    let mut frames = Vec::new();
    for page in 0..PAGES {
        frames.push(rig.frame(page)?);
    }
    // Holes for it to close, and every fourth page written.
    rig.victim.call(
        |scene, _, _| {
            for page in (0..PAGES).step_by(2) {
                scene.mem.advise(page, 1, libc::MADV_DONTNEED)?;
            }
            for page in (1..PAGES).step_by(4) {
                scene.mem.fill(page, 2);
            }
            Ok(0)
        },
        0,
        0,
    )?;
    file::write("/proc/sys/vm/compact_memory", "1")?;
    let (mut stayed, mut moved) = (0, 0);
    for page in (1..PAGES).step_by(2) {
        let version = if page % 4 == 1 { 2 } else { 1 };
        let stays = rig.frame(page)? == frames[usize::try_from(page)?];
        // Of those that have moved all are looked at, of the others a few.
        if !stays || stayed < 16 {
            let seen = rig.must_not_lie(Door::Fail, page, version)?;
            let restored = seen == Seen::Right;
            ensure!(
                version == 1 || !restored,
                "page {page} was written, and is restored"
            );
            ensure!(
                version == 2 || !stays || restored,
                "page {page} has not moved, and is lost"
            );
        } else {
            rig.must_be(page, version)?;
        }
        if stays {
            stayed += 1;
        } else {
            moved += 1;
        }
    }
    println!("compaction has moved {moved} pages of {}", moved + stayed);
    Ok(())
}
