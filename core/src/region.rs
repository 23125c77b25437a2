// SPDX-License-Identifier: GPL-2.0

//! The blocks of the mirror region, and which of them have room.
//!
//! Blocks live in a slice with holes, so that one given back changes no other block's number. Those
//! with a free slot are on a doubly linked list that runs through them: every operation takes the
//! same short time however large and however full the region is.

use crate::block::{Backing, Block, Links};
use crate::record::Record;
use crate::slot::{Slot, SLOTS_PER_BLOCK};

/// How much there is of the mirror region. Slots are 4 KiB each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Blocks of 2 MiB.
    pub blocks: u32,
    /// Slots that hold a replica.
    pub used: u64,
    /// Slots whose frame was lost to an error.
    pub bad: u64,
}

impl Totals {
    /// Slots of all blocks.
    pub fn slots(&self) -> u64 {
        // Less than 2^32 blocks of 2^9 slots.
        u64::from(self.blocks) * SLOTS_PER_BLOCK as u64
    }

    /// Slots that may be allocated.
    pub fn free(&self) -> u64 {
        self.slots().saturating_sub(self.used + self.bad)
    }
}

/// Sums over the attached blocks, and the head of the list of those with room.
///
/// Invariants: a block of the slice is on the list exactly when it has a free slot, and the totals
/// are the sums over all blocks of the slice. Every call must be given the same slice (longer or
/// shorter by holes at its end), in which only [`attach`](Self::attach) and
/// [`detach`](Self::detach) fill and make holes. One that is not makes wrong totals and a region
/// that looks full, nothing worse.
#[derive(Debug, Default)]
pub struct Region {
    roomy: Option<u32>,
    totals: Totals,
}

impl Region {
    /// A region without blocks.
    pub const fn new() -> Self {
        Self {
            roomy: None,
            totals: Totals {
                blocks: 0,
                used: 0,
                bad: 0,
            },
        }
    }

    /// How much there is, used and lost.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Puts an unused `block` into hole `number` of `blocks`.
    ///
    /// # Errors
    ///
    /// The block comes back when there is no such hole, or when it holds replicas.
    #[expect(clippy::result_large_err, reason = "the caller goes on with the block")]
    pub fn attach<E>(
        &mut self,
        blocks: &mut [Option<Block<E>>],
        number: u32,
        mut block: Block<E>,
    ) -> Result<(), Block<E>> {
        match blocks.get_mut(number as usize) {
            Some(hole @ None) if block.used_slots() == 0 => {
                // Not to be trusted: the block may have been taken out without `detach()`.
                block.links = Links::default();
                self.totals.blocks += 1;
                self.totals.bad += block.bad_slots() as u64;
                let room = block.free_slots() > 0;
                *hole = Some(block);
                if room {
                    self.link(blocks, number);
                }
                Ok(())
            }
            _ => Err(block),
        }
    }

    /// Takes block `number` out of `blocks`. `None` when there is none, or it holds replicas.
    pub fn detach<E>(&mut self, blocks: &mut [Option<Block<E>>], number: u32) -> Option<Block<E>> {
        if get(blocks, number)?.used_slots() != 0 {
            return None;
        }
        self.unlink(blocks, number);
        let block = blocks.get_mut(number as usize)?.take()?;
        self.totals.blocks -= 1;
        self.totals.bad -= block.bad_slots() as u64;
        Some(block)
    }

    /// Takes a free slot for `record`. `None` when the region is full.
    pub(crate) fn allocate<E: Backing>(
        &mut self,
        blocks: &mut [Option<Block<E>>],
        record: Record,
    ) -> Option<Slot> {
        let number = self.roomy?;
        let block = get_mut(blocks, number)?;
        let index = block.allocate(record)?;
        self.totals.used += 1;
        if block.free_slots() == 0 {
            self.unlink(blocks, number);
        }
        Some(Slot::new(number, index))
    }

    /// Frees a used slot and gives back what it remembered.
    pub(crate) fn free<E: Backing>(
        &mut self,
        blocks: &mut [Option<Block<E>>],
        slot: Slot,
    ) -> Option<Record> {
        let record = get_mut(blocks, slot.block())?.free(slot.index())?;
        self.totals.used -= 1;
        self.link(blocks, slot.block());
        Some(record)
    }

    /// Never hands the slot out again, and gives back what it remembered if it was used.
    pub(crate) fn retire<E: Backing>(
        &mut self,
        blocks: &mut [Option<Block<E>>],
        slot: Slot,
    ) -> Option<Record> {
        let block = get_mut(blocks, slot.block())?;
        let already = block.is_bad(slot.index());
        let lost = block.retire(slot.index());
        let room = block.free_slots() > 0;
        if lost.is_some() {
            self.totals.used -= 1;
        }
        if !already {
            self.totals.bad += 1;
        }
        if !room {
            self.unlink(blocks, slot.block());
        }
        lost
    }

    /// Puts a block with room at the head of the list, if it is not on it.
    fn link<E>(&mut self, blocks: &mut [Option<Block<E>>], number: u32) {
        let next = self.roomy;
        match get_mut(blocks, number) {
            Some(block) if !block.links.listed => {
                block.links = Links {
                    listed: true,
                    prev: None,
                    next,
                };
            }
            _ => return,
        }
        self.roomy = Some(number);
        if let Some(next) = next.and_then(|next| get_mut(blocks, next)) {
            next.links.prev = Some(number);
        }
    }

    /// Takes a block off the list, if it is on it.
    fn unlink<E>(&mut self, blocks: &mut [Option<Block<E>>], number: u32) {
        let Some(block) = get_mut(blocks, number) else {
            return;
        };
        if !block.links.listed {
            return;
        }
        let Links { prev, next, .. } = core::mem::take(&mut block.links);
        if let Some(next) = next.and_then(|next| get_mut(blocks, next)) {
            next.links.prev = prev;
        }
        match prev.and_then(|prev| get_mut(blocks, prev)) {
            Some(prev) => prev.links.next = next,
            None => self.roomy = next,
        }
    }
}

/// Block `number`, if there is one.
pub(crate) fn get<E>(blocks: &[Option<Block<E>>], number: u32) -> Option<&Block<E>> {
    blocks.get(number as usize)?.as_ref()
}

/// Block `number`, if there is one, for writing.
pub(crate) fn get_mut<E>(blocks: &mut [Option<Block<E>>], number: u32) -> Option<&mut Block<E>> {
    blocks.get_mut(number as usize)?.as_mut()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{tests::block, Entries};
    use crate::record::Owner;
    use crate::slot::SlotIndex;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    type Blocks = Vec<Option<Block<Box<Entries>>>>;

    fn record() -> Record {
        Record::new(1, Owner(1)).unwrap()
    }

    /// Walks the list both ways and compares everything with a count of all slots.
    fn check(region: &Region, blocks: &Blocks) {
        let mut listed = BTreeSet::new();
        let (mut prev, mut at) = (None, region.roomy);
        while let Some(number) = at {
            let links = get(blocks, number).expect("a hole is listed").links;
            assert!(links.listed && links.prev == prev);
            assert!(listed.insert(number), "the list goes round");
            (prev, at) = (at, links.next);
        }
        let mut totals = Totals::default();
        for (number, block) in blocks.iter().enumerate() {
            let Some(block) = block else { continue };
            totals.blocks += 1;
            totals.used += block.iter_used().count() as u64;
            totals.bad += block.iter_bad().count() as u64;
            let number = number as u32;
            assert_eq!(block.free_slots() > 0, listed.contains(&number));
            assert_eq!(block.links.listed, listed.contains(&number));
        }
        assert_eq!(region.totals(), totals);
    }

    #[test]
    fn nothing_is_attached_twice_or_in_use() {
        let mut region = Region::new();
        let mut blocks: Blocks = vec![None];
        assert!(region.attach(&mut blocks, 1, block()).is_err());
        let mut used = block();
        used.allocate(record());
        assert!(region.attach(&mut blocks, 0, used).is_err());
        assert!(region.attach(&mut blocks, 0, block()).is_ok());
        assert!(region.attach(&mut blocks, 0, block()).is_err());
        check(&region, &blocks);
    }

    #[test]
    fn a_block_in_use_is_not_detached() {
        let mut region = Region::new();
        let mut blocks: Blocks = vec![None];
        assert!(region.attach(&mut blocks, 0, block()).is_ok());
        let slot = region.allocate(&mut blocks, record()).unwrap();
        assert!(region.detach(&mut blocks, 0).is_none());
        region.free(&mut blocks, slot);
        assert!(region.detach(&mut blocks, 0).is_some());
        assert!(region.detach(&mut blocks, 0).is_none());
        check(&region, &blocks);
    }

    #[test]
    fn bad_slots_go_and_come_with_their_block() {
        let mut region = Region::new();
        let mut blocks: Blocks = vec![None];
        assert!(region.attach(&mut blocks, 0, block()).is_ok());
        for i in 0..512 {
            let slot = Slot::new(0, SlotIndex::new(i).unwrap());
            assert_eq!(region.retire(&mut blocks, slot), None);
        }
        check(&region, &blocks);
        assert_eq!(region.allocate(&mut blocks, record()), None);
        let block = region.detach(&mut blocks, 0).unwrap();
        assert_eq!(region.totals(), Totals::default());
        assert!(region.attach(&mut blocks, 0, block).is_ok());
        assert_eq!(region.totals().bad, 512);
        assert_eq!(region.totals().free(), 0);
        check(&region, &blocks);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate(usize),
        Free(u32, u16, u16),
        Retire(u32, u16, u16),
        Attach(u32),
        Detach(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let range = || (0u32..7, 0u16..512, 1u16..400);
        prop_oneof![
            5 => (1usize..600).prop_map(Step::Allocate),
            3 => range().prop_map(|(b, i, n)| Step::Free(b, i, n)),
            1 => range().prop_map(|(b, i, n)| Step::Retire(b, i, n)),
            2 => (0u32..7).prop_map(Step::Attach),
            1 => (0u32..7).prop_map(Step::Detach),
        ]
    }

    proptest! {
        #[test]
        fn a_region_does_what_its_blocks_do(steps in proptest::collection::vec(step(), 0..80)) {
            let mut region = Region::new();
            // Six places; number 6 is past the end.
            let mut blocks: Blocks = (0..6).map(|_| None).collect();
            let span = |i: u16, n: u16| (i..(i + n).min(512)).map(|i| SlotIndex::new(i.into()));
            for step in steps {
                match step {
                    Step::Allocate(n) => for _ in 0..n {
                        let free = region.totals().free();
                        let slot = region.allocate(&mut blocks, record());
                        prop_assert_eq!(slot.is_some(), free > 0);
                    },
                    Step::Free(b, i, n) => for index in span(i, n).flatten() {
                        let used = get(&blocks, b).and_then(|block| block.record(index));
                        prop_assert_eq!(region.free(&mut blocks, Slot::new(b, index)), used);
                    },
                    Step::Retire(b, i, n) => for index in span(i, n).flatten() {
                        let used = get(&blocks, b).and_then(|block| block.record(index));
                        prop_assert_eq!(region.retire(&mut blocks, Slot::new(b, index)), used);
                    },
                    Step::Attach(b) => {
                        let hole = matches!(blocks.get(b as usize), Some(None));
                        prop_assert_eq!(region.attach(&mut blocks, b, block()).is_ok(), hole);
                    }
                    Step::Detach(b) => {
                        let idle = get(&blocks, b).is_some_and(|block| block.used_slots() == 0);
                        prop_assert_eq!(region.detach(&mut blocks, b).is_some(), idle);
                    }
                }
                check(&region, &blocks);
            }
        }
    }
}
