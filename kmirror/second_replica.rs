// SPDX-License-Identifier: GPL-2.0

//! The replica at the host of a page that has one in the region already.
//!
//! A page of one who has chosen both stores has a replica in the region alone if that was chosen only
//! now, if the host's service was not there when it was copied, or if it has been lost since. The
//! other replica is made from the first then and not from the page, which keeps its flag: nobody
//! is without protection because of a service that comes.
//!
//! What is published at the host then has the same hash as what is published in the region at that
//! moment, and nobody makes, drops or uses a replica meanwhile, since the lock is held. So all
//! replicas of the page are of one copy, as ever. Whether that copy is current is not known here and
//! does not matter: whoever writes to the page clears its flag, and whoever copies it again takes
//! both back first.

use crate::{
    depot::Depot,
    group::Group,
    store::Store, //
};
use kernel::prelude::*;
use kernel_ext::memory_mirror;
use kmirror_core::{Cursor, Place, Refusal, Verdict};

/// Replicas to look at before the lock is given to others.
const BUDGET: u32 = 256;

impl Store {
    /// Gives the pages of `group` that should have two replicas and may have one the other.
    ///
    /// Returns early if `stop` says so, or if there is no service (any more); the next epoch goes on
    /// then. A page for which there is no room stays as it is until it is copied again.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    ///
    /// Context: may sleep.
    pub(crate) fn complete(&self, group: &Group, stop: impl Fn() -> bool) -> Result {
        if !self.take_incomplete(group) {
            return Ok(());
        }
        let done = self.complete_all(group, stop);
        if !matches!(done, Ok(true)) {
            self.set_incomplete(group);
        }
        done.map(|_| ())
    }

    /// The same; whether it came to the end.
    fn complete_all(&self, group: &Group, stop: impl Fn() -> bool) -> Result<bool> {
        let mut pages = KVec::with_capacity(BUDGET as usize, GFP_KERNEL)?;
        let mut cursor = Cursor::default();
        loop {
            let last = self.in_region(group, &mut cursor, &mut pages);
            for &pfn in &pages {
                if stop() {
                    return Ok(false);
                }
                match self.second(group, pfn) {
                    Ok(()) => {}
                    Err(Refusal::NoSpace | Refusal::OverLimit) => return Ok(true),
                    Err(_) => return Ok(false),
                }
            }
            if last {
                return Ok(true);
            }
        }
    }

    /// The next pages with a replica in the region, from `cursor` on, and whether they are the last.
    fn in_region(&self, group: &Group, cursor: &mut Cursor, pages: &mut KVec<usize>) -> bool {
        let inner = &mut *self.inner.lock();
        pages.clear();
        let region = inner.guest.shelf();
        let swept = region.sweep(&mut inner.owners, cursor, BUDGET, |pfn, record| {
            if record.owner() == group.owner {
                // There is room for as many as are looked at.
                let _ = pages.push_within_capacity(pfn as usize);
            }
            Verdict::Keep
        });
        swept.done
    }

    /// Gives a page its other replica, if it should have two, has one in the region alone, and that
    /// is in use.
    ///
    /// # Errors
    ///
    /// The reason why there is none at the host.
    fn second(&self, group: &Group, pfn: usize) -> Result<(), Refusal> {
        let inner = &mut *self.inner.lock();
        let owners = &mut inner.owners;
        let wanted = owners.tenant(group.owner).is_some_and(|tenant| {
            tenant.tracked && tenant.place == Place::Both && core::ptr::eq(&*tenant.group, group)
        });
        if !wanted
            || !memory_mirror::is_mirrored(pfn)
            || inner.host.shelf().hash(owners, pfn).is_some()
        {
            return Ok(());
        }
        let Some(first) = inner.guest.shelf().replicas(owners).lookup(pfn as u64) else {
            return Ok(());
        };
        let (Some(hash), Some(frame)) = (first.hash, inner.guest.frame(first.slot)) else {
            return Ok(());
        };
        if first.record.owner() != group.owner {
            return Ok(());
        }
        let limit = owners.limit(group);
        let host = &mut inner.host;
        let (slot, copied) = host.copy(owners, pfn, &frame, group.owner, limit)?;
        let published = copied == hash
            && host
                .shelf()
                .replicas(owners)
                .publish(pfn as u64, slot, hash);
        if !published {
            // The replica in the region is not what was copied once: both are made anew.
            host.shelf().release(owners, pfn);
            memory_mirror::clear_mirrored(pfn);
        }
        Ok(())
    }

    /// Whether pages of `group` may lack a replica, which from here on somebody sees to.
    fn take_incomplete(&self, group: &Group) -> bool {
        let mut inner = self.inner.lock();
        let tenant = inner.owners.tenant_mut(group.owner);
        tenant.is_some_and(|tenant| core::mem::take(&mut tenant.incomplete))
    }

    fn set_incomplete(&self, group: &Group) {
        let mut inner = self.inner.lock();
        if let Some(tenant) = inner.owners.tenant_mut(group.owner) {
            tenant.incomplete = true;
        }
    }
}
