// SPDX-License-Identifier: GPL-2.0

//! A store of replicas: where the bytes are.
//!
//! All replicas of a page that are published at one time are of the same copy. Restoring takes any
//! of them, so that has to be so; see [`replica`](crate::replica).

use crate::{shelf::Shelf, tenants::Owners};
use kernel::prelude::*;
use kernel_ext::{
    memory_mirror::{self as mm, Primary, Target},
    page_block::Frame, //
};
use kmirror_core::{Backing, Owner, Refusal, Slot};

/// What a replica is made from: the page, or another replica of it.
pub(crate) trait Source {
    /// Copies it, safely if it is broken.
    ///
    /// # Errors
    ///
    /// [`EIO`] if it cannot be read; the contents of `to` then mean nothing.
    fn copy_to(&self, to: &Frame<'_>) -> Result;
}

impl Source for Primary<'_> {
    fn copy_to(&self, to: &Frame<'_>) -> Result {
        Primary::copy_to(self, to)
    }
}

impl Source for Frame<'_> {
    fn copy_to(&self, to: &Frame<'_>) -> Result {
        Frame::copy_to(self, to)
    }
}

/// A store of replicas. Everything is done under the lock of [`Store`](crate::store::Store).
pub(crate) trait Depot {
    /// What is kept for a block of slots.
    type Backing: Backing;

    /// Which replica is in which slot.
    fn shelf(&mut self) -> &mut Shelf<Self::Backing>;

    /// Whether replicas can be kept here now.
    ///
    /// # Errors
    ///
    /// The reason why not.
    fn ready(&self) -> Result<(), Refusal> {
        Ok(())
    }

    /// Copies it into the slot, and returns the hash of what is there now.
    ///
    /// # Errors
    ///
    /// The reason why not. What is in the slot then means nothing.
    ///
    /// Context: may sleep, for a bounded time. Locks held: the folio's, if it is the page.
    fn put(&mut self, slot: Slot, from: &impl Source) -> Result<u64, Refusal>;

    /// Copies what is in the slot into the page, and returns the hash of what has arrived there.
    ///
    /// # Errors
    ///
    /// [`mm::Refusal::BadReplica`] if it cannot be had.
    ///
    /// Context: may sleep, for a bounded time. Locks held: those of the folios.
    fn take(&mut self, slot: Slot, to: &mut Target<'_>) -> Result<u64, mm::Refusal>;

    /// Copies page `pfn` from `from` into a slot of its own, without publishing it.
    ///
    /// # Errors
    ///
    /// The reason why not. There is no replica here then.
    fn copy(
        &mut self,
        owners: &mut Owners,
        pfn: usize,
        from: &impl Source,
        owner: Owner,
        limit: u64,
    ) -> Result<(Slot, u64), Refusal> {
        let result = self.ready().and_then(|()| {
            let slot = self
                .shelf()
                .replicas(owners)
                .claim(pfn as u64, owner, limit)?;
            // Until it is published, nobody takes what is in the slot for a replica.
            self.put(slot, from).map(|hash| (slot, hash))
        });
        if result.is_err() {
            self.shelf().release(owners, pfn);
        }
        result
    }

    /// Fills `to` from the published replica of frame `pfn`.
    ///
    /// # Errors
    ///
    /// [`mm::Refusal::NoReplica`], or [`mm::Refusal::BadReplica`] if its contents are not those that
    /// were copied.
    fn fill(
        &mut self,
        owners: &mut Owners,
        pfn: usize,
        to: &mut Target<'_>,
    ) -> Result<(), mm::Refusal> {
        let replica = self.shelf().replicas(owners).lookup(pfn as u64);
        let replica = replica.ok_or(mm::Refusal::NoReplica)?;
        let hash = replica.hash.ok_or(mm::Refusal::NoReplica)?;
        if self.take(replica.slot, to)? == hash {
            Ok(())
        } else {
            Err(mm::Refusal::BadReplica)
        }
    }
}
