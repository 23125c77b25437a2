// SPDX-License-Identifier: GPL-2.0

//! Memory management, as far as it is not about one page.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h),
//! [`include/linux/swap.h`](srctree/include/linux/swap.h)

use crate::helpers;
use kernel::{bindings, page::PAGE_SIZE};

/// Bytes that could be allocated now without swapping, by the kernel's own estimate.
pub fn available_bytes() -> u64 {
    // SAFETY: Reads counters only.
    let pages = unsafe { bindings::si_mem_available() };
    u64::try_from(pages).unwrap_or(0) * PAGE_SIZE as u64
}

/// The id of the cgroup that the user memory in this frame is charged to, at this moment.
/// [`None`] if there is no such page, or nobody knows.
pub fn charged_to(pfn: usize) -> Option<u64> {
    // SAFETY: Any number will do.
    let id = unsafe { helpers::kmirror_pfn_cgroup_id(pfn) };
    (id != 0).then_some(id)
}

/// Empties the per-CPU batches in which pages wait for the LRU lists, and with them the references
/// that these batches hold.
///
/// Context: may sleep. Runs work on all CPUs.
pub fn lru_add_drain_all() {
    // SAFETY: May be called in process context without locks.
    unsafe { bindings::lru_add_drain_all() }
}
