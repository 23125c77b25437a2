// SPDX-License-Identifier: GPL-2.0

//! The replicas of one page: they are made, used for a restore, and lost.

use crate::{
    depot::Depot,
    group::Group,
    store::{Inner, Store}, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use kernel_ext::memory_mirror::{self, Primary, Refusal, Target};
use kmirror_core::Heat;

/// What became of a page that was to be copied.
pub(crate) enum Copied {
    /// The replica is published.
    Done,
    /// There is no replica now, for this reason.
    Refused(kmirror_core::Refusal),
}

/// A frame of the mirror region that was lost.
pub(crate) struct Lost {
    /// The page whose replica was in it, and whose it is.
    pub(crate) replica: Option<(usize, Option<Arc<Group>>)>,
}

impl Inner {
    /// How hot the page is, which is not known of one without a replica.
    fn heat(&mut self, pfn: usize) -> Heat {
        let mut found = Heat::COLD;
        self.reheat(pfn, |heat| {
            found = heat;
            heat
        });
        found
    }

    /// Remembers how hot the page is.
    fn set_heat(&mut self, pfn: usize, heat: Heat) {
        self.reheat(pfn, |_| heat);
    }

    /// Changes the heat in all replicas of a page.
    fn reheat(&mut self, pfn: usize, mut change: impl FnMut(Heat) -> Heat) {
        let owners = &mut self.owners;
        let frame = pfn as u64;
        let guest = self.guest.shelf();
        guest.replicas(owners).reheat(frame, &mut None, &mut change);
        let host = self.host.shelf();
        host.replicas(owners).reheat(frame, &mut None, &mut change);
        self.fill.reheat(pfn, &mut None, change);
    }
}

impl Store {
    /// Lets `judge` change the heat of those of `pages` that have a replica. `frame` tells the number
    /// of a page's frame.
    pub(crate) fn reheat<P>(
        &self,
        pages: impl Iterator<Item = P>,
        frame: impl Fn(&P) -> usize,
        mut judge: impl FnMut(&mut P, Heat) -> Heat,
    ) {
        let inner = &mut *self.inner.lock();
        let owners = &mut inner.owners;
        let any_at_host = inner.host.shelf().totals().used > 0;
        let any_filled = inner.fill.used() > 0;
        let (mut near_guest, mut near_host, mut near_word) = (None, None, None);
        for mut page in pages {
            let pfn = frame(&page) as u64;
            // One heat for all replicas of a page.
            let mut new = None;
            let mut change = |heat| *new.get_or_insert_with(|| judge(&mut page, heat));
            // A page has a word, or bytes in some place; most likely as the one before it.
            let had_word = near_word.is_some();
            if had_word && inner.fill.reheat(pfn as usize, &mut near_word, &mut change) {
                continue;
            }
            let guest = inner.guest.shelf();
            let mut found = guest
                .replicas(owners)
                .reheat(pfn, &mut near_guest, &mut change);
            if any_at_host {
                let host = inner.host.shelf();
                found |= host
                    .replicas(owners)
                    .reheat(pfn, &mut near_host, &mut change);
            }
            if any_filled && !found && !had_word {
                inner.fill.reheat(pfn as usize, &mut near_word, change);
            }
        }
    }

    /// Copies a page, whose replica has been begun, to all stores that its owner has chosen, and
    /// publishes it when all have it.
    ///
    /// All replicas of a page that are published are of one copy, or a restore could take an older
    /// one: the flag speaks for the page, not for one of them. So each is taken back first, also in
    /// a store that is not chosen any more; and if the page was written between the copies, they
    /// are not the same, and none is published.
    ///
    /// A page of one who has chosen both stores is published in the region alone if there is no
    /// service at the host: better one replica than none. It gets the other when there is one again, see
    /// [`complete()`](Self::complete).
    ///
    /// Locks held: the folio's. It keeps the restore of this page out until the replica is whole.
    pub(crate) fn copy(&self, group: &Group, primary: &Primary<'_>) -> Copied {
        use kmirror_core::Refusal as Why;

        let pfn = primary.pfn();
        let inner = &mut *self.inner.lock();
        // The number may have been given to another since the epoch began.
        let tenant = inner.owners.tenant(group.owner);
        let Some(tenant) = tenant.filter(|t| t.tracked && core::ptr::eq(&*t.group, group)) else {
            inner.release(pfn);
            return Copied::Refused(Why::Busy);
        };
        let place = tenant.place;

        // All its other replicas go first, as below. Its heat is kept if it gets one elsewhere.
        let heat = match inner.fill.word(primary) {
            Ok(Some(word)) => {
                let heat = inner.heat(pfn);
                inner.release(pfn);
                if inner.fill.keep(pfn, group.owner, word).is_ok() {
                    inner.set_heat(pfn, heat);
                    return Copied::Done;
                }
                Some(heat)
            }
            Ok(None) => inner.fill.take(pfn),
            Err(why) => {
                inner.release(pfn);
                return Copied::Refused(why);
            }
        };

        let at_guest = match place.in_guest() {
            true => {
                let limit = inner.owners.limit(group);
                Some(
                    inner
                        .guest
                        .copy(&mut inner.owners, pfn, primary, group.owner, limit),
                )
            }
            false => {
                inner.guest.shelf().release(&mut inner.owners, pfn);
                None
            }
        };
        let at_host = match (place.at_host(), &at_guest) {
            (true, None | Some(Ok(_))) => {
                let limit = inner.owners.limit(group);
                Some(
                    inner
                        .host
                        .copy(&mut inner.owners, pfn, primary, group.owner, limit),
                )
            }
            _ => {
                inner.host.shelf().release(&mut inner.owners, pfn);
                None
            }
        };

        if let (Some(Ok(_)), Some(Err(Why::NoHost))) = (&at_guest, &at_host) {
            if let Some(tenant) = inner.owners.tenant_mut(group.owner) {
                tenant.incomplete = true;
            }
        }
        let copied = match (at_guest, at_host) {
            (Some(Ok(guest)), None | Some(Err(Why::NoHost))) => Ok((Some(guest), None)),
            (None, Some(Ok(host))) => Ok((None, Some(host))),
            (Some(Ok(guest)), Some(Ok(host))) if guest.1 == host.1 => Ok((Some(guest), Some(host))),
            (Some(Ok(_)), Some(Ok(_))) => Err(Why::Busy),
            (Some(Err(why)), _) | (_, Some(Err(why))) => Err(why),
            (None, None) => Err(Why::NoReplica),
        };
        let published = copied.map(|(guest, host)| {
            let owners = &mut inner.owners;
            guest.is_none_or(|(slot, hash)| {
                inner
                    .guest
                    .shelf()
                    .replicas(owners)
                    .publish(pfn as u64, slot, hash)
            }) && host.is_none_or(|(slot, hash)| {
                inner
                    .host
                    .shelf()
                    .replicas(owners)
                    .publish(pfn as u64, slot, hash)
            })
        });
        match published {
            Ok(true) => {
                if let Some(heat) = heat {
                    inner.set_heat(pfn, heat);
                }
                Copied::Done
            }
            Ok(false) => {
                inner.release(pfn);
                Copied::Refused(Why::NoReplica)
            }
            Err(why) => {
                inner.release(pfn);
                Copied::Refused(why)
            }
        }
    }

    /// Whether there is a replica of this frame.
    pub(crate) fn has(&self, pfn: usize) -> bool {
        let inner = &mut *self.inner.lock();
        let owners = &mut inner.owners;
        inner.guest.shelf().hash(owners, pfn).is_some()
            || inner.host.shelf().hash(owners, pfn).is_some()
            || inner.fill.published(pfn).is_some()
    }

    /// Fills `to` from a replica of frame `pfn`: with the word that the page was filled with, or that
    /// of the region, or, if there is none or it is damaged, that of the host.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoReplica`], or [`Refusal::BadReplica`] if the contents of none are those that
    /// were copied.
    pub(crate) fn fill(&self, pfn: usize, mut to: Target<'_>) -> Result<(), Refusal> {
        let inner = &mut *self.inner.lock();
        let owners = &mut inner.owners;
        let guest = inner.guest.shelf().hash(owners, pfn);
        let host = inner.host.shelf().hash(owners, pfn);
        // Always the same, see `copy()`. But to take the older one would be the worst that can
        // happen, so it is looked at again.
        if let (Some(guest), Some(host)) = (guest, host) {
            if guest != host {
                return Err(Refusal::BadReplica);
            }
        }
        if let Some(word) = inner.fill.published(pfn) {
            if guest.or(host).is_some() {
                return Err(Refusal::BadReplica);
            }
            to.fill_with(word);
            return Ok(());
        }
        match inner.guest.fill(owners, pfn, &mut to) {
            Err(why) if host.is_none() => Err(why),
            Err(_) => inner.host.fill(owners, pfn, &mut to),
            Ok(()) => Ok(()),
        }
    }

    /// Drops the replicas of frame `pfn`, and tells whose they were.
    pub(crate) fn release(&self, pfn: usize) -> Option<Arc<Group>> {
        let mut inner = self.inner.lock();
        let group = inner.group_of(pfn);
        inner.release(pfn);
        group
    }

    /// Whose the replica of frame `pfn` is.
    pub(crate) fn group_of(&self, pfn: usize) -> Option<Arc<Group>> {
        self.inner.lock().group_of(pfn)
    }

    /// Takes frame `pfn` out of use for good, if it is one of the region's. The page whose replica
    /// was in it loses the flag, and so is copied again by the next epoch, unless the host has
    /// another replica of it.
    pub(crate) fn retire(&self, pfn: usize) -> Option<Lost> {
        let inner = &mut *self.inner.lock();
        let slot = inner.guest.slot_of(pfn)?;
        // Poisoned before the lock is let go: it cannot be given back before that.
        if let Some(frame) = inner.guest.frame(slot) {
            frame.poison();
        }
        let block = inner.guest.shelf().blocks.get(slot.block() as usize);
        let record = block.and_then(|block| block.as_ref()?.record(slot.index()));
        let owners = &mut inner.owners;
        let primary = inner.guest.shelf().replicas(owners).retire(slot);
        let primary = primary.map(|pfn| pfn as usize);
        if let Some(primary) = primary {
            if inner.host.shelf().hash(owners, primary).is_none() {
                memory_mirror::clear_mirrored(primary);
            }
        }
        let group = record
            .and_then(|record| owners.tenant(record.owner()))
            .map(|tenant| tenant.group.clone());
        Some(Lost {
            replica: primary.map(|primary| (primary, group)),
        })
    }
}
