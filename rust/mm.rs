// SPDX-License-Identifier: GPL-2.0

//! Memory management, as far as it is not about one page.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h),
//! [`include/linux/swap.h`](srctree/include/linux/swap.h)

use kernel::{bindings, page::PAGE_SIZE};

/// Bytes that could be allocated now without swapping, by the kernel's own estimate.
pub fn available_bytes() -> u64 {
    // SAFETY: Reads counters only.
    let pages = unsafe { bindings::si_mem_available() };
    u64::try_from(pages).unwrap_or(0) * PAGE_SIZE as u64
}

/// Empties the per-CPU batches in which pages wait for the LRU lists, and with them the references
/// that these batches hold.
///
/// Context: may sleep. Runs work on all CPUs.
pub fn lru_add_drain_all() {
    // SAFETY: May be called in process context without locks.
    unsafe { bindings::lru_add_drain_all() }
}
