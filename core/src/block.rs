// SPDX-License-Identifier: GPL-2.0

//! A block of the mirror region: 2 MiB, with a slot for each of its 512 frames of 4 KiB.
//!
//! A slot is in one of four states:
//!
//! ```text
//!            allocate             publish
//!    free ------------> claimed ----------> published
//!     ^                  |   ^                 |   |
//!     |                  |   +-----------------+   |
//!     |       free       |     unpublish           |
//!     +------------------+-------------------------+
//!
//!    any of them -- retire --> bad, and never anything else again
//! ```
//!
//! Only a published slot has a hash. Whatever begins to overwrite a replica takes it back to
//! *claimed* first, so that no half-written one is ever looked up as whole.

use crate::bitmap::Bitmap;
use crate::record::Record;
use crate::slot::{SlotIndex, SLOTS_PER_BLOCK};

/// What is stored for one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    record: Record,
    hash: u64,
}

impl Entry {
    /// An entry to fill fresh storage with; all its bytes are zero.
    pub const EMPTY: Self = Self {
        record: Record::EMPTY,
        hash: 0,
    };
}

/// Storage for the entries of one block: 8 KiB exactly.
pub type Entries = [Entry; SLOTS_PER_BLOCK];

/// Holds a block's entries, and whatever else its user keeps for a block (where its memory is).
///
/// The entries are not part of [`Block`] so that no 8 KiB pass over a kernel stack and none are
/// lost to rounding up the allocation. Their first contents do not matter.
pub trait Backing {
    /// The entries.
    fn entries(&self) -> &Entries;
    /// The same entries, for writing.
    fn entries_mut(&mut self) -> &mut Entries;
}

/// The slots of one block of the mirror region.
///
/// Changed only through [`Replicas`](crate::index::Replicas), which keeps it in step with the map.
#[derive(Debug)]
pub struct Block<E> {
    backing: E,
    // Invariant: `used` and `bad` have no slot in common, and `published` is part of `used`.
    used: Bitmap,
    published: Bitmap,
    bad: Bitmap,
    // Invariant: the sizes of those sets.
    used_slots: u16,
    bad_slots: u16,
    /// Neighbours in the region's list of blocks with room.
    pub(crate) links: Links,
}

/// A block's place in a doubly linked list of block numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Links {
    pub(crate) listed: bool,
    pub(crate) prev: Option<u32>,
    pub(crate) next: Option<u32>,
}

impl<E> Block<E> {
    /// A block with all slots free.
    pub const fn new(backing: E) -> Self {
        Self {
            backing,
            used: Bitmap::EMPTY,
            published: Bitmap::EMPTY,
            bad: Bitmap::EMPTY,
            used_slots: 0,
            bad_slots: 0,
            links: Links {
                listed: false,
                prev: None,
                next: None,
            },
        }
    }

    /// What the block was made with.
    pub fn backing(&self) -> &E {
        &self.backing
    }

    /// What the block was made with, for writing. Entries are not to be changed that way.
    pub fn backing_mut(&mut self) -> &mut E {
        &mut self.backing
    }

    /// Gives back what the block was made with.
    pub fn into_backing(self) -> E {
        self.backing
    }

    /// Slots that may be allocated.
    pub fn free_slots(&self) -> usize {
        // `used` and `bad` have nothing in common, so together they are at most all slots.
        SLOTS_PER_BLOCK - self.used_slots() - self.bad_slots()
    }

    /// Slots that hold a replica, published or not.
    pub fn used_slots(&self) -> usize {
        usize::from(self.used_slots)
    }

    /// Slots whose frame was lost to an error.
    pub fn bad_slots(&self) -> usize {
        usize::from(self.bad_slots)
    }

    /// Whether the slot's frame was lost to an error.
    pub fn is_bad(&self, index: SlotIndex) -> bool {
        self.bad.contains(index)
    }

    /// The slots that hold a replica, in order.
    pub fn iter_used(&self) -> impl Iterator<Item = SlotIndex> + '_ {
        self.used.iter()
    }

    /// The slots whose frame was lost, in order: not to be given back to the page allocator.
    pub fn iter_bad(&self) -> impl Iterator<Item = SlotIndex> + '_ {
        self.bad.iter()
    }

    /// The first used slot at or after number `from`.
    pub(crate) fn next_used(&self, from: u16) -> Option<SlotIndex> {
        self.used.next(from)
    }
}

impl<E: Backing> Block<E> {
    /// What a used slot remembers.
    pub fn record(&self, index: SlotIndex) -> Option<Record> {
        self.used.contains(index).then(|| self.entry(index).record)
    }

    /// Hash of the replica in a published slot.
    pub fn hash(&self, index: SlotIndex) -> Option<u64> {
        self.published
            .contains(index)
            .then(|| self.entry(index).hash)
    }

    /// Takes the first free slot for `record`.
    pub(crate) fn allocate(&mut self, record: Record) -> Option<SlotIndex> {
        let index = self.used.first_in_neither(&self.bad)?;
        self.used.insert(index);
        self.used_slots += 1;
        self.entry_mut(index).record = record;
        Some(index)
    }

    /// Frees a used slot and gives back what it remembered.
    pub(crate) fn free(&mut self, index: SlotIndex) -> Option<Record> {
        let record = self.record(index)?;
        self.used.remove(index);
        self.published.remove(index);
        self.used_slots -= 1;
        Some(record)
    }

    /// Never hands the slot out again, and gives back what it remembered if it was used.
    pub(crate) fn retire(&mut self, index: SlotIndex) -> Option<Record> {
        let lost = self.free(index);
        if !self.bad.contains(index) {
            self.bad.insert(index);
            self.bad_slots += 1;
        }
        lost
    }

    /// Changes what a used slot remembers. What is set for one not in use is never seen.
    pub(crate) fn set_record(&mut self, index: SlotIndex, record: Record) {
        self.entry_mut(index).record = record;
    }

    /// Declares the replica in a used slot whole, with this hash.
    pub(crate) fn publish(&mut self, index: SlotIndex, hash: u64) {
        if self.used.contains(index) {
            self.published.insert(index);
            self.entry_mut(index).hash = hash;
        }
    }

    /// Takes that back, before the replica is overwritten.
    pub(crate) fn unpublish(&mut self, index: SlotIndex) {
        self.published.remove(index);
    }

    fn entry(&self, index: SlotIndex) -> &Entry {
        &self.backing.entries()[index.place()]
    }

    fn entry_mut(&mut self, index: SlotIndex) -> &mut Entry {
        &mut self.backing.entries_mut()[index.place()]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::record::Owner;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    impl Backing for Box<Entries> {
        fn entries(&self) -> &Entries {
            self
        }
        fn entries_mut(&mut self) -> &mut Entries {
            self
        }
    }

    /// A block over storage full of rubbish, which must not matter.
    pub(crate) fn block() -> Block<Box<Entries>> {
        let rubbish = Entry {
            record: Record::new(0xbad, Owner(0xbad)).unwrap(),
            hash: 0xbad,
        };
        Block::new(Box::new([rubbish; SLOTS_PER_BLOCK]))
    }

    fn at(index: u16) -> SlotIndex {
        SlotIndex::new(index.into()).unwrap()
    }

    fn record(pfn: u64) -> Record {
        Record::new(pfn, Owner(1)).unwrap()
    }

    #[test]
    fn entries_fill_two_pages_exactly() {
        assert_eq!(size_of::<Entries>(), 8192);
        assert!(size_of::<Block<u64>>() <= 256);
    }

    #[test]
    fn a_freed_slot_comes_back_unpublished() {
        let mut block = block();
        let index = block.allocate(record(1)).unwrap();
        assert_eq!(block.hash(index), None);
        block.publish(index, 7);
        assert_eq!(block.hash(index), Some(7));
        assert_eq!(block.free(index), Some(record(1)));
        assert_eq!(block.hash(index), None);
        assert_eq!(block.free(index), None);
        assert_eq!(block.allocate(record(2)), Some(index));
        assert_eq!(block.hash(index), None);
    }

    #[test]
    fn a_slot_that_is_not_used_is_not_published() {
        let mut block = block();
        let index = SlotIndex::new(5).unwrap();
        block.publish(index, 7);
        block.set_record(index, record(1));
        assert_eq!((block.hash(index), block.record(index)), (None, None));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate(u64),
        Free(u16),
        Retire(u16),
        SetRecord(u16, u64),
        Publish(u16, u64),
        Unpublish(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        // Half of the slots named, so that sequences meet again.
        let index = 0u16..256;
        prop_oneof![
            10 => (0u64..1 << 40).prop_map(Step::Allocate),
            3 => index.clone().prop_map(Step::Free),
            2 => index.clone().prop_map(Step::Retire),
            1 => (index.clone(), 0u64..1 << 40).prop_map(|(i, pfn)| Step::SetRecord(i, pfn)),
            3 => (index.clone(), any::<u64>()).prop_map(|(i, hash)| Step::Publish(i, hash)),
            1 => index.prop_map(Step::Unpublish),
        ]
    }

    proptest! {
        #[test]
        fn a_block_does_what_two_sets_and_a_map_do(
            steps in proptest::collection::vec(step(), 0..1200),
        ) {
            let mut block = block();
            let mut used: BTreeMap<u16, (Record, Option<u64>)> = BTreeMap::new();
            let mut bad: BTreeSet<u16> = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Allocate(pfn) => {
                        let want = (0..512).find(|i| !used.contains_key(i) && !bad.contains(i));
                        let got = block.allocate(record(pfn)).map(SlotIndex::get);
                        prop_assert_eq!(got, want);
                        if let Some(i) = got {
                            used.insert(i, (record(pfn), None));
                        }
                    }
                    Step::Free(i) => {
                        let want = used.remove(&i).map(|(record, _)| record);
                        prop_assert_eq!(block.free(at(i)), want);
                    }
                    Step::Retire(i) => {
                        let want = used.remove(&i).map(|(record, _)| record);
                        bad.insert(i);
                        prop_assert_eq!(block.retire(at(i)), want);
                    }
                    Step::SetRecord(i, pfn) => {
                        used.entry(i).and_modify(|(old, _)| *old = record(pfn));
                        block.set_record(at(i), record(pfn));
                    }
                    Step::Publish(i, hash) => {
                        used.entry(i).and_modify(|(_, old)| *old = Some(hash));
                        block.publish(at(i), hash);
                    }
                    Step::Unpublish(i) => {
                        used.entry(i).and_modify(|(_, old)| *old = None);
                        block.unpublish(at(i));
                    }
                }
                prop_assert_eq!(block.used_slots(), used.len());
                prop_assert_eq!(block.bad_slots(), bad.len());
                prop_assert_eq!(block.free_slots(), 512 - used.len() - bad.len());
            }
            let numbers = |i: SlotIndex| i.get();
            prop_assert!(block.iter_used().map(numbers).eq(used.keys().copied()));
            prop_assert!(block.iter_bad().map(numbers).eq(bad.iter().copied()));
            for i in 0..512 {
                let index = at(i);
                prop_assert_eq!(block.record(index), used.get(&i).map(|u| u.0));
                prop_assert_eq!(block.hash(index), used.get(&i).and_then(|u| u.1));
                prop_assert_eq!(block.is_bad(index), bad.contains(&i));
            }
        }
    }
}
