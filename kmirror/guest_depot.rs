// SPDX-License-Identifier: GPL-2.0

//! The mirror region: replicas in the guest's own memory.

use crate::{
    depot::{Depot, Source},
    frames::Frames,
    shelf::Shelf,
    tenants::Owners, //
};
use core::ops::Range;
use kernel::prelude::*;
use kernel_ext::{
    memory_mirror::{self, Target},
    page_block::Frame, //
};
use kmirror_core::{Block, Refusal, Slot, SlotIndex, SLOTS_PER_BLOCK};

/// The slots of the mirror region, and the frames that they are.
pub(crate) struct GuestDepot {
    shelf: Shelf<Frames>,
    /// First frame and number of each block, by frame.
    by_frame: KVec<(usize, u32)>,
}

impl GuestDepot {
    /// A region without memory.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            shelf: Shelf::new()?,
            by_frame: KVec::new(),
        })
    }

    /// The first frames of all blocks, in order.
    pub(crate) fn first_frames(&self) -> impl Iterator<Item = usize> + '_ {
        self.by_frame.iter().map(|&(first, _)| first)
    }

    /// The blocks.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &Block<Frames>> {
        self.shelf.blocks.iter().flatten()
    }

    /// The slot that is in this frame.
    pub(crate) fn slot_of(&self, pfn: usize) -> Option<Slot> {
        let (first, index) = (pfn - pfn % SLOTS_PER_BLOCK, pfn % SLOTS_PER_BLOCK);
        let at = self
            .by_frame
            .binary_search_by_key(&first, |&(first, _)| first)
            .ok()?;
        Some(Slot::new(self.by_frame[at].1, SlotIndex::new(index)?))
    }

    /// The frame of a slot.
    pub(crate) fn frame(&self, slot: Slot) -> Option<Frame<'_>> {
        let block = self.shelf.blocks.get(slot.block() as usize)?.as_ref()?;
        block.backing().pages.frame(usize::from(slot.index().get()))
    }

    /// Makes room for so many blocks more.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn reserve(&mut self, blocks: usize) -> Result {
        self.shelf.reserve(blocks, GFP_KERNEL)?;
        self.by_frame.reserve(blocks, GFP_KERNEL)?;
        Ok(())
    }

    /// Takes a block, for which there is room, into use.
    pub(crate) fn attach(&mut self, frames: Frames) -> Result {
        let first = frames.pages.first_pfn();
        let number = self.shelf.attach(frames)?;
        let at = self.by_frame.partition_point(|&(other, _)| other < first);
        self.by_frame
            .insert_within_capacity(at, (first, number))
            .map_err(|_| ENOMEM)
    }

    /// The block with the fewest replicas.
    pub(crate) fn emptiest(&self) -> Option<u32> {
        self.shelf.emptiest()
    }

    /// A block that is in these frames, whole or in part.
    pub(crate) fn block_in(&self, frames: &Range<usize>) -> Option<u32> {
        let at = self
            .by_frame
            .partition_point(|&(first, _)| first + SLOTS_PER_BLOCK <= frames.start);
        let &(first, number) = self.by_frame.get(at)?;
        (first < frames.end).then_some(number)
    }

    /// Takes out a block, whose replicas are dropped.
    pub(crate) fn detach(&mut self, owners: &mut Owners, number: u32) -> Option<Block<Frames>> {
        let block = self.shelf.replicas(owners).evacuate(number, |pfn| {
            memory_mirror::clear_mirrored(pfn as usize);
        })?;
        self.by_frame.retain(|&mut (_, other)| other != number);
        Some(block)
    }
}

impl Depot for GuestDepot {
    type Backing = Frames;

    fn shelf(&mut self) -> &mut Shelf<Frames> {
        &mut self.shelf
    }

    fn put(&mut self, slot: Slot, from: &impl Source) -> Result<u64, Refusal> {
        let frame = self.frame(slot).ok_or(Refusal::Busy)?;
        from.copy_to(&frame).map_err(|_| Refusal::Busy)?;
        Ok(frame.hash())
    }

    fn take(&mut self, slot: Slot, to: &mut Target<'_>) -> Result<u64, memory_mirror::Refusal> {
        let frame = self.frame(slot).ok_or(memory_mirror::Refusal::NoReplica)?;
        to.fill_from(&frame)
            .map_err(|_| memory_mirror::Refusal::BadReplica)
    }
}
