// SPDX-License-Identifier: GPL-2.0

//! One page, from primary to replica.
//!
//! ```text
//!   walk        PTE dirty? clear it, folio_mark_dirty() (which clears PG_mirrored)
//!               flush the TLB
//!   here        hot? leave it until it rests
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
    group::Group,
    store::{Copied, Store}, //
};
use kernel_ext::memory_mirror::{self as mm, HandedPage};
use kmirror_core::{on_dirty, on_rest, Decision, Heat, Refusal};

/// What became of a page that was handed over.
pub(crate) enum Outcome {
    /// It has a current replica.
    Copied,
    /// It is too hot; it will be copied when it rests.
    Deferred,
    /// It has none, for this reason.
    Refused(Refusal),
}

/// Brings the replica of a page up to date, at once if `forced`.
///
/// Context: may sleep.
pub(crate) fn page(store: &Store, group: &Group, page: &HandedPage<'_>, forced: bool) -> Outcome {
    let pfn = page.pfn();
    let (heat, decision) = match store.heat(pfn) {
        None => (None, Decision::Copy),
        Some(heat) => {
            let (heat, decision) = decide(heat, page.was_dirty(), forced);
            (Some(heat), decision)
        }
    };
    if let Some(heat) = heat {
        store.set_heat(pfn, heat);
    }
    if let Decision::Defer = decision {
        return Outcome::Deferred;
    }

    let primary = match page.begin() {
        Ok(primary) => primary,
        Err(why) => return Outcome::Refused(reason(why)),
    };
    match store.copy(group, pfn, &primary) {
        Copied::Done => {
            primary.finish();
            Outcome::Copied
        }
        // Dropping `primary` clears the flag.
        Copied::Refused(why) => Outcome::Refused(why),
    }
}

fn decide(heat: Heat, dirty: bool, forced: bool) -> (Heat, Decision) {
    if dirty {
        on_dirty(heat, forced)
    } else {
        on_rest(heat)
    }
}

/// The kernel's reasons in the words that users read.
pub(crate) fn reason(why: mm::Refusal) -> Refusal {
    match why {
        mm::Refusal::Locked => Refusal::Locked,
        mm::Refusal::NotAnon => Refusal::NotAnonymous,
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
