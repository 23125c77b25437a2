// SPDX-License-Identifier: GPL-2.0

//! The same page elsewhere, or with other rights; and another page in the same frame.

use crate::case::{Case, Context};
use crate::inject::{self, Door};
use crate::memory::{Mapping, Seen};
use crate::pagemap;
use crate::rig::{self, Rig};
use crate::victim::Victim;
use crate::PAGE_SIZE;
use anyhow::{ensure, Context as _, Result};
use nix::errno::Errno;
use nix::sched::{sched_setaffinity, CpuSet};
use nix::unistd::Pid;
use std::collections::HashSet;
use std::fs::File;
use std::os::fd::AsRawFd;

pub(super) const CASES: &[Case] = &[
    Case::new("mremap", "dirty bits move with the page", mremap),
    Case::new(
        "mprotect",
        "a restored page has the rights that it had",
        mprotect,
    ),
    Case::new(
        "frame_reuse",
        "freeing a page clears PG_mirrored: a replica is never given to another page",
        reuse,
    ),
];

fn mremap(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 8)?;
    rig.fill(0, 2)?;
    let frames = [rig.frame(0)?, rig.frame(1)?];
    let addr = rig.victim.call(
        |scene, _, _| {
            let (old, len) = (scene.mem.ptr(0, 0).cast(), scene.mem.len());
            let place = Mapping::untouched(scene.mem.pages())?;
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            // SAFETY: Both ranges are ours, and nothing refers to them.
            let new = unsafe { libc::mremap(old, len, len, flags, place.ptr(0, 0)) };
            ensure!(new != libc::MAP_FAILED, "mremap: {}", Errno::last());
            scene.mem = place;
            Ok(place.addr(0))
        },
        0,
        0,
    )?;
    rig.victim.mem = Mapping::at(addr, 8);
    ensure!(
        [rig.frame(0)?, rig.frame(1)?] == frames,
        "mremap has copied"
    );
    rig.must_refuse(Door::Fail, 0)?;
    for (page, door) in (1..).zip(Door::ALL) {
        rig.must_restore(door, page, 1)?;
    }
    Ok(())
}

fn protect(rig: &mut Rig, prot: i32) -> Result<()> {
    rig.victim.call(
        |scene, prot, _| {
            scene.mem.protect(i32::try_from(prot)?)?;
            Ok(0)
        },
        u64::try_from(prot)?,
        0,
    )?;
    Ok(())
}

/// Whether the kernel may write a page for the victim, by reading a byte of nothing into it.
fn is_writable(rig: &mut Rig, page: u64) -> Result<bool> {
    let writable = rig.victim.call(
        |scene, page, _| {
            let zero = File::open("/dev/zero")?;
            let to = scene.mem.ptr(page, 0).cast();
            // SAFETY: The byte is ours.
            let got = unsafe { libc::read(zero.as_raw_fd(), to, 1) };
            match Errno::result(got) {
                Ok(_) => Ok(1),
                Err(Errno::EFAULT) => Ok(0),
                Err(errno) => Err(errno).context("read"),
            }
        },
        page,
        0,
    )?;
    Ok(writable == 1)
}

fn mprotect(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 8)?;
    rig.fill(3, 2)?;
    protect(&mut rig, libc::PROT_READ)?;
    rig.must_restore(Door::Fail, 0, 1)?;
    ensure!(
        !is_writable(&mut rig, 0)?,
        "a read-only page has become writable"
    );
    rig.must_be(0, 1)?;
    rig.must_lose(Door::Fail, 3)?;

    protect(&mut rig, libc::PROT_NONE)?;
    let struck = rig.strike(Door::Mce, 1)?;
    ensure!(struck.result.is_ok(), "{struck:?}");
    protect(&mut rig, libc::PROT_READ | libc::PROT_WRITE)?;
    rig.must_be(1, 1)?;
    ensure!(
        is_writable(&mut rig, 1)?,
        "a page has not become writable again"
    );

    // A store after all of that is seen.
    rig.must_restore(Door::Fail, 2, 1)?;
    rig.sync()?;
    rig.fill(2, 2)?;
    rig.must_refuse(Door::Fail, 2)
}

fn reuse(cx: &Context) -> Result<()> {
    const FREED: u64 = 512;
    // On one CPU, whose list gives the page that was freed last to the next who wants one. Every
    // other page, so that they are not merged to larger ones and set aside.
    let mut cpu = CpuSet::new();
    cpu.set(0)?;
    sched_setaffinity(Pid::this(), &cpu)?;
    let mut rig = Rig::synced(cx, FREED * 2)?;
    let mut frames = HashSet::new();
    for page in (0..FREED * 2).step_by(2) {
        frames.insert(rig.frame(page)?);
    }
    rig.victim.call(
        |scene, pages, _| {
            for page in (0..pages).step_by(2) {
                scene.mem.advise(page, 1, libc::MADV_DONTNEED)?;
            }
            Ok(0)
        },
        FREED * 2,
        0,
    )?;
    for &frame in &frames {
        let flags = pagemap::flags(frame)?;
        ensure!(
            flags & pagemap::MIRRORED == 0,
            "frame {frame:#x} is free and mirrored"
        );
    }

    // Somebody unprotected, and somebody protected whose pages no epoch has seen.
    let open = cx.cgroup.child("open")?;
    let mut others = [
        (Victim::start(&open, FREED * 8, 7)?, open),
        (
            Victim::start(&rig.cgroup, FREED * 8, 8)?,
            rig.cgroup.clone(),
        ),
    ];
    let mut hits = 0;
    for ((victim, cgroup), version) in others.iter_mut().zip([7, 8]) {
        let mut left = 4;
        for page in 0..FREED * 8 {
            let frame = pagemap::frame(victim.pid, victim.mem.addr(page))?;
            if left == 0 || !frames.remove(&frame) {
                continue;
            }
            (left, hits) = (left - 1, hits + 1);
            inject::strike(cgroup, "fail", frame)??;
            let seen = rig::seen(victim, page, version)?;
            ensure!(seen == Seen::Lost, "frame {frame:#x}, used again: {seen:?}");
        }
    }
    ensure!(hits > 0, "no frame was used again: nothing is shown");
    ensure!(rig.counters()?.restored == 0);

    // With an epoch of its own it comes back with its own bytes.
    rig.sync()?;
    let (victim, cgroup) = &mut others[1];
    let page = FREED * 8 - 1;
    let struck = inject::strike_at(cgroup, "fail", victim.pid, victim.mem.addr(page))?;
    ensure!(struck.result.is_ok(), "{struck:?}");
    ensure!(rig::seen(victim, page, 8)? == Seen::Right);
    ensure!(victim.mem.len() == 8 * FREED as usize * PAGE_SIZE);
    Ok(())
}
