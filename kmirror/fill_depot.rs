// SPDX-License-Identifier: GPL-2.0

//! Replicas of pages that are filled with one word: that is remembered, and nothing else.
//!
//! They take no slot of the mirror region and nothing of the host's pool, and nobody is charged for
//! them. What is remembered is kept as for others, in a block of records without frames; the word is
//! where others have the hash. It is no less safe there than all that has to be remembered of any
//! replica, such as which page it is of.

use crate::{
    frames::{self, ByFrame},
    shelf::Shelf, //
};
use kernel::prelude::*;
use kernel_ext::{memory_mirror::Primary, scratch::Scratch};
use kmirror_core::{
    filling_word,
    Backing,
    Block,
    Cursor,
    Entries,
    Heat,
    Owner,
    Record,
    Refusal,
    Replicas,
    Slot,
    Swept,
    Usage,
    Verdict, //
};

/// Records of pages, with a word for each.
pub(crate) struct Words(KBox<Entries>);

impl Backing for Words {
    fn entries(&self) -> &Entries {
        &self.0
    }

    fn entries_mut(&mut self) -> &mut Entries {
        &mut self.0
    }
}

/// Nobody pays.
pub(crate) struct Free;

impl Usage for Free {
    fn used(&self, _: Owner) -> u64 {
        // Somebody may have something.
        1
    }

    fn charge(&mut self, _: Owner) {}

    fn uncharge(&mut self, _: Owner) {}
}

/// The words that pages are filled with.
pub(crate) struct FillDepot {
    shelf: Shelf<Words>,
    scratch: Scratch,
    free: Free,
}

impl FillDepot {
    /// One without records.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            shelf: Shelf::new()?,
            scratch: Scratch::new()?,
            free: Free,
        })
    }

    fn replicas(&mut self) -> Replicas<'_, ByFrame, Words, Free> {
        self.shelf.replicas(&mut self.free)
    }

    /// The word that the page is filled with, if it is.
    ///
    /// Others may write to it meanwhile. That makes no difference: what is looked at is a copy, made
    /// as any replica is, and what the word stands for is that copy.
    ///
    /// # Errors
    ///
    /// [`Refusal::Busy`] if the page cannot be read.
    pub(crate) fn word(&mut self, primary: &Primary<'_>) -> Result<Option<u64>, Refusal> {
        if !primary.seems_filled() {
            return Ok(None);
        }
        primary
            .copy_to(&self.scratch.frame())
            .map_err(|_| Refusal::Busy)?;
        Ok(filling_word(self.scratch.words()))
    }

    /// Publishes `word` as the replica of frame `pfn`.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]: there is no replica here then.
    pub(crate) fn keep(&mut self, pfn: usize, owner: Owner, word: u64) -> Result {
        let pfn = pfn as u64;
        let totals = self.shelf.totals();
        if totals.free() == 0 {
            // Under the folio's lock nobody waits for memory to be written back.
            let flags = GFP_NOWAIT | __GFP_NOWARN;
            self.shelf.reserve(1, flags)?;
            self.shelf.attach(Words(frames::entries(flags)?))?;
        }
        let slot = self.replicas().claim(pfn, owner, u64::MAX);
        let slot: Slot = slot.map_err(|_| ENOMEM)?;
        if !self.replicas().publish(pfn, slot, word) {
            self.release(pfn as usize);
            return Err(ENOMEM);
        }
        Ok(())
    }

    /// The word that the page in frame `pfn` was filled with when its replica was made.
    pub(crate) fn published(&mut self, pfn: usize) -> Option<u64> {
        self.replicas().lookup(pfn as u64)?.hash
    }

    /// Whose the replica of frame `pfn` is.
    pub(crate) fn owner_of(&mut self, pfn: usize) -> Option<Owner> {
        let replica = self.replicas().lookup(pfn as u64)?;
        Some(replica.record.owner())
    }

    /// Changes the heat of a page, see [`Replicas::reheat`]. Returns whether it has a replica here.
    pub(crate) fn reheat(
        &mut self,
        pfn: usize,
        near: &mut Option<Slot>,
        change: impl FnOnce(Heat) -> Heat,
    ) -> bool {
        self.replicas().reheat(pfn as u64, near, change)
    }

    /// Drops the replica of frame `pfn`, and tells how hot the page was if there was one.
    pub(crate) fn take(&mut self, pfn: usize) -> Option<Heat> {
        let replica = self.replicas().lookup(pfn as u64)?;
        self.release(pfn);
        Some(replica.record.heat())
    }

    /// Drops the replica of frame `pfn`.
    pub(crate) fn release(&mut self, pfn: usize) {
        self.shelf.release(&mut self.free, pfn);
    }

    /// Drops all replicas of `owner`. Their pages lose the flag.
    pub(crate) fn release_owner(&mut self, owner: Owner) {
        self.shelf.release_owner(&mut self.free, owner);
        self.trim();
    }

    /// How many pages there are.
    pub(crate) fn used(&self) -> u64 {
        self.shelf.totals().used
    }

    /// Lets `judge` decide, see [`Shelf::sweep`].
    pub(crate) fn sweep(
        &mut self,
        cursor: &mut Cursor,
        budget: u32,
        judge: impl FnMut(u64, Record) -> Verdict,
    ) -> Swept {
        let swept = self.shelf.sweep(&mut self.free, cursor, budget, judge);
        if swept.done {
            self.trim();
        }
        swept
    }

    /// Gives back the memory of blocks that nothing is in.
    fn trim(&mut self) {
        if self.shelf.totals().free() < 2 * kmirror_core::SLOTS_PER_BLOCK as u64 {
            return;
        }
        for number in 0..self.shelf.blocks.len() as u32 {
            let empty = self.replicas().block(number).map(Block::used_slots) == Some(0);
            if empty {
                drop(self.replicas().evacuate(number, |_| ()));
            }
        }
    }

    /// The blocks.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &Block<Words>> {
        self.shelf.blocks.iter().flatten()
    }
}
