// SPDX-License-Identifier: GPL-2.0

//! Stores that somebody else makes, past the page tables of the victim.

use crate::case::{Case, Context};
use crate::inject::Door;
use crate::memory::image;
use crate::rig::Rig;
use anyhow::{ensure, Result};
use nix::sys::ptrace;
use nix::sys::uio::{process_vm_writev, RemoteIoVec};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use std::fs::OpenOptions;
use std::io::IoSlice;
use std::os::unix::fs::FileExt;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "write_proc_mem",
        "taking a page for writing, or folio_mark_dirty(), clears PG_mirrored",
        |cx| written(cx, by_proc_mem),
    ),
    Case::new(
        "write_process_vm_writev",
        "taking a page for writing (pin_user_pages_remote()) clears PG_mirrored",
        |cx| written(cx, by_vm_writev),
    ),
    Case::new(
        "write_ptrace",
        "taking a page for writing (access_remote_vm()) clears PG_mirrored",
        |cx| written(cx, by_ptrace),
    ),
];

type Writer = fn(pid: i32, addr: u64, page: u64) -> Result<()>;

/// The first two pages are written, the next two are not.
fn written(cx: &Context, write: Writer) -> Result<()> {
    let mut rig = Rig::synced(cx, 4)?;
    let pid = rig.victim.pid;
    for page in 0..2 {
        write(pid, rig.mem().addr(page), page)?;
    }
    // The first is still right, so the write has arrived; but that is a look at it, and the other
    // is hit unseen.
    rig.must_be(0, 2)?;
    rig.must_lose(Door::Fail, 1)?;
    rig.must_lose(Door::Mce, 0)?;
    rig.must_restore(Door::Fail, 2, 1)?;

    // What comes after an epoch is as safe as ever.
    write(pid, rig.mem().addr(3), 3)?;
    rig.sync()?;
    rig.must_restore(Door::Fail, 3, 2)?;
    Ok(())
}

fn by_proc_mem(pid: i32, addr: u64, page: u64) -> Result<()> {
    let mem = OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/mem"))?;
    mem.write_all_at(&image(page, 2), addr)?;
    Ok(())
}

fn by_vm_writev(pid: i32, addr: u64, page: u64) -> Result<()> {
    let bytes = image(page, 2);
    let to = RemoteIoVec {
        base: usize::try_from(addr)?,
        len: bytes.len(),
    };
    let sent = process_vm_writev(Pid::from_raw(pid), &[IoSlice::new(&bytes)], &[to])?;
    ensure!(sent == bytes.len());
    Ok(())
}

fn by_ptrace(pid: i32, addr: u64, page: u64) -> Result<()> {
    let pid = Pid::from_raw(pid);
    ptrace::attach(pid)?;
    waitpid(pid, None)?;
    for (at, word) in (addr..).step_by(8).zip(image(page, 2).chunks_exact(8)) {
        let at = std::ptr::with_exposed_provenance_mut(usize::try_from(at)?);
        ptrace::write(pid, at, i64::from_ne_bytes(word.try_into()?))?;
    }
    ptrace::detach(pid, None)?;
    Ok(())
}
