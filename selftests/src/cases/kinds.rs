// SPDX-License-Identifier: GPL-2.0

//! Memory that was locked, registered, or excepted from something: right, or left out.

use crate::case::{skip, Case, Context};
use crate::file::{self, Setting};
use crate::inject::Door;
use crate::memory::{Mapping, Seen};
use crate::pagemap::{self, Entry, MLOCKED};
use crate::rig::{self, Rig};
use crate::victim::Scene;
use crate::{wait, PAGE_SIZE};
use anyhow::{ensure, Context as _, Result};
use nix::errno::Errno;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "mlocked",
        "a restored page is locked as it was: remove_migration_ptes() on success",
        mlocked,
    ),
    Case::new(
        "mlock_lost",
        "a fault on a page that is lost for good is not made again: memory_failure_queued()",
        mlock_lost,
    ),
    Case::new(
        "userfault_registered",
        "memory under userfaultfd is an ordinary part of the walk",
        registered,
    ),
    Case::new(
        "not_forked",
        "MADV_DONTFORK and MADV_WIPEONFORK change what a child gets, not what is restored",
        not_forked,
    ),
    Case::new(
        "numa_balanced",
        "entries that NUMA balancing has marked are walked and restored as others are",
        balanced,
    ),
    Case::new(
        "pfn_mapped",
        "what has no struct page of its own is not walked: vm_normal_page()",
        pfn_mapped,
    ),
];

fn mlocked(cx: &Context) -> Result<()> {
    let mut rig = Rig::new(cx, 16)?;
    rig.victim.call(
        |scene, _, _| {
            // SAFETY: The range is ours.
            let ret = unsafe { libc::mlock(scene.mem.ptr(0, 0).cast(), scene.mem.len()) };
            Errno::result(ret).context("mlock")?;
            Ok(0)
        },
        0,
        0,
    )?;
    rig.sync()?;
    for (page, door) in (0..).zip(Door::ALL) {
        rig.must_be_mirrored(page)?;
        let new = rig.must_restore(door, page, 1)?;
        ensure!(
            pagemap::flags(new)? & MLOCKED != 0,
            "page {page} is not locked any more"
        );
    }
    rig.fill(8, 2)?;
    rig.must_refuse(Door::Fail, 8)
}

/// `mlock()` of memory with a lost page ends with an error, as without kmirror. It makes a fault again for
/// as long as it is told to.
fn mlock_lost(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 8)?;
    rig.fill(3, 2)?;
    let struck = rig.strike(Door::Fail, 3)?;
    let lost = !matches!(struck.new, Entry::Present(_));
    ensure!(lost, "not lost: {struck:x?}");
    let errno = rig.victim.call(
        |scene, _, _| {
            // SAFETY: The range is ours.
            let ret = unsafe { libc::mlock(scene.mem.ptr(0, 0).cast(), scene.mem.len()) };
            Ok(Errno::result(ret).map_or_else(|errno| errno as u64, |_| 0))
        },
        0,
        0,
    );
    let errno = errno.context("mlock() of a lost page does not end")?;
    ensure!(errno == Errno::ENOMEM as u64, "mlock(): error {errno}");
    for page in [0, 2, 4, 7] {
        rig.must_be(page, 1)?;
    }
    Ok(())
}

fn registered(cx: &Context) -> Result<()> {
    let mut rig = Rig::new(cx, 16)?;
    let register = |scene: &mut Scene, _, _| {
        // Stays registered as long as the process lives.
        std::mem::forget(crate::uffd::register(scene.mem)?);
        Ok(0)
    };
    rig.victim.call(register, 0, 0)?;
    rig.sync()?;
    for (page, door) in (0..).zip(Door::ALL) {
        rig.must_be_mirrored(page)?;
        rig.must_restore(door, page, 1)?;
    }
    rig.fill(8, 2)?;
    rig.must_refuse(Door::Fail, 8)
}

fn not_forked(cx: &Context) -> Result<()> {
    const HALF: u64 = 8;
    let mut rig = Rig::new(cx, 2 * HALF)?;
    rig.victim.call(
        |scene, _, _| {
            scene.mem.advise(0, HALF, libc::MADV_DONTFORK)?;
            scene.mem.advise(HALF, HALF, libc::MADV_WIPEONFORK)?;
            Ok(0)
        },
        0,
        0,
    )?;
    rig.sync()?;
    let mut child = rig.victim.fork()?;
    rig.sync()?;
    for (page, door) in (0..).zip(Door::ALL) {
        rig.must_restore(door, page, 1)?;
        rig.must_restore(door, HALF + page, 1)?;
    }
    let zeros = |scene: &mut Scene, page, _| Ok(scene.mem.compare(page, |_| 0).to_raw());
    let seen = Seen::from_raw(child.call(zeros, HALF, 0)?);
    ensure!(seen == Seen::Right, "the child has not got zeros: {seen:?}");
    // And what the child writes there is its own.
    child.call(
        |scene, page, version| {
            scene.mem.fill(page, version);
            Ok(0)
        },
        HALF,
        3,
    )?;
    rig.sync()?;
    rig.must_be(HALF, 1)?;
    ensure!(rig::seen(&mut child, HALF, 3)? == Seen::Right);
    Ok(())
}

fn balanced(cx: &Context) -> Result<()> {
    const SWITCH: &str = "/proc/sys/kernel/numa_balancing";
    if !Path::new(SWITCH).exists() || !Path::new("/sys/devices/system/node/node1").exists() {
        skip!("one node only, or no NUMA balancing");
    }
    let _on = Setting::change(SWITCH, "1")?;
    let marked = || file::keyed("/proc/vmstat", "numa_pte_updates");
    let before = marked()?;
    let mut rig = Rig::synced(cx, 1024)?;
    // Marked as it runs; it reads everything in between.
    wait::until("entries are marked", wait::BOUND, || {
        rig.must_be(rig.mem().pages() - 1, 1)?;
        Ok(marked()? > before + 512)
    })?;
    rig.sync()?;
    for (page, door) in (0..).zip(Door::ALL) {
        rig.must_restore(door, page, 1)?;
    }
    rig.fill(32, 2)?;
    rig.must_refuse(Door::Fail, 32)?;
    rig.must_be(33, 1)
}

/// Registers of a device that can be mapped.
fn resource() -> Result<Option<String>> {
    for device in fs::read_dir("/sys/bus/pci/devices")? {
        let device = device?.path();
        for number in 0..6 {
            let path = device.join(format!("resource{number}"));
            let large = fs::metadata(&path).is_ok_and(|meta| meta.len() >= PAGE_SIZE as u64);
            // Those that are ports and not memory cannot be mapped.
            let file = fs::OpenOptions::new().read(true).write(true).open(&path);
            if let (true, Ok(file)) = (large, file) {
                if Mapping::new(1, libc::MAP_SHARED, file.as_raw_fd()).is_ok() {
                    return Ok(path.to_str().map(str::to_owned));
                }
            }
        }
    }
    Ok(None)
}

fn pfn_mapped(cx: &Context) -> Result<()> {
    if resource()?.is_none() {
        skip!("no device has registers that can be mapped");
    }
    let mut rig = Rig::synced(cx, 16)?;
    let before = rig.mirror.stat("protected")?;
    rig.victim.call(
        |_, _, _| {
            let path = resource()?.context("it is gone")?;
            let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
            let device = Mapping::new(1, libc::MAP_SHARED, file.as_raw_fd())?;
            Ok(device.addr(0))
        },
        0,
        0,
    )?;
    rig.sync()?;
    let after = rig.mirror.stat("protected")?;
    // The order itself takes a page of stack or heap at most.
    ensure!(after <= before + 8, "{before} pages have become {after}");
    for (page, door) in (0..).zip(Door::ALL) {
        rig.must_restore(door, page, 1)?;
    }
    Ok(())
}
