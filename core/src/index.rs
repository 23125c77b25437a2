// SPDX-License-Identifier: GPL-2.0

//! From a page to its replica, and who pays for it.
//!
//! Two things say where a page's replica is: the [`Map`] from its frame number to a slot, and the
//! slot's record, which names the frame. [`Replicas`] keeps them in step.
//!
//! Invariant: `map[pfn] = slot` exactly when `slot` is used and its record names `pfn`; and each
//! owner has been charged once for each used slot whose record names it. It holds after every call,
//! also after one that failed half-way.
//!
//! # Copies in flight
//!
//! A copy begins with [`claim`](Replicas::claim) and ends with [`publish`](Replicas::publish), both
//! under the primary's folio lock, and may be made between them without the lock that protects the
//! index. Should the slot be lost meanwhile, `publish` finds out and refuses. It cannot stop the
//! copy from reaching the frame: whoever gives a block's memory back waits for the copies into it.

use crate::block::{Backing, Block};
use crate::epoch::Heat;
use crate::record::{Owner, Record};
use crate::region::{get, get_mut, Region, Totals};
use crate::slot::{Slot, SlotIndex};

/// There was no memory for a map entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

/// Where the slot of each mirrored page is kept, by frame number.
pub trait Map {
    /// The slot stored at `pfn`.
    fn get(&self, pfn: u64) -> Option<Slot>;

    /// Stores `slot` at `pfn`, instead of what was there.
    ///
    /// # Errors
    ///
    /// [`NoMemory`], and the map is as it was.
    fn insert(&mut self, pfn: u64, slot: Slot) -> Result<(), NoMemory>;

    /// Takes out what is stored at `pfn`. It needs no memory and cannot fail.
    fn remove(&mut self, pfn: u64) -> Option<Slot>;
}

/// How many slots each owner uses.
pub trait Usage {
    /// Slots charged to `owner`, at least. `u64::MAX` for an owner that does not exist: it is then
    /// over every limit.
    fn used(&self, owner: Owner) -> u64;
    /// `owner` uses a slot more.
    fn charge(&mut self, owner: Owner);
    /// `owner` uses a slot less.
    fn uncharge(&mut self, owner: Owner);
}

/// A table by owner number.
impl Usage for [u64] {
    fn used(&self, owner: Owner) -> u64 {
        self.get(usize::from(owner.0)).copied().unwrap_or(u64::MAX)
    }

    fn charge(&mut self, owner: Owner) {
        if let Some(used) = self.get_mut(usize::from(owner.0)) {
            *used = used.saturating_add(1);
        }
    }

    fn uncharge(&mut self, owner: Owner) {
        if let Some(used) = self.get_mut(usize::from(owner.0)) {
            *used = used.saturating_sub(1);
        }
    }
}

/// Why a page gets no slot. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimError {
    /// The mirror region is full.
    NoSpace,
    /// The owner uses as much of it as it may.
    OverLimit,
    /// There was no memory for the map.
    NoMemory,
    /// The frame number has more bits than physical memory has.
    BadFrame,
}

/// A page's replica, as [`Replicas::lookup`] finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Where it is.
    pub slot: Slot,
    /// What is remembered about the page.
    pub record: Record,
    /// Hash of its bytes. `None` when it is not published: its bytes mean nothing then.
    pub hash: Option<u64>,
}

/// The replicas of the mirror region, borrowed from where its user keeps the parts, under one lock.
pub struct Replicas<'a, M: ?Sized, E, U: ?Sized> {
    pub(crate) map: &'a mut M,
    pub(crate) region: &'a mut Region,
    pub(crate) blocks: &'a mut [Option<Block<E>>],
    pub(crate) usage: &'a mut U,
}

impl<'a, M, E, U> Replicas<'a, M, E, U>
where
    M: Map + ?Sized,
    E: Backing,
    U: Usage + ?Sized,
{
    /// Joins the parts. They belong together from the first call on; see [`Region`] for the slice.
    pub fn new(
        map: &'a mut M,
        region: &'a mut Region,
        blocks: &'a mut [Option<Block<E>>],
        usage: &'a mut U,
    ) -> Self {
        Self {
            map,
            region,
            blocks,
            usage,
        }
    }

    /// How much of the region is used and lost.
    pub fn totals(&self) -> Totals {
        self.region.totals()
    }

    /// Block `number`, if there is one.
    pub fn block(&self, number: u32) -> Option<&Block<E>> {
        get(self.blocks, number)
    }

    /// The replica of `pfn`.
    pub fn lookup(&self, pfn: u64) -> Option<Replica> {
        let slot = self.map.get(pfn)?;
        let block = get(self.blocks, slot.block())?;
        let record = block.record(slot.index())?;
        // Always so by the invariant. But this is the way to a restore, and to give a page the
        // bytes of another would be the worst that can happen, so it is looked at again.
        if record.pfn() != pfn {
            return None;
        }
        Some(Replica {
            slot,
            record,
            hash: block.hash(slot.index()),
        })
    }

    /// A slot for `owner` to copy `pfn` into: the one it has, else a free one.
    ///
    /// The replica is not published from here until [`publish`](Self::publish). A page that changes
    /// hands (it is shared, or its frame was freed and used again) is the new owner's to pay for.
    /// `limit` is the greatest number of slots that `owner` may use; a slot it has already stays
    /// its own even if the limit has sunk meanwhile.
    ///
    /// # Errors
    ///
    /// See [`ClaimError`]. A replica that the page had before is as it was.
    pub fn claim(&mut self, pfn: u64, owner: Owner, limit: u64) -> Result<Slot, ClaimError> {
        if let Some(Replica { slot, record, .. }) = self.lookup(pfn) {
            if record.owner() != owner {
                self.check_limit(owner, limit)?;
                self.usage.uncharge(record.owner());
                self.usage.charge(owner);
            }
            if let Some(block) = get_mut(self.blocks, slot.block()) {
                block.unpublish(slot.index());
                block.set_record(slot.index(), record.with_owner(owner).with_age(0));
            }
            return Ok(slot);
        }

        let record = Record::new(pfn, owner).ok_or(ClaimError::BadFrame)?;
        self.check_limit(owner, limit)?;
        let slot = self
            .region
            .allocate(self.blocks, record)
            .ok_or(ClaimError::NoSpace)?;
        if self.map.insert(pfn, slot).is_err() {
            self.region.free(self.blocks, slot);
            return Err(ClaimError::NoMemory);
        }
        self.usage.charge(owner);
        Ok(slot)
    }

    /// Declares the replica of `pfn` in `slot` whole, with this hash.
    ///
    /// Returns `false` and does nothing when `slot` is no longer the page's: it was lost, or given
    /// to another, while the copy was made.
    #[must_use]
    pub fn publish(&mut self, pfn: u64, slot: Slot, hash: u64) -> bool {
        match self.lookup(pfn) {
            Some(replica) if replica.slot == slot => {
                if let Some(block) = get_mut(self.blocks, slot.block()) {
                    block.publish(slot.index(), hash);
                }
                true
            }
            _ => false,
        }
    }

    /// Drops the replica of `pfn`. Returns whether there was one.
    pub fn release(&mut self, pfn: u64) -> bool {
        self.lookup(pfn)
            .is_some_and(|replica| self.release_slot(replica.slot).is_some())
    }

    /// Drops all replicas of `owner`, telling `dropped` the frame number of each after it is gone.
    ///
    /// Looks at every used slot until the owner uses none; [`sweep`](Self::sweep) does the same in
    /// small steps.
    pub fn release_owner(&mut self, owner: Owner, mut dropped: impl FnMut(u64)) {
        for number in 0..self.blocks.len() as u32 {
            if self.usage.used(owner) == 0 {
                return;
            }
            self.release_in(number, |record| record.owner() == owner, &mut dropped);
        }
    }

    /// Drops all replicas in block `number`, telling `dropped` the frame number of each, and takes
    /// the block out of the region: its memory may be given back, except for the frames that
    /// [`Block::iter_bad`] names. `None` when there is no such block.
    pub fn evacuate(&mut self, number: u32, mut dropped: impl FnMut(u64)) -> Option<Block<E>> {
        self.release_in(number, |_| true, &mut dropped);
        self.region.detach(self.blocks, number)
    }

    /// The frame of `slot` was lost to an error: it is never used again.
    ///
    /// Returns the frame number of the page whose replica was lost with it, for it to be copied
    /// again; `None` when there was no replica in it, as for a second report of the same error.
    pub fn retire(&mut self, slot: Slot) -> Option<u64> {
        let lost = self.region.retire(self.blocks, slot)?;
        self.forget(lost);
        Some(lost.pfn())
    }

    /// The page was seen: its replica is not one that nobody uses. Returns whether there is one.
    pub fn touch(&mut self, pfn: u64) -> bool {
        self.update(pfn, |record| record.with_age(0))
    }

    /// Changes the heat of a page that was seen. Returns whether it has a replica.
    ///
    /// `near` is a guess at where that is, and left at one for the next page: pages that were seen
    /// one after the other the first time got their slots in that order. Any will do, and a right
    /// one saves the way through the map.
    pub fn reheat(
        &mut self,
        pfn: u64,
        near: &mut Option<Slot>,
        change: impl FnOnce(Heat) -> Heat,
    ) -> bool {
        // By the invariant there is no other replica of the page if this one's record names it.
        let guess = near.and_then(|slot| Some((slot, self.record_of(slot, pfn)?)));
        let found = guess.or_else(|| {
            let Replica { slot, record, .. } = self.lookup(pfn)?;
            Some((slot, record))
        });
        *near = found.and_then(|(slot, _)| slot.next());
        let Some((slot, record)) = found else {
            return false;
        };
        if let Some(block) = get_mut(self.blocks, slot.block()) {
            let heat = change(record.heat());
            block.set_record(slot.index(), record.with_age(0).with_heat(heat));
        }
        true
    }

    /// Frees a used slot, with its map entry and its owner's charge.
    pub(crate) fn release_slot(&mut self, slot: Slot) -> Option<Record> {
        let record = self.region.free(self.blocks, slot)?;
        self.forget(record);
        Some(record)
    }

    /// Takes a replica whose slot is no longer used out of the map and off its owner's account.
    fn forget(&mut self, record: Record) {
        self.map.remove(record.pfn());
        self.usage.uncharge(record.owner());
    }

    /// Drops the replicas in block `number` that `chosen` picks.
    fn release_in(
        &mut self,
        number: u32,
        chosen: impl Fn(Record) -> bool,
        dropped: &mut impl FnMut(u64),
    ) {
        let mut from = 0;
        while let Some((index, record)) = self.next_record(number, from) {
            from = index.get() + 1;
            if chosen(record) {
                self.release_slot(Slot::new(number, index));
                dropped(record.pfn());
            }
        }
    }

    /// The first used slot of block `number` at or after number `from`.
    pub(crate) fn next_record(&self, number: u32, from: u16) -> Option<(SlotIndex, Record)> {
        let block = get(self.blocks, number)?;
        let index = block.next_used(from)?;
        Some((index, block.record(index)?))
    }

    /// What `slot` remembers, if that is about page `pfn`.
    fn record_of(&self, slot: Slot, pfn: u64) -> Option<Record> {
        get(self.blocks, slot.block())?
            .record(slot.index())
            .filter(|record| record.pfn() == pfn)
    }

    fn update(&mut self, pfn: u64, change: impl FnOnce(Record) -> Record) -> bool {
        let Some(Replica { slot, record, .. }) = self.lookup(pfn) else {
            return false;
        };
        if let Some(block) = get_mut(self.blocks, slot.block()) {
            block.set_record(slot.index(), change(record));
        }
        true
    }

    fn check_limit(&self, owner: Owner, limit: u64) -> Result<(), ClaimError> {
        if self.usage.used(owner) >= limit {
            return Err(ClaimError::OverLimit);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{tests::block, Entries};
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct TestMap(BTreeMap<u64, Slot>);

    impl Map for TestMap {
        fn get(&self, pfn: u64) -> Option<Slot> {
            self.0.get(&pfn).copied()
        }
        fn insert(&mut self, pfn: u64, slot: Slot) -> Result<(), NoMemory> {
            self.0.insert(pfn, slot);
            Ok(())
        }
        fn remove(&mut self, pfn: u64) -> Option<Slot> {
            self.0.remove(&pfn)
        }
    }

    #[test]
    fn a_map_that_points_to_another_pages_replica_is_not_believed() {
        let mut map = TestMap::default();
        let mut region = Region::new();
        let mut blocks: Vec<Option<Block<Box<Entries>>>> = vec![None];
        assert!(region.attach(&mut blocks, 0, block()).is_ok());
        let usage = &mut [0u64; 2][..];

        let mut replicas = Replicas::new(&mut map, &mut region, &mut blocks, usage);
        let slot = replicas.claim(1, Owner(1), 10).unwrap();
        assert!(replicas.publish(1, slot, 77));
        // Break what no call can break: page 2 led to the slot of page 1, page 3 to a free one,
        // page 4 to a block that is not there.
        map.0.insert(2, slot);
        map.0.insert(3, Slot::new(0, SlotIndex::new(9).unwrap()));
        map.0.insert(4, Slot::new(7, SlotIndex::new(9).unwrap()));

        let mut replicas = Replicas::new(&mut map, &mut region, &mut blocks, usage);
        assert!(replicas.lookup(1).is_some());
        for pfn in 2..5 {
            assert_eq!(replicas.lookup(pfn), None);
            assert!(!replicas.publish(pfn, slot, 1));
            assert!(!replicas.release(pfn));
            assert!(!replicas.touch(pfn));
        }
        assert_eq!(replicas.lookup(1).unwrap().hash, Some(77));
    }

    #[test]
    fn an_owner_that_does_not_exist_gets_nothing() {
        let mut map = TestMap::default();
        let mut region = Region::new();
        let mut blocks: Vec<Option<Block<Box<Entries>>>> = vec![None];
        assert!(region.attach(&mut blocks, 0, block()).is_ok());
        let usage = &mut [0u64; 2][..];
        let mut replicas = Replicas::new(&mut map, &mut region, &mut blocks, usage);
        assert_eq!(
            replicas.claim(1, Owner(2), u64::MAX),
            Err(ClaimError::OverLimit)
        );
        assert_eq!(replicas.totals().used, 0);
    }
}
