// SPDX-License-Identifier: GPL-2.0

//! io_uring's registered buffers: pinned for long, written at any time, and given back without ever
//! being marked dirty.

use crate::case::{Case, Context, Skip};
use crate::inject::Door;
use crate::memory::image;
use crate::rig::Rig;
use crate::PAGE_SIZE;
use anyhow::{ensure, Context as _, Result};
use io_uring::{opcode, types, IoUring};
use nix::sys::memfd::{memfd_create, MemFdCreateFlag};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::Mutex;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "uring_after_epoch",
        "PG_mirrored is cleared when a page is pinned for writing, not when it is given back",
        after_epoch,
    ),
    Case::new(
        "uring_before_epoch",
        "an epoch refuses a page with a reference that is not accounted for",
        before_epoch,
    ),
];

/// In the victim.
static RING: Mutex<Option<IoUring>> = Mutex::new(None);

/// Registers a page as buffer 0.
fn register(rig: &mut Rig, page: u64) -> Result<()> {
    let result = rig.victim.call(
        |scene, page, _| {
            let ring = IoUring::new(4).context("io_uring")?;
            let buffer = libc::iovec {
                iov_base: scene.mem.ptr(page, 0).cast(),
                iov_len: PAGE_SIZE,
            };
            // SAFETY: The page stays mapped as long as the ring.
            unsafe { ring.submitter().register_buffers(&[buffer]) }?;
            *RING.lock().unwrap() = Some(ring);
            Ok(0)
        },
        page,
        0,
    );
    match result {
        Err(error) if error.to_string().contains("os error 38") => {
            Err(Skip("no io_uring".into()).into())
        }
        other => other.map(drop),
    }
}

/// Reads version 2 of the page into the buffer.
fn read_fixed(rig: &mut Rig, page: u64) -> Result<()> {
    rig.victim.call(
        |scene, page, _| {
            let mut source = File::from(memfd_create(c"source", MemFdCreateFlag::empty())?);
            source.write_all(&image(page, 2))?;
            let mut ring = RING.lock().unwrap();
            let ring = ring.as_mut().context("no ring")?;
            let fd = types::Fd(source.as_raw_fd());
            let entry = opcode::ReadFixed::new(fd, scene.mem.ptr(page, 0), PAGE_SIZE as u32, 0);
            // SAFETY: The buffer and the file live until it is done, which is waited for.
            unsafe { ring.submission().push(&entry.build()) }?;
            ring.submit_and_wait(1)?;
            let done = ring.completion().next().context("no completion")?.result();
            ensure!(done == PAGE_SIZE as i32, "READ_FIXED: {done}");
            Ok(0)
        },
        page,
        0,
    )?;
    Ok(())
}

fn unregister(rig: &mut Rig) -> Result<()> {
    rig.victim.call(
        |_, _, _| {
            let ring = RING.lock().unwrap().take().context("no ring")?;
            ring.submitter().unregister_buffers()?;
            Ok(0)
        },
        0,
        0,
    )?;
    Ok(())
}

fn after_epoch(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 4)?;
    register(&mut rig, 0)?;
    rig.must_not_be_mirrored(0)?;
    read_fixed(&mut rig, 0)?;
    unregister(&mut rig)?;
    rig.must_lose(Door::Fail, 0)?;

    // Registered and written by nobody: no need to know whether.
    register(&mut rig, 1)?;
    unregister(&mut rig)?;
    rig.must_not_be_mirrored(1)?;
    rig.sync()?;
    rig.must_restore(Door::Fail, 1, 1)?;
    Ok(())
}

fn before_epoch(cx: &Context) -> Result<()> {
    let mut rig = Rig::new(cx, 4)?;
    register(&mut rig, 0)?;
    rig.sync()?;
    rig.must_be_mirrored(1)?;
    rig.must_not_be_mirrored(0)?;
    let pinned = rig.mirror.stat("pinned")?;
    ensure!(pinned >= 1, "{pinned} pages are counted as pinned");
    read_fixed(&mut rig, 0)?;
    unregister(&mut rig)?;
    rig.must_lose(Door::Fail, 0)?;
    rig.fill(0, 3)?;

    // Given back, it is as good as any.
    rig.sync()?;
    rig.must_be_mirrored(0)?;
    rig.must_restore(Door::Fail, 0, 3)?;
    Ok(())
}
