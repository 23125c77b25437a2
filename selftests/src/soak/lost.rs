// SPDX-License-Identifier: GPL-2.0

//! Going on after SIGBUS. The handler gets the lost page out of the way, more and more forcefully,
//! until the access works: first it drops this process's mapping of it, which for private memory
//! leaves a page of zeros, and for shared memory maps what is there by now; then it punches a hole
//! into what is shared. Whoever has watched the access is told what was done, and repairs the page.

use crate::PAGE;
use anyhow::{ensure, Context, Result};
use nix::sys::signal::{sigaction, SaFlags, SigAction, SigHandler, SigSet, Signal};
use std::sync::atomic::{compiler_fence, AtomicU64, Ordering::SeqCst};

/// Ranges that the handler may repair.
const SLOTS: usize = 64;

struct Slot {
    start: AtomicU64,
    end: AtomicU64,
    /// Bytes that are lost together; the lowest bit is set if the memory is shared.
    unit: AtomicU64,
}

static RANGES: [Slot; SLOTS] = [const {
    Slot {
        start: AtomicU64::new(0),
        end: AtomicU64::new(0),
        unit: AtomicU64::new(0),
    }
}; SLOTS];

/// How often the handler has run, how often bytes were given up, where it ran last, and how often
/// there since the watch began.
static FAULTS: AtomicU64 = AtomicU64::new(0);
static GONE: AtomicU64 = AtomicU64::new(0);
static LAST: AtomicU64 = AtomicU64::new(0);
static TRIES: AtomicU64 = AtomicU64::new(0);

/// A range is ours. Returns its number.
pub(super) fn guard(start: u64, pages: u64, unit: u64, shared: bool) -> Result<usize> {
    let free = RANGES.iter().position(|slot| slot.end.load(SeqCst) == 0);
    let free = free.context("too many areas")?;
    move_guard(free, start, pages);
    let unit = unit * PAGE | u64::from(shared);
    RANGES[free].unit.store(unit, SeqCst);
    Ok(free)
}

/// It is elsewhere now.
pub(super) fn move_guard(number: usize, start: u64, pages: u64) {
    RANGES[number].start.store(start, SeqCst);
    RANGES[number].end.store(start + pages * PAGE, SeqCst);
}

/// It is given back.
pub(super) fn unguard(number: usize) {
    RANGES[number].end.store(0, SeqCst);
}

/// What an access has met with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Met {
    /// SIGBUS, and it was lived through.
    pub(super) faulted: bool,
    /// Bytes are gone for it.
    pub(super) gone: bool,
}

/// Does something to one page that may be lost.
pub(super) fn watch<T>(access: impl FnOnce() -> T) -> (T, Met) {
    TRIES.store(0, SeqCst);
    let before = (FAULTS.load(SeqCst), GONE.load(SeqCst));
    // The handler runs between two instructions of this thread.
    compiler_fence(SeqCst);
    let result = access();
    compiler_fence(SeqCst);
    let met = Met {
        faulted: FAULTS.load(SeqCst) != before.0,
        gone: GONE.load(SeqCst) != before.1,
    };
    (result, met)
}

/// Installs the handler.
pub(super) fn install() -> Result<()> {
    let action = SigAction::new(
        SigHandler::SigAction(handler),
        SaFlags::SA_SIGINFO,
        SigSet::empty(),
    );
    // SAFETY: The handler only makes system calls and uses atomics.
    unsafe { sigaction(Signal::SIGBUS, &action) }.context("sigaction")?;
    Ok(())
}

/// How often this process has run into a lost page.
pub(super) fn faults() -> u64 {
    FAULTS.load(SeqCst)
}

extern "C" fn handler(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: The kernel passes a valid structure, which has an address for SIGBUS.
    let (addr, code) = unsafe { ((*info).si_addr(), (*info).si_code) };
    let (addr, code) = (
        addr.expose_provenance() as u64,
        u64::from(code.unsigned_abs()),
    );
    let slot = RANGES.iter().find(|slot| {
        let end = slot.end.load(SeqCst);
        end != 0 && addr < end && addr >= slot.start.load(SeqCst)
    });
    let Some(slot) = slot else {
        // Not ours to repair: die of it, when the access is tried again.
        tell(addr, code, u64::MAX);
        // SAFETY: May be called in a handler.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
        return;
    };
    let (unit, shared) = (slot.unit.load(SeqCst) & !1, slot.unit.load(SeqCst) & 1 == 1);
    let page = addr & !(unit - 1);
    if LAST.swap(page, SeqCst) != page {
        TRIES.store(0, SeqCst);
    }
    let tries = TRIES.fetch_add(1, SeqCst);
    if tries > 8 {
        // It cannot be repaired.
        tell(addr, code, tries);
        // SAFETY: As above.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
        return;
    }
    FAULTS.fetch_add(1, SeqCst);
    if drop_page(page, unit, shared && tries > 0).is_err() || !shared || tries > 0 {
        GONE.fetch_add(1, SeqCst);
    }
}

/// Says on stderr why the process is about to die, as a signal handler may.
fn tell(addr: u64, code: u64, tries: u64) {
    let mut line =
        *b"soak: SIGBUS at 0x0000000000000000, code 0x0000000000000000, tried 0x0000000000000000 times\n";
    for (at, number) in [(18, addr), (43, code), (69, tries)] {
        for digit in 0..16 {
            let nibble = (number >> (60 - 4 * digit) & 15) as usize;
            line[at + digit] = b"0123456789abcdef"[nibble];
        }
    }
    // SAFETY: The buffer lives until the call returns.
    unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
}

/// Drops the mapping of a lost page, and what it maps too if that is shared and `punch` says so.
pub(super) fn drop_page(page: u64, len: u64, punch: bool) -> Result<()> {
    let at = std::ptr::with_exposed_provenance_mut::<libc::c_void>(page as usize);
    let len = len as usize;
    // SAFETY: The range is one of the soak's own areas, and its bytes are lost.
    let done = unsafe {
        if libc::madvise(at, len, libc::MADV_DONTNEED) != 0 {
            // Locked memory is not dropped.
            libc::munlock(at, len);
            libc::madvise(at, len, libc::MADV_DONTNEED);
        }
        if punch {
            libc::madvise(at, len, libc::MADV_REMOVE)
        } else {
            0
        }
    };
    ensure!(done == 0, "the hole cannot be made");
    Ok(())
}
