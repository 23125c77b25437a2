// SPDX-License-Identifier: GPL-2.0

//! One page, from primary to replica.
//!
//! ```text
//!   walk        PTE dirty? clear it, folio_mark_dirty() (which clears PG_mirrored)
//!               flush the TLB
//!   here        hot, or new? leave it until it rests
//!               lock the folio, set PG_mirrored, full barrier, look for references
//!               copy, hash, publish
//!               unlock
//! ```
//!
//! What may happen meanwhile, and why no stale replica comes of it:
//!
//! - A store through a PTE, before, during or after the copy: it sets the dirty bit first, and the
//!   TLB holds no entry that would let it pass without. Whoever restores the page unmaps it first,
//!   finds the bit, and refuses.
//! - A store by one who has taken the page for writing: he got his reference before the flag was
//!   set, and is seen as a reference too many; or he clears the flag after it was set.
//! - Unmapping, migration, swapping out: they pass a dirty bit on to `folio_mark_dirty()`, or free
//!   the frame. Either clears the flag.
//! - A restore of this page: it needs the folio lock.
//! - The replica is taken away: that needs the store's lock, clears the flag, and leaves nothing to
//!   be found.

use crate::{
    group::{Group, Progress},
    replica::Copied,
    store::Store, //
};
use core::borrow::Borrow;
use kernel_ext::memory_mirror::{self as mm, Handed};
use kmirror_core::{on_dirty, on_dirty_huge, on_rest, Decision, Heat, Refusal};

/// Decides what is to be done with pages that were handed over one after the other, before anything
/// is: nothing else has to be known of those that are deferred, which are most where much is written.
/// `first_dirty` is for those that are dirty and have no replica.
///
/// Context: may sleep.
pub(crate) fn decide<'a, H: Borrow<Handed<'a>>>(
    store: &Store,
    handed: impl Iterator<Item = H>,
    forced: bool,
    first_dirty: Decision,
    decisions: &mut [Decision],
) {
    store.reheat(
        handed.zip(decisions).map(|(handed, decision)| {
            *decision = judge_first(handed.borrow(), first_dirty);
            (handed, decision)
        }),
        // The heat of a huge page is that of its first.
        |(handed, _)| handed.borrow().pfn(),
        |(handed, decision), heat| {
            let (heat, what) = judge(heat, (*handed).borrow(), forced);
            **decision = what;
            heat
        },
    );
}

/// Brings the replicas of pages that were handed over together up to date, as was decided, and
/// counts in `done` what became of them.
///
/// Context: may sleep.
pub(crate) fn pages(
    store: &Store,
    group: &Group,
    handed: &Handed<'_>,
    decision: Decision,
    done: &mut Progress,
) {
    let count = handed.count() as u64;
    match decision {
        Decision::Copy => {}
        Decision::Defer => {
            done.total.deferred += count;
            return;
        }
        Decision::Split => {
            // If somebody has it locked, the next epoch tries again. A hugetlb page stays as it is, and
            // is copied when it rests.
            let _ = handed.split_mapping();
            done.total.deferred += count;
            return;
        }
    }

    let mut primaries = match handed.begin() {
        Ok(primaries) => primaries,
        Err(why) => {
            done.refused.count_refused(reason(why), count);
            return;
        }
    };
    while let Some(primary) = primaries.next() {
        match store.copy(group, &primary) {
            Copied::Done => {
                primary.finish();
                done.total.copied += 1;
            }
            // Dropping `primary` clears the flag.
            Copied::Refused(why) => done.refused.count_refused(why, 1),
        }
    }
}

/// Without a replica.
fn judge_first(handed: &Handed<'_>, first_dirty: Decision) -> Decision {
    if handed.was_dirty() && handed.count() == 1 {
        first_dirty
    } else {
        Decision::Copy
    }
}

/// With one.
fn judge(heat: Heat, handed: &Handed<'_>, forced: bool) -> (Heat, Decision) {
    if !handed.was_dirty() {
        on_rest(heat)
    } else if handed.count() > 1 {
        on_dirty_huge(heat, forced)
    } else {
        on_dirty(heat, forced)
    }
}

/// The kernel's reasons in the words that users read.
pub(crate) fn reason(why: mm::Refusal) -> Refusal {
    match why {
        mm::Refusal::Locked => Refusal::Locked,
        mm::Refusal::NotUser => Refusal::NotUser,
        mm::Refusal::Huge => Refusal::Huge,
        mm::Refusal::Lazyfree => Refusal::Lazyfree,
        mm::Refusal::Pinned => Refusal::Pinned,
        mm::Refusal::Notifier => Refusal::Notifier,
        mm::Refusal::Stale => Refusal::Stale,
        mm::Refusal::NoReplica => Refusal::NoReplica,
        mm::Refusal::BadReplica => Refusal::BadReplica,
        mm::Refusal::NoMemory => Refusal::NoMemory,
    }
}
