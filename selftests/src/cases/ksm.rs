// SPDX-License-Identifier: GPL-2.0

//! KSM makes one frame out of two, and two out of one.

use crate::case::{skip, Case, Context};
use crate::inject::Door;
use crate::memory::Seen;
use crate::pagemap;
use crate::rig::Rig;
use crate::{file, wait};
use anyhow::{ensure, Result};
use std::path::Path;

pub(super) const CASES: &[Case] = &[Case::new(
    "ksm",
    "write_protect_page() hands the dirty bit on; what has a frame of its own again is stale",
    merge_and_break,
)];

const KSM: &str = "/sys/kernel/mm/ksm";

/// KSM at work, until the value is dropped.
struct Running;

impl Running {
    fn start() -> Result<Self> {
        if !Path::new(KSM).exists() {
            skip!("no KSM");
        }
        let dir = Path::new(KSM);
        file::write(dir.join("sleep_millisecs"), "0")?;
        file::write(dir.join("pages_to_scan"), "1000")?;
        file::write(dir.join("run"), "1")?;
        Ok(Self)
    }

    /// What is merged stays so.
    fn pause(&self) -> Result<()> {
        file::write(Path::new(KSM).join("run"), "0")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = file::try_write(Path::new(KSM).join("run"), "2");
        let _ = file::try_write(Path::new(KSM).join("run"), "0");
    }
}

/// Pages 2n and 2n + 1 have the same contents.
const PAIRS: u64 = 4;

fn fill(rig: &mut Rig, page: u64, version: u64) -> Result<()> {
    rig.victim.call(
        |scene, page, version| {
            scene.mem.fill_as(page, page / 2, version);
            Ok(0)
        },
        page,
        version,
    )?;
    Ok(())
}

fn seen(rig: &mut Rig, page: u64, version: u64) -> Result<Seen> {
    let raw = rig.victim.call(
        |scene, page, version| Ok(scene.mem.check_as(page, page / 2, version).to_raw()),
        page,
        version,
    )?;
    Ok(Seen::from_raw(raw))
}

fn merge_and_break(cx: &Context) -> Result<()> {
    let running = Running::start()?;
    let mut rig = Rig::new(cx, PAIRS * 2)?;
    for page in 0..PAIRS * 2 {
        fill(&mut rig, page, 2)?;
    }
    rig.sync()?;
    // Written since, so that the merged frame is one whose replica is old.
    for page in 0..PAIRS * 2 {
        fill(&mut rig, page, 3)?;
    }
    rig.victim.call(
        |scene, _, _| {
            scene.mem.advise(0, PAIRS * 2, libc::MADV_MERGEABLE)?;
            Ok(0)
        },
        0,
        0,
    )?;
    wait::until("all pairs are merged", wait::BOUND, || {
        for pair in 0..PAIRS {
            let frame = rig.frame(pair * 2)?;
            let merged = pagemap::flags(frame)? & pagemap::KSM != 0;
            if !merged || frame != rig.frame(pair * 2 + 1)? {
                return Ok(false);
            }
        }
        Ok(true)
    })?;

    // ksmd itself does not survive a broken page in its tree, with kmirror or without: it compares
    // its bytes, which after a machine check are not mapped any more. So it rests from here on.
    running.pause()?;

    // Merged and hit.
    rig.strike(Door::Fail, 0)?;
    for page in 0..2 {
        let seen = seen(&mut rig, page, 3)?;
        ensure!(
            !matches!(seen, Seen::Wrong(_)),
            "page {page}, merged: {seen:?}"
        );
    }
    // The same after an epoch, which may or may not have taken it.
    rig.sync()?;
    rig.strike(Door::FailRequired, 2)?;
    for page in 2..4 {
        let seen = seen(&mut rig, page, 3)?;
        ensure!(
            !matches!(seen, Seen::Wrong(_)),
            "page {page}, merged and synced: {seen:?}"
        );
    }

    // Broken again by a store, in a frame of its own.
    fill(&mut rig, 4, 4)?;
    ensure!(rig.frame(4)? != rig.frame(5)?, "not broken");
    rig.must_lose(Door::Fail, 4)?;
    ensure!(seen(&mut rig, 5, 3)? == Seen::Right);
    // No more merging, and one epoch: then it is an ordinary page.
    drop(running);
    fill(&mut rig, 6, 4)?;
    rig.sync()?;
    rig.must_be_mirrored(6)?;
    rig.strike(Door::Fail, 6)?;
    ensure!(
        seen(&mut rig, 6, 4)? == Seen::Right,
        "page 6 is not restored"
    );
    ensure!(seen(&mut rig, 7, 3)? == Seen::Right);
    Ok(())
}
