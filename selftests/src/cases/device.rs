// SPDX-License-Identifier: GPL-2.0

//! Devices with page tables of their own, as the kernel's HMM test driver mimics one: it writes to the
//! program's pages without a trace in the processor's page tables, and takes pages into memory of its own.

use crate::case::{skip, Case, Context};
use crate::inject::{self, Door};
use crate::memory::image;
use crate::rig::{must_be, must_be_lost, Rig};
use crate::victim::Scene;
use crate::{module, PAGE_SIZE};
use anyhow::{ensure, Context as _, Result};
use std::fs::File;
use std::os::fd::IntoRawFd;
use std::path::Path;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "device_written",
        "what a device may have written is stale for whoever shares the page: hmm_mirror_stale()",
        written,
    ),
    Case::new(
        "device_private",
        "pages in a device's own memory are passed over by the walk, and mirrored afresh when they are back",
        private,
    ),
];

const PAGES: u64 = 16;
const DEVICE: &str = "/dev/hmm_dmirror0";

/// `struct hmm_dmirror_cmd` of the kernel's lib/test_hmm_uapi.h.
#[repr(C)]
struct Command {
    addr: u64,
    ptr: u64,
    npages: u64,
    cpages: u64,
    faults: u64,
}

mod calls {
    use super::Command;
    nix::ioctl_readwrite!(write, b'H', 0x01, Command);
    nix::ioctl_readwrite!(migrate_to_device, b'H', 0x02, Command);
}

/// A victim whose pages are current, and the device, to which its address space is open since.
fn rig(cx: &Context) -> Result<(Rig, u64)> {
    if !Path::new(DEVICE).exists() && !module::probe("test_hmm") {
        skip!("no test_hmm");
    }
    let mut rig = Rig::synced(cx, PAGES)?;
    let device = rig.victim.call(
        |_, _, _| {
            let device = File::options().read(true).write(true).open(DEVICE)?;
            // It stays open as long as the process or a child of it lives.
            Ok(u64::try_from(device.into_raw_fd())?)
        },
        0,
        0,
    )?;
    Ok((rig, device))
}

/// The victim has the device write a page of it, in version 2.
fn write(scene: &mut Scene, device: u64, page: u64) -> Result<u64> {
    let image = image(page, 2);
    let mut command = Command {
        addr: scene.mem.addr(page),
        ptr: image.as_ptr() as u64,
        npages: 1,
        cpages: 0,
        faults: 0,
    };
    // SAFETY: The driver reads a page at `ptr` and writes to a page of our memory.
    unsafe { calls::write(i32::try_from(device)?, &mut command) }?;
    ensure!(command.cpages == 1, "the device has written nothing");
    Ok(0)
}

fn written(cx: &Context) -> Result<()> {
    let (mut rig, device) = rig(cx)?;
    for page in 0..4 {
        rig.victim.call(write, device, page)?;
        rig.must_be(page, 2)?;
    }
    rig.must_refuse(Door::Fail, 0)?;

    // The child's address space is open to no device, and so is the page when the parent has ended.
    let mut child = rig.victim.fork()?;
    rig.victim.end()?;
    let (pid, mem) = (child.pid, child.mem);
    let strike = |page| inject::strike_at(&rig.cgroup, "fail", pid, mem.addr(page));
    let (stale, current) = (strike(1)?, strike(8)?);
    ensure!(current.result.is_ok(), "{current:?}");
    must_be(&mut child, 8, 1)?;
    must_be_lost(&mut child, 1).with_context(|| format!("{stale:?}"))?;
    must_be(&mut child, 2, 2)?;
    rig.mirror.sync()?;
    let struck = strike(2)?;
    ensure!(struck.result.is_ok(), "{struck:?}");
    must_be(&mut child, 2, 2)
}

fn private(cx: &Context) -> Result<()> {
    const MOVED: u64 = 4;
    let (mut rig, device) = rig(cx)?;
    rig.victim.call(
        |scene, device, count| {
            let mut found = vec![0u8; usize::try_from(count)? * PAGE_SIZE];
            let mut command = Command {
                addr: scene.mem.addr(0),
                ptr: found.as_mut_ptr() as u64,
                npages: count,
                cpages: 0,
                faults: 0,
            };
            // SAFETY: The pages keep their contents, which the driver writes to `ptr` too.
            unsafe { calls::migrate_to_device(i32::try_from(device)?, &mut command) }?;
            ensure!(
                command.cpages == count,
                "{} pages have moved",
                command.cpages
            );
            Ok(0)
        },
        device,
        MOVED,
    )?;
    for page in 0..MOVED {
        ensure!(rig.frame(page).is_err(), "page {page} is still in a frame");
    }
    // The child's address space has these pages too, and no device that keeps the walk out.
    let mut child = rig.victim.fork()?;
    rig.sync()?;
    for page in 0..MOVED {
        must_be(&mut child, page, 1)?;
        rig.must_be(page, 1)?;
        rig.must_not_be_mirrored(page)?;
    }
    rig.victim.end()?;
    rig.mirror.sync()?;
    for page in [0, MOVED - 1, PAGES - 1] {
        let struck = inject::strike_at(&rig.cgroup, "fail", child.pid, child.mem.addr(page))?;
        ensure!(struck.result.is_ok(), "page {page}: {struck:?}");
        must_be(&mut child, page, 1)?;
    }
    Ok(())
}
