// SPDX-License-Identifier: GPL-2.0

//! Living on after a page is lost, and knowing about it.
//!
//! Whoever touches a page that the kernel could not save gets SIGBUS. The handler puts an empty page
//! in its place and counts, and the access is tried again. So a reader finds zeros where it expects
//! something else, and sees by [`count`] that this was no wrong byte but a loss that was owned up to.

use crate::PAGE_SIZE;
use anyhow::{Context, Result};
use nix::sys::signal::{sigaction, SaFlags, SigAction, SigHandler, SigSet, Signal};
use std::sync::atomic::{compiler_fence, AtomicU64, Ordering};

/// `BUS_MCEERR_AR`: the access has hit lost memory.
const MCEERR_AR: i32 = 4;

thread_local! {
    static LOST: AtomicU64 = const { AtomicU64::new(0) };
}

/// Pages that this thread has found lost.
pub fn count() -> u64 {
    // The handler runs between two instructions of this same thread: without the fence the compiler
    // may take two readings around a load for one.
    compiler_fence(Ordering::SeqCst);
    let count = LOST.with(|lost| lost.load(Ordering::Relaxed));
    compiler_fence(Ordering::SeqCst);
    count
}

/// Installs the handler, for the whole process.
pub fn install() -> Result<()> {
    let action = SigAction::new(
        SigHandler::SigAction(handler),
        SaFlags::SA_SIGINFO,
        SigSet::empty(),
    );
    // SAFETY: The handler only calls what may be called in one.
    unsafe { sigaction(Signal::SIGBUS, &action) }.context("sigaction")?;
    Ok(())
}

/// Lives on when told of broken memory that nobody has touched, for the whole process: who breaks
/// memory is told of it, too.
pub fn ignore() -> Result<()> {
    extern "C" fn nothing(_: i32) {}
    let action = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: The handler does nothing.
    unsafe { sigaction(Signal::SIGBUS, &action) }.context("sigaction")?;
    Ok(())
}

extern "C" fn handler(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: The kernel passes a valid structure, which has an address for SIGBUS.
    let (code, addr) = unsafe { ((*info).si_code, (*info).si_addr()) };
    if code != MCEERR_AR {
        // Some other SIGBUS: die of it, when the access is tried again.
        // SAFETY: May be called in a handler.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
        return;
    }
    let page = addr.map_addr(|addr| addr & !(PAGE_SIZE - 1));
    // SAFETY: The page is one of a test's own mappings: nothing else is ever broken. What was in it
    // is lost.
    let fresh = unsafe {
        libc::mmap(
            page,
            PAGE_SIZE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    if fresh == page {
        LOST.with(|lost| lost.fetch_add(1, Ordering::SeqCst));
    } else {
        std::process::abort();
    }
}
