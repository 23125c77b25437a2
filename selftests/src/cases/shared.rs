// SPDX-License-Identifier: GPL-2.0

//! Shared memory by all its names: one page, several dirty bits, and write(2).

use crate::case::{Case, Context};
use crate::inject::{self, Door};
use crate::memory::{image, Mapping, Seen};
use crate::rig::Rig;
use crate::victim::{Scene, Victim};
use crate::{pagemap, wait, PAGE_SIZE};
use anyhow::{ensure, Context as _, Result};
use nix::sys::memfd::{memfd_create, MemFdCreateFlag};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "shared_restore",
        "shared memory is walked, copied and restored, by every name that it has",
        restore,
    ),
    Case::new(
        "shared_stale",
        "a store through any mapping, or write(2), makes the replica stale",
        stale,
    ),
    Case::new(
        "shared_foreign",
        "the dirty bits of mappings in other cgroups are cleaned and looked at too",
        foreign,
    ),
    Case::new(
        "shared_unmapped",
        "unmapping a dirty page clears its flag, and that of no other page",
        unmapped,
    ),
    Case::new(
        "shared_left",
        "shared memory that still waits for its copy when it is unmapped gets it all the same",
        left,
    ),
];

const PAGES: u64 = 16;

/// The ways to come by shared memory.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Anonymous,
    Memfd,
    Tmpfs,
    SysV,
}

const KINDS: [Kind; 4] = [Kind::Anonymous, Kind::Memfd, Kind::Tmpfs, Kind::SysV];

fn map(scene: &mut Scene, kind: Kind) -> Result<()> {
    let file = match kind {
        Kind::Anonymous => {
            let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
            scene.mem = Mapping::new(PAGES, flags, -1)?;
            return Ok(());
        }
        Kind::SysV => {
            scene.mem = Mapping::sysv(PAGES, 0)?;
            return Ok(());
        }
        Kind::Memfd => File::from(memfd_create(c"shared", MemFdCreateFlag::empty())?),
        Kind::Tmpfs => {
            let path = format!("/dev/shm/kmirror-{}", std::process::id());
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)?;
            std::fs::remove_file(path)?;
            file
        }
    };
    file.set_len(PAGES * crate::PAGE)?;
    scene.map_file(file, PAGES)
}

/// Gives the victim other memory, which is shared, and fills it.
fn share(rig: &mut Rig, kind: Kind) -> Result<()> {
    let addr = rig.victim.call(
        |scene, kind, _| {
            map(scene, KINDS[kind as usize])?;
            (0..PAGES).for_each(|page| scene.mem.fill(page, 1));
            Ok(scene.mem.addr(0))
        },
        kind as u64,
        0,
    )?;
    rig.victim.mem = Mapping::at(addr, PAGES);
    Ok(())
}

/// A victim whose memory is shared, and current.
fn rig(cx: &Context, kind: Kind) -> Result<Rig> {
    let mut rig = Rig::named(cx, &format!("{kind:?}"), 1)?;
    share(&mut rig, kind)?;
    rig.sync()?;
    for page in 0..PAGES {
        rig.must_be_mirrored(page)?;
    }
    Ok(rig)
}

fn restore(cx: &Context) -> Result<()> {
    for kind in KINDS {
        let mut rig = rig(cx, kind)?;
        for (page, door) in (0..).zip(Door::ALL) {
            rig.must_restore(door, page, 1)?;
        }
        // And again, from where it is now.
        rig.sync()?;
        rig.must_restore(Door::Fail, 0, 1)?;
        rig.fill(1, 2)?;
        rig.sync()?;
        rig.must_restore(Door::Fail, 1, 2)?;
        println!("{kind:?}: restored");
    }
    Ok(())
}

/// Writes a page of the victim's file.
fn write(scene: &mut Scene, page: u64, version: u64) -> Result<u64> {
    let file = scene.file()?;
    file.write_all_at(&image(page, version), page * crate::PAGE)?;
    Ok(scene.mem.addr(page))
}

fn stale(cx: &Context) -> Result<()> {
    for kind in KINDS {
        let mut rig = rig(cx, kind)?;
        rig.fill(0, 2)?;
        rig.must_refuse(Door::Fail, 0)?;
        rig.must_restore(Door::Fail, 1, 1)?;
        if matches!(kind, Kind::Memfd | Kind::Tmpfs) {
            rig.victim.call(write, 2, 2)?;
            rig.must_not_be_mirrored(2)?;
            rig.must_refuse(Door::Mce, 2)?;
            rig.victim.call(write, 3, 2)?;
            rig.sync()?;
            rig.must_restore(Door::Fail, 3, 2)?;
        }
    }
    Ok(())
}

fn foreign(cx: &Context) -> Result<()> {
    let mut rig = rig(cx, Kind::Memfd)?;
    let fd = rig
        .victim
        .call(|scene, _, _| Ok(scene.file()?.as_raw_fd() as u64), 0, 0)?;
    let open = cx.cgroup.child("open")?;
    let mut other = Victim::start(&open, 1, 9)?;
    // The other maps the victim's file too, and writes.
    let addr = other.call(
        |scene, pid, fd| {
            let file = File::options()
                .read(true)
                .write(true)
                .open(format!("/proc/{pid}/fd/{fd}"))?;
            scene.mem = Mapping::new(PAGES, libc::MAP_SHARED, file.as_raw_fd())?;
            (0..4).for_each(|page| scene.mem.fill(page, 2));
            Ok(scene.mem.addr(0))
        },
        u64::try_from(rig.victim.pid)?,
        fd,
    )?;
    other.mem = Mapping::at(addr, PAGES);
    // Both stand still while the frame is broken: the other is moved under the victim's cgroup.
    rig.must_be(0, 2)?;
    rig.must_refuse(Door::Fail, 0)?;
    rig.must_be(1, 2)?;

    // An epoch sees the other's stores, and cleans its dirty bits.
    rig.sync()?;
    for page in 1..3 {
        rig.must_restore(Door::Fail, page, 2)?;
        let seen = crate::rig::seen(&mut other, page, 2)?;
        ensure!(seen == Seen::Right, "page {page} of the other: {seen:?}");
    }
    rig.sync()?;
    other.call(
        |scene, _, _| {
            scene.mem.fill(1, 3);
            // The dirty bit goes with the mapping.
            scene.mem.unmap()?;
            Ok(0)
        },
        0,
        0,
    )?;
    rig.must_refuse(Door::Fail, 1)?;
    rig.must_restore(Door::Fail, 2, 2)?;
    Ok(())
}

/// Whether the page in this frame has the flag, mapped or not.
fn flag(frame: u64) -> Result<bool> {
    Ok(pagemap::flags(frame)? & pagemap::MIRRORED != 0)
}

fn unmapped(cx: &Context) -> Result<()> {
    let mut rig = rig(cx, Kind::Memfd)?;
    rig.fill(0, 2)?;
    let frames = [rig.frame(0)?, rig.frame(1)?];
    let addr = rig.victim.call(
        |scene, _, _| {
            scene.mem.unmap()?;
            scene.mem = Mapping::new(PAGES, libc::MAP_SHARED, scene.file()?.as_raw_fd())?;
            Ok(scene.mem.addr(0))
        },
        0,
        0,
    )?;
    ensure!(!flag(frames[0])?, "a page unmapped dirty is mirrored");
    ensure!(flag(frames[1])?, "a page unmapped clean is not mirrored");
    // Not mapped by anybody, it is restored all the same.
    inject::strike(&rig.cgroup, Door::Fail.as_str(), frames[1])??;
    rig.victim.mem = Mapping::at(addr, PAGES);
    rig.must_be(0, 2)?;
    rig.must_be(1, 1)?;
    ensure!(rig.frame(1)? != frames[1], "still the broken frame");
    ensure!(rig.counters()?.restored == 1);
    ensure!(rig.mem().len() == PAGES as usize * PAGE_SIZE);
    Ok(())
}

fn left(cx: &Context) -> Result<()> {
    let mut rig = Rig::new(cx, 1)?;
    // The epoch that begins with the mode would copy at once.
    rig.sync()?;
    share(&mut rig, Kind::Memfd)?;
    let deferred = rig.mirror.stat("deferred")?;
    // An epoch finds that it was written, and leaves it to the next. No dirty bit is left. (But for
    // frames that have had other replicas before.)
    rig.mirror.set("interval_ms", "250")?;
    wait::until("the new pages are left to rest", wait::BOUND, || {
        Ok(rig.mirror.stat("deferred")? >= deferred + PAGES / 2)
    })
    .with_context(|| rig.mirror.get("stat").unwrap_or_default())?;
    let frames = (0..PAGES).map(|page| rig.frame(page));
    let frames = frames.collect::<Result<Vec<u64>>>()?;
    rig.victim.call(
        |scene, _, _| {
            scene.mem.unmap()?;
            Ok(0)
        },
        0,
        0,
    )?;
    let epochs = rig.mirror.stat("epochs")?;
    wait::until("what was left is copied", wait::BOUND, || {
        let flags = frames.iter().map(|&frame| flag(frame));
        Ok(flags.collect::<Result<Vec<_>>>()?.into_iter().all(|is| is))
    })?;
    // If nobody had told, it would have been looked at when everything is, once in 64.
    let took = rig.mirror.stat("epochs")? - epochs;
    ensure!(took < 8, "copied after {took} epochs");
    Ok(())
}
