// SPDX-License-Identifier: GPL-2.0

//! Replicas of one store: the map from a page to its slot, and what is remembered about each.

use crate::frames::ByFrame;
use kernel::{alloc::Flags, prelude::*};
use kernel_ext::memory_mirror;
use kmirror_core::{
    Backing, Block, Cursor, Owner, Record, Region, Replicas, Swept, Totals, Usage, Verdict,
};

/// The slots of one store.
pub(crate) struct Shelf<E> {
    map: ByFrame,
    region: Region,
    pub(crate) blocks: KVec<Option<Block<E>>>,
}

impl<E: Backing> Shelf<E> {
    /// One without slots.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            map: ByFrame::new()?,
            region: Region::new(),
            blocks: KVec::new(),
        })
    }

    /// How many slots there are, used and lost.
    pub(crate) fn totals(&self) -> Totals {
        self.region.totals()
    }

    /// The replicas, with those who pay for them.
    pub(crate) fn replicas<'a, U: Usage>(
        &'a mut self,
        owners: &'a mut U,
    ) -> Replicas<'a, ByFrame, E, U> {
        Replicas::new(&mut self.map, &mut self.region, &mut self.blocks, owners)
    }

    /// Makes holes for so many blocks more.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn reserve(&mut self, blocks: usize, flags: Flags) -> Result {
        let holes = self.blocks.iter().filter(|block| block.is_none()).count();
        for _ in holes..blocks {
            self.blocks.push(None, flags)?;
        }
        Ok(())
    }

    /// Puts a block into the first hole and returns its number.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] if there is no hole.
    pub(crate) fn attach(&mut self, backing: E) -> Result<u32> {
        let hole = self.blocks.iter().position(Option::is_none).ok_or(ENOMEM)?;
        self.region
            .attach(&mut self.blocks, hole as u32, Block::new(backing))
            .map_err(|_| EINVAL)?;
        Ok(hole as u32)
    }

    /// The block with the fewest replicas.
    pub(crate) fn emptiest(&self) -> Option<u32> {
        let used = |block: &Option<Block<E>>| block.as_ref().map(Block::used_slots);
        self.blocks
            .iter()
            .enumerate()
            .filter_map(|(number, block)| Some((number as u32, used(block)?)))
            .min_by_key(|&(_, used)| used)
            .map(|(number, _)| number)
    }

    /// The hash of the published replica of frame `pfn`.
    pub(crate) fn hash(&mut self, owners: &mut impl Usage, pfn: usize) -> Option<u64> {
        self.replicas(owners).lookup(pfn as u64)?.hash
    }

    /// Drops the replica of frame `pfn`.
    pub(crate) fn release(&mut self, owners: &mut impl Usage, pfn: usize) {
        self.replicas(owners).release(pfn as u64);
    }

    /// Drops all replicas of `owner`. Their pages lose the flag.
    pub(crate) fn release_owner(&mut self, owners: &mut impl Usage, owner: Owner) {
        self.replicas(owners)
            .release_owner(owner, |pfn| memory_mirror::clear_mirrored(pfn as usize));
    }

    /// Lets `judge` decide over up to `budget` replicas, from `cursor` on.
    pub(crate) fn sweep(
        &mut self,
        owners: &mut impl Usage,
        cursor: &mut Cursor,
        budget: u32,
        judge: impl FnMut(u64, Record) -> Verdict,
    ) -> Swept {
        self.replicas(owners).sweep(cursor, budget, judge)
    }
}
