// SPDX-License-Identifier: GPL-2.0

//! Others who hold on to a page; and pages whose dirty bit is not one.

use crate::case::{skip, Case, Context};
use crate::inject::Door;
use crate::memory::Mapping;
use crate::pagemap::{self, MIRRORED};
use crate::rig::Rig;
use crate::PAGE_SIZE;
use anyhow::{ensure, Result};
use nix::errno::Errno;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "long_reference",
        "an epoch refuses a page with a reference that is not accounted for (here: a pipe's)",
        pipe,
    ),
    Case::new(
        "shadow_stack",
        "an epoch leaves the PTEs of shadow stacks alone (Write=0, Dirty=1 is their type)",
        shadow_stack,
    ),
];

/// In the victim: a pipe with a page of its memory in it, not a copy.
static PIPE: Mutex<Option<(OwnedFd, OwnedFd)>> = Mutex::new(None);

fn pipe(cx: &Context) -> Result<()> {
    let mut rig = Rig::new(cx, 4)?;
    rig.victim.call(
        |scene, _, _| {
            let (read, write) = nix::unistd::pipe()?;
            let iov = libc::iovec {
                iov_base: scene.mem.ptr(0, 0).cast(),
                iov_len: PAGE_SIZE,
            };
            // SAFETY: One vector, of memory that stays mapped.
            let put = unsafe { libc::vmsplice(write.as_raw_fd(), &iov, 1, 0) };
            ensure!(Errno::result(put)? == PAGE_SIZE as isize);
            *PIPE.lock().unwrap() = Some((read, write));
            Ok(0)
        },
        0,
        0,
    )?;
    rig.sync()?;
    rig.must_be_mirrored(1)?;
    rig.must_not_be_mirrored(0)?;
    ensure!(
        rig.mirror.stat("pinned")? >= 1,
        "no page is counted as pinned"
    );

    rig.victim.call(
        |_, _, _| {
            *PIPE.lock().unwrap() = None;
            Ok(0)
        },
        0,
        0,
    )?;
    rig.sync()?;
    rig.must_be_mirrored(0)?;
    rig.must_restore(Door::Fail, 0, 1)?;
    Ok(())
}

/// `map_shadow_stack()`, and its flag to put a token at the end of the stack.
const SYS_MAP_SHADOW_STACK: i64 = 453;
const SET_TOKEN: u64 = 1;

fn shadow_stack(cx: &Context) -> Result<()> {
    let mut rig = Rig::new(cx, 1)?;
    let addr = rig.victim.call(
        |_, _, _| {
            // SAFETY: The kernel chooses a place where nothing is.
            let addr = unsafe { libc::syscall(SYS_MAP_SHADOW_STACK, 0, PAGE_SIZE, SET_TOKEN) };
            // Nothing was made where there are none.
            Ok(Errno::result(addr).map_or(0, |addr| addr as u64))
        },
        0,
        0,
    )?;
    if addr == 0 {
        skip!("no shadow stacks");
    }
    rig.victim.mem = Mapping::at(addr, 1);
    rig.sync()?;
    let flags = pagemap::flags(rig.frame(0)?)?;
    ensure!(
        flags & MIRRORED == 0,
        "a page of a shadow stack is mirrored"
    );
    let counted = rig.mirror.stat("shadow_stack")?;
    ensure!(counted >= 1, "no page is counted as of a shadow stack");
    Ok(())
}
