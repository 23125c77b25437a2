// SPDX-License-Identifier: GPL-2.0

//! Holes in shared memory, made while it is copied.

use crate::case::{Case, Context};
use crate::inject::Door;
use crate::memory::{word, Mapping, Seen};
use crate::rig::Rig;
use anyhow::{ensure, Result};
use nix::fcntl::{fallocate, FallocateFlags};
use nix::sys::memfd::{memfd_create, MemFdCreateFlag};
use std::os::fd::AsRawFd;

pub(super) const CASES: &[Case] = &[Case::new(
    "shmem_hole",
    "the folio lock around the copy: who punches a hole marks the folio dirty first and writes after",
    punch,
)];

const PAGES: u64 = 24;
/// The hole, in bytes of a page.
const HOLE: (u64, u64) = (512, 2048);

fn punch(cx: &Context) -> Result<()> {
    let mut rig = Rig::new(cx, 1)?;
    let addr = rig.victim.call(
        |scene, _, _| {
            let file = std::fs::File::from(memfd_create(c"hole", MemFdCreateFlag::empty())?);
            file.set_len(PAGES * crate::PAGE)?;
            scene.map_file(file, PAGES)?;
            (0..PAGES).for_each(|page| scene.mem.fill(page, 1));
            Ok(scene.mem.addr(0))
        },
        0,
        0,
    )?;
    rig.victim.mem = Mapping::at(addr, PAGES);

    let mut right = 0;
    for page in 0..PAGES {
        rig.fill(page, 2)?;
        // An epoch copies the page while a part of it is zeroed.
        let mirror = rig.mirror.clone();
        std::thread::scope(|scope| -> Result<()> {
            let sync = scope.spawn(|| mirror.sync());
            rig.victim.call(
                |scene, page, _| {
                    let mode =
                        FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                    let (from, len) = (page * crate::PAGE + HOLE.0, HOLE.1 - HOLE.0);
                    fallocate(scene.file()?.as_raw_fd(), mode, from as i64, len as i64)?;
                    Ok(0)
                },
                page,
                0,
            )?;
            sync.join()
                .map_err(|_| anyhow::anyhow!("the epoch has panicked"))?
        })?;
        rig.strike(Door::Fail, page)?;
        let raw = rig.victim.call(
            |scene, page, _| {
                let seen = scene.mem.compare(page, |index| {
                    let hole = HOLE.0 / 8..HOLE.1 / 8;
                    if hole.contains(&index) {
                        0
                    } else {
                        word(page, 2, index)
                    }
                });
                Ok(seen.to_raw())
            },
            page,
            0,
        )?;
        let seen = Seen::from_raw(raw);
        ensure!(!matches!(seen, Seen::Wrong(_)), "page {page}: {seen:?}");
        right += u64::from(seen == Seen::Right);
    }
    println!("{right} of {PAGES} restored");
    Ok(())
}
