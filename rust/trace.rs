// SPDX-License-Identifier: GPL-2.0

//! The tracepoints `kmirror:*`.
//!
//! C header: `trace.h`

use crate::helpers;

/// An epoch of the cgroup with this id has ended, after copying so many pages.
#[inline]
pub fn epoch(cgroup: u64, epoch: u64, copied: u64, scan_ns: u64, copy_ns: u64) {
    // SAFETY: A tracepoint with arguments by value may be called anywhere.
    unsafe { helpers::kmirror_trace_epoch(cgroup, epoch, copied, scan_ns, copy_ns) }
}

/// The page of frame `pfn` was restored to frame `to`.
#[inline]
pub fn restore(cgroup: u64, pfn: usize, to: usize) {
    // SAFETY: As for `epoch()`.
    unsafe { helpers::kmirror_trace_restore(cgroup, pfn, to) }
}

/// The page of frame `pfn` has a replica and was not restored.
#[inline]
pub fn refuse(cgroup: u64, pfn: usize, why: &str) {
    // SAFETY: `why` is valid for its length during the call, which copies it.
    unsafe { helpers::kmirror_trace_refuse(cgroup, pfn, why.as_ptr().cast(), why.len()) }
}

/// The frame `pfn` of the mirror's own is lost, with the replica of `primary` unless that is 0.
#[inline]
pub fn replica_lost(pfn: usize, primary: usize) {
    // SAFETY: As for `epoch()`.
    unsafe { helpers::kmirror_trace_replica_lost(pfn, primary) }
}
