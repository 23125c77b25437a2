// SPDX-License-Identifier: GPL-2.0

//! Memory mirroring.
//!
//! C header: [`include/linux/memory_mirror.h`](srctree/include/linux/memory_mirror.h)

mod cache;
mod keeper;
mod walk;

pub use cache::{survey_cache, walk_cache, CacheCounts};
pub use keeper::{Keeper, Registration, Target};
pub use walk::{Counts, Handed, Primaries, Primary, Walk};

use crate::helpers;
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::atomic::{Acquire, Atomic, Release}, //
};

/// Why a page is not mirrored, or not restored: `enum mirror_refusal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody else holds the folio lock.
    Locked,
    /// Not memory that can be mirrored, or not any more.
    NotUser,
    /// Part of a huge page that cannot be mirrored or taken apart.
    Huge,
    /// Given away with `MADV_FREE`.
    Lazyfree,
    /// There are references that could be used for writing.
    Pinned,
    /// A secondary MMU may write to it.
    Notifier,
    /// Written since its replica was begun.
    Stale,
    /// There is no replica.
    NoReplica,
    /// The replica is damaged.
    BadReplica,
    /// No frame could be had to restore to.
    NoMemory,
}

impl Refusal {
    /// [`Ok`] for `MIRROR_OK`.
    fn from_raw(why: bindings::mirror_refusal) -> Result<(), Self> {
        Err(match why {
            bindings::mirror_refusal_MIRROR_OK => return Ok(()),
            bindings::mirror_refusal_MIRROR_LOCKED => Self::Locked,
            bindings::mirror_refusal_MIRROR_NOT_USER => Self::NotUser,
            bindings::mirror_refusal_MIRROR_HUGE => Self::Huge,
            bindings::mirror_refusal_MIRROR_LAZYFREE => Self::Lazyfree,
            bindings::mirror_refusal_MIRROR_PINNED => Self::Pinned,
            bindings::mirror_refusal_MIRROR_NOTIFIER => Self::Notifier,
            bindings::mirror_refusal_MIRROR_NO_REPLICA => Self::NoReplica,
            bindings::mirror_refusal_MIRROR_BAD_REPLICA => Self::BadReplica,
            bindings::mirror_refusal_MIRROR_NO_MEMORY => Self::NoMemory,
            // What we do not know is no reason to trust a replica.
            _ => Self::Stale,
        })
    }
}

/// As long as there is one, pages may have `PG_mirrored`: the kernel clears it where it has to be.
///
/// # Invariants
///
/// `memory_mirror_track(true)` was called for it, and has not been undone.
pub struct Tracking(());

impl Tracking {
    /// From here on pages may be begun.
    ///
    /// Context: may sleep. Takes the kernel's lock of CPU hotplug.
    pub fn start() -> Self {
        // SAFETY: Calls nest, and this one is undone when the value is dropped.
        unsafe { bindings::memory_mirror_track(true) };
        // INVARIANT: See above.
        Self(())
    }
}

impl Drop for Tracking {
    /// No page has `PG_mirrored` any more because of whom this was for.
    fn drop(&mut self) {
        // SAFETY: By the type invariant it has been called, and not undone.
        unsafe { bindings::memory_mirror_track(false) };
    }
}

/// Whether the page in this frame has `PG_mirrored`, at this moment.
pub fn is_mirrored(pfn: usize) -> bool {
    // SAFETY: Any number will do.
    unsafe { helpers::kmirror_pfn_mirrored(pfn) }
}

/// Whether nobody has the frame, at this moment: what was in it is of no use to anybody.
pub fn is_free(pfn: usize) -> bool {
    // SAFETY: Any number will do.
    unsafe { helpers::kmirror_pfn_free(pfn) }
}

/// How often [`clear_mirrored`] was called. See [`times_cleared`].
static CLEARED: Atomic<u64> = Atomic::new(0);

/// Changes whenever a replica was dropped that its page may still need: a walk that passes over
/// page tables which nobody uses would not find such a page.
///
/// A page is seen as cleared by a walk that begins after the number was read, or the number read
/// before the next walk is another one.
pub fn times_cleared() -> u64 {
    CLEARED.load(Acquire)
}

/// The next walk of everybody is to look at everything.
pub fn look_at_all() {
    CLEARED.fetch_add(1u64, Release);
}

/// Clears `PG_mirrored` of the page in this frame: its replica is of no use any more.
///
/// That the frame may have been given to somebody else does no harm: a replica too few.
pub fn clear_mirrored(pfn: usize) {
    // SAFETY: Any number will do; the flag is cleared atomically.
    unsafe { helpers::kmirror_pfn_drop_mirrored(pfn) }
    look_at_all();
}

/// Recovers from an error that nobody has run into yet, if there is a current replica.
///
/// # Errors
///
/// [`ENOENT`] if there is none, [`EHWPOISON`] if the frame is poisoned already, [`ENXIO`] if there
/// is no such memory. Nothing has changed then.
///
/// Context: may sleep. Calls back into the [`Keeper`].
pub fn recover(pfn: usize) -> Result {
    // SAFETY: Any number will do.
    to_result(unsafe { bindings::memory_mirror_recover(pfn) })
}

/// Looks whether a frame can be read that may have broken together with another. One that cannot is
/// lost: its page is restored, or else it is gone, as if the error had been reported. Returns
/// whether the frame was taken out of use for that.
///
/// # Errors
///
/// [`EHWPOISON`] if the frame is poisoned already, [`ENXIO`] if there is no such memory,
/// [`ENOMEM`], or those of `memory_failure()`.
///
/// Context: may sleep. Calls back into the [`Keeper`].
pub fn check(pfn: usize) -> Result<bool> {
    // SAFETY: Any number will do.
    let lost = unsafe { bindings::memory_mirror_check(pfn) };
    to_result(lost.min(0))?;
    Ok(lost > 0)
}

/// Whether the frame was taken out of use, and nobody holds it.
pub fn is_retired(pfn: usize) -> bool {
    // SAFETY: Any number will do.
    unsafe { helpers::kmirror_pfn_retired(pfn) }
}

/// Has the host drop the memory behind a frame that is out of use, by free page reporting.
///
/// # Errors
///
/// [`ENODEV`] if there is no device for that, [`EBUSY`] if the frame is in use, or those of the
/// device.
///
/// Context: may sleep.
pub fn report(pfn: usize) -> Result {
    // SAFETY: Any number will do.
    to_result(unsafe { bindings::memory_mirror_report(pfn) })
}

/// Takes a frame back into use that was taken out of it when its page was restored, and that the
/// host was asked to put other memory behind, filled with zeros.
///
/// # Errors
///
/// [`EIO`] if it cannot be read, or is not filled with zeros; [`EBUSY`] if it is not out of use, or
/// somebody holds it; [`ENXIO`] if there is no such memory; [`ENOMEM`].
///
/// Context: may sleep.
pub fn reuse(pfn: usize) -> Result {
    // SAFETY: Any number will do. That the frame is not one of ours which somebody else still has a
    // use for, its reference count tells.
    to_result(unsafe { bindings::memory_mirror_reuse(pfn) })
}
