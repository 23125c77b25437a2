// SPDX-License-Identifier: GPL-2.0

//! The index against a naive model: one map from page to everything that is known of its replica.
//!
//! Insertions into the index's own map fail at random, copies are in flight while slots are lost,
//! and after each step every page, slot, account and total is compared.

use kmirror_core::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const PLACES: u32 = 4;
const OWNERS: u16 = 3;
const PAGES: u64 = 2500;

struct Store(Box<Entries>);

impl Backing for Store {
    fn entries(&self) -> &Entries {
        &self.0
    }
    fn entries_mut(&mut self) -> &mut Entries {
        &mut self.0
    }
}

fn block() -> Block<Store> {
    Block::new(Store(Box::new([Entry::EMPTY; SLOTS_PER_BLOCK])))
}

/// A map whose insertions fail when told to.
#[derive(Default)]
struct FlakyMap {
    slots: BTreeMap<u64, Slot>,
    fails: bool,
}

impl Map for FlakyMap {
    fn get(&self, pfn: u64) -> Option<Slot> {
        self.slots.get(&pfn).copied()
    }

    fn insert(&mut self, pfn: u64, slot: Slot) -> Result<(), NoMemory> {
        if self.fails {
            return Err(NoMemory);
        }
        self.slots.insert(pfn, slot);
        Ok(())
    }

    fn remove(&mut self, pfn: u64) -> Option<Slot> {
        self.slots.remove(&pfn)
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Page {
    slot: Slot,
    owner: Owner,
    heat: Heat,
    age: u8,
    hash: Option<u64>,
}

#[derive(Default)]
struct Model {
    pages: BTreeMap<u64, Page>,
    bad: BTreeSet<Slot>,
    blocks: BTreeSet<u32>,
}

impl Model {
    fn used(&self, owner: Owner) -> u64 {
        self.pages.values().filter(|p| p.owner == owner).count() as u64
    }

    fn free(&self) -> usize {
        self.blocks.len() * SLOTS_PER_BLOCK - self.pages.len() - self.bad.len()
    }

    fn page_in(&self, slot: Slot) -> Option<u64> {
        let mut pages = self.pages.iter();
        pages.find(|(_, p)| p.slot == slot).map(|(&pfn, _)| pfn)
    }

    /// What a claim comes to, and whether a slot has to be found for it.
    fn claim(&self, pfn: u64, owner: Owner, limit: u64, fails: bool) -> Result<bool, ClaimError> {
        let within = self.used(owner) < limit;
        match self.pages.get(&pfn) {
            Some(page) if page.owner == owner || within => Ok(false),
            Some(_) => Err(ClaimError::OverLimit),
            None if pfn >= 1 << 40 => Err(ClaimError::BadFrame),
            None if !within => Err(ClaimError::OverLimit),
            None if self.free() == 0 => Err(ClaimError::NoSpace),
            None if fails => Err(ClaimError::NoMemory),
            None => Ok(true),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Claim this many pages from this one on, every so many insertions failing, and publish all
    /// but each seventh, which stays a copy in flight.
    Copy(u64, u64, Owner, u64, u64),
    /// End a copy in flight.
    Finish(usize),
    Release(u64, u64),
    Retire(Slot),
    ReleaseOwner(Owner),
    Evacuate(u32),
    Attach(u32),
    Sweep(u32, u64),
    Touch(u64),
    /// With a guess where it is, or the right one.
    Reheat(u64, u8, Option<Slot>),
}

fn step() -> impl Strategy<Value = Step> {
    let page = || prop_oneof![20 => 0..PAGES, 1 => (1u64 << 40) - 2..(1 << 40) + 2];
    let owner = || (0..OWNERS).prop_map(Owner);
    let slot =
        || (0..PLACES + 1, 0usize..512).prop_map(|(b, i)| Slot::new(b, SlotIndex::new(i).unwrap()));
    let limit = prop_oneof![Just(u64::MAX), 0u64..1500];
    prop_oneof![
        10 => (page(), 1u64..400, owner(), limit, 1u64..100)
            .prop_map(|(p, n, o, l, f)| Step::Copy(p, n, o, l, f)),
        4 => any::<usize>().prop_map(Step::Finish),
        3 => (page(), 1u64..200).prop_map(|(p, n)| Step::Release(p, n)),
        5 => slot().prop_map(Step::Retire),
        1 => owner().prop_map(Step::ReleaseOwner),
        1 => (0..PLACES + 1).prop_map(Step::Evacuate),
        2 => (0..PLACES + 1).prop_map(Step::Attach),
        5 => (0u32..900, any::<u64>()).prop_map(|(n, salt)| Step::Sweep(n, salt)),
        2 => page().prop_map(Step::Touch),
        2 => (page(), 0u8..16, proptest::option::of(slot())).prop_map(|(p, h, n)| Step::Reheat(p, h, n)),
    ]
}

/// What becomes of a page in a sweep: anything, but always the same for the same salt.
fn judge(pfn: u64, salt: u64) -> Verdict {
    match (pfn ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61 {
        0..=1 => Verdict::Keep,
        2..=3 => Verdict::Seen,
        4..=6 => Verdict::Unseen,
        _ => Verdict::Release,
    }
}

#[derive(Default)]
struct World {
    map: FlakyMap,
    region: Region,
    blocks: Vec<Option<Block<Store>>>,
    usage: [u64; OWNERS as usize],
    cursor: Cursor,
    /// Where the model says that the cursor is.
    place: (u32, u16),
    in_flight: Vec<(u64, Slot)>,
    model: Model,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            blocks: (0..PLACES).map(|_| None).collect(),
            ..Self::default()
        };
        world.attach(1);
        world
    }

    fn replicas(&mut self) -> Replicas<'_, FlakyMap, Store, [u64]> {
        Replicas::new(
            &mut self.map,
            &mut self.region,
            &mut self.blocks,
            &mut self.usage[..],
        )
    }

    fn attach(&mut self, number: u32) {
        let attached = self
            .region
            .attach(&mut self.blocks, number, block())
            .is_ok();
        let hole = number < PLACES && self.model.blocks.insert(number);
        assert_eq!(attached, hole);
    }

    fn claim(&mut self, pfn: u64, owner: Owner, limit: u64, fails: bool) -> Option<Slot> {
        self.map.fails = fails;
        let want = self.model.claim(pfn, owner, limit, fails);
        let got = self.replicas().claim(pfn, owner, limit);
        assert_eq!(got.map(|_| ()), want.map(|_| ()), "page {pfn}");
        let slot = got.ok()?;
        if want == Ok(true) {
            assert!(self.model.blocks.contains(&slot.block()));
            assert!(!self.model.bad.contains(&slot), "a retired slot is used");
            assert_eq!(self.model.page_in(slot), None, "a slot is used twice");
        } else {
            assert_eq!(slot, self.model.pages[&pfn].slot, "a replica has moved");
        }
        let heat = self.model.pages.get(&pfn).map_or(Heat::COLD, |p| p.heat);
        let page = Page {
            slot,
            owner,
            heat,
            age: 0,
            hash: None,
        };
        self.model.pages.insert(pfn, page);
        Some(slot)
    }

    fn publish(&mut self, pfn: u64, slot: Slot, hash: u64) {
        let page = self.model.pages.get_mut(&pfn).filter(|p| p.slot == slot);
        assert_eq!(self.map.slots.get(&pfn) == Some(&slot), page.is_some());
        let want = page.map(|page| page.hash = Some(hash)).is_some();
        assert_eq!(self.replicas().publish(pfn, slot, hash), want);
    }

    fn sweep(&mut self, budget: u32, salt: u64) {
        let mut cursor = self.cursor;
        let mut judged = Vec::new();
        let swept = self.replicas().sweep(&mut cursor, budget, |pfn, record| {
            assert_eq!(record.pfn(), pfn);
            judged.push(pfn);
            judge(pfn, salt)
        });
        self.cursor = cursor;

        // The model: all places from the cursor on, a block's end costing one.
        let mut want = Swept::default();
        let mut want_judged = Vec::new();
        let mut left = budget;
        let by_slot: BTreeMap<_, _> = self.model.pages.iter().map(|(&p, m)| (m.slot, p)).collect();
        loop {
            if self.place.0 >= PLACES {
                self.place = (0, 0);
                want.done = true;
                break;
            }
            if left == 0 {
                break;
            }
            left -= 1;
            let (block, index) = self.place;
            let next = (index..512).find_map(|i| {
                let slot = Slot::new(block, SlotIndex::new(i.into()).unwrap());
                by_slot.get(&slot).map(|&pfn| (i, pfn))
            });
            let Some((i, pfn)) = next else {
                self.place = (block + 1, 0);
                continue;
            };
            self.place = (block, i + 1);
            want.judged += 1;
            want_judged.push(pfn);
            let page = self.model.pages.get_mut(&pfn).unwrap();
            let gone = match judge(pfn, salt) {
                Verdict::Keep => false,
                Verdict::Seen => {
                    page.age = 0;
                    false
                }
                Verdict::Unseen => {
                    page.age += 1;
                    page.age == 2
                }
                Verdict::Release => true,
            };
            if gone {
                self.model.pages.remove(&pfn);
                want.released += 1;
            }
        }
        assert_eq!(judged, want_judged);
        assert_eq!(swept, want);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Copy(first, count, owner, limit, every) => {
                for pfn in first..first + count {
                    let Some(slot) = self.claim(pfn, owner, limit, pfn % every == 0) else {
                        continue;
                    };
                    if pfn % 7 == 0 {
                        self.in_flight.push((pfn, slot));
                    } else {
                        self.publish(pfn, slot, !pfn);
                    }
                }
            }
            Step::Finish(n) => {
                if !self.in_flight.is_empty() {
                    let (pfn, slot) = self.in_flight.swap_remove(n % self.in_flight.len());
                    self.publish(pfn, slot, !pfn);
                }
            }
            Step::Release(first, count) => {
                for pfn in first..first + count {
                    let want = self.model.pages.remove(&pfn).is_some();
                    assert_eq!(self.replicas().release(pfn), want);
                }
            }
            Step::Retire(slot) => {
                let want = self.model.page_in(slot);
                if let Some(pfn) = want {
                    self.model.pages.remove(&pfn);
                }
                if self.model.blocks.contains(&slot.block()) {
                    self.model.bad.insert(slot);
                }
                assert_eq!(self.replicas().retire(slot), want);
                // The second report of the error finds nothing to do.
                assert_eq!(self.replicas().retire(slot), None);
            }
            Step::ReleaseOwner(owner) => {
                let mut gone = BTreeSet::new();
                self.replicas()
                    .release_owner(owner, |pfn| assert!(gone.insert(pfn)));
                self.drop_pages(&gone, |page| page.owner == owner);
            }
            Step::Evacuate(number) => {
                let mut gone = BTreeSet::new();
                let block = self
                    .replicas()
                    .evacuate(number, |pfn| assert!(gone.insert(pfn)));
                assert_eq!(block.is_some(), self.model.blocks.remove(&number));
                self.drop_pages(&gone, |page| page.slot.block() == number);
                if let Some(block) = block {
                    let bad = block.iter_bad().map(|index| Slot::new(number, index));
                    let mut want = self.model.bad.clone();
                    want.retain(|slot| slot.block() == number);
                    assert_eq!(bad.collect::<BTreeSet<_>>(), want);
                    self.model.bad.retain(|slot| slot.block() != number);
                }
            }
            Step::Attach(number) => self.attach(number),
            Step::Sweep(budget, salt) => self.sweep(budget, salt),
            Step::Touch(pfn) => {
                let page = self.model.pages.get_mut(&pfn);
                let want = page.map(|page| page.age = 0).is_some();
                assert_eq!(self.replicas().touch(pfn), want);
            }
            Step::Reheat(pfn, heat, guess) => {
                let heat = Heat::new(heat);
                let page = self.model.pages.get_mut(&pfn);
                let old = page.as_ref().map(|page| page.heat);
                let slot = page.as_ref().map(|page| page.slot);
                if let Some(page) = page {
                    (page.age, page.heat) = (0, heat);
                }
                let (mut near, mut told) = (guess.or(slot), None);
                let found = self.replicas().reheat(pfn, &mut near, |old| {
                    told = Some(old);
                    heat
                });
                assert_eq!((found, told), (old.is_some(), old));
                assert_eq!(near, slot.and_then(Slot::next));
            }
        }
    }

    /// Drops the pages chosen from the model; they are the ones that the index told of.
    fn drop_pages(&mut self, told: &BTreeSet<u64>, chosen: impl Fn(&Page) -> bool) {
        let mut gone = BTreeSet::new();
        self.model.pages.retain(|&pfn, page| {
            let drop = chosen(page);
            if drop {
                gone.insert(pfn);
            }
            !drop
        });
        assert_eq!(told, &gone);
    }

    fn check(&mut self) {
        let want: BTreeMap<u64, Slot> =
            self.model.pages.iter().map(|(&p, m)| (p, m.slot)).collect();
        assert_eq!(self.map.slots, want, "the map");

        let mut used = BTreeMap::new();
        for (number, block) in self.blocks.iter().enumerate() {
            for index in block.iter().flat_map(|block| block.iter_used()) {
                let record = block.as_ref().unwrap().record(index).unwrap();
                used.insert(record.pfn(), Slot::new(number as u32, index));
            }
        }
        assert_eq!(used, want, "the blocks");

        for (owner, &used) in self.usage.iter().enumerate() {
            assert_eq!(used, self.model.used(Owner(owner as u16)), "owner {owner}");
        }
        let totals = self.region.totals();
        assert_eq!(totals.blocks as usize, self.model.blocks.len());
        assert_eq!(totals.used as usize, self.model.pages.len());
        assert_eq!(totals.bad as usize, self.model.bad.len());
        assert_eq!(totals.free() as usize, self.model.free());

        let pages = std::mem::take(&mut self.model.pages);
        let replicas = self.replicas();
        for pfn in (0..PAGES + 400).chain((1 << 40) - 2..(1 << 40) + 2) {
            let found = replicas.lookup(pfn).map(|found| Page {
                slot: found.slot,
                owner: found.record.owner(),
                heat: found.record.heat(),
                age: found.record.age(),
                hash: found.hash,
            });
            assert_eq!(found.as_ref(), pages.get(&pfn), "page {pfn}");
            // No page is ever restored from bytes that were copied from another.
            assert!(found.and_then(|f| f.hash).is_none_or(|hash| hash == !pfn));
        }
        self.model.pages = pages;
    }
}

proptest! {
    #[test]
    fn does_what_one_map_does(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check();
        }
    }
}

#[test]
fn a_copy_whose_slot_was_lost_meanwhile_is_not_published() {
    let mut world = World::new();
    let slot = world.claim(1, Owner(0), 10, false).unwrap();
    world.step(Step::Retire(slot));
    world.publish(1, slot, 7);
    // The page has another slot by now: the hash of the first copy says nothing about the second.
    let other = world.claim(1, Owner(0), 10, false).unwrap();
    assert_ne!(slot, other);
    assert!(!world.replicas().publish(1, slot, 7));
    assert_eq!(world.replicas().lookup(1).unwrap().hash, None);
}

#[test]
fn a_claim_takes_the_old_hash_back_and_a_refused_one_does_not() {
    let mut world = World::new();
    let slot = world.claim(1, Owner(0), 10, false).unwrap();
    assert!(world.replicas().publish(1, slot, 7));
    assert_eq!(
        world.replicas().claim(1, Owner(1), 0),
        Err(ClaimError::OverLimit)
    );
    assert_eq!(world.replicas().lookup(1).unwrap().hash, Some(7));
    assert_eq!(world.replicas().claim(1, Owner(1), 1), Ok(slot));
    assert_eq!(world.replicas().lookup(1).unwrap().hash, None);
    assert_eq!(world.usage, [0, 1, 0]);
}

#[test]
fn an_unseen_page_goes_with_the_second_sweep_and_a_seen_one_never() {
    let mut world = World::new();
    world.claim(1, Owner(0), 10, false).unwrap();
    world.claim(2, Owner(0), 10, false).unwrap();
    world.claim(3, Owner(0), 10, false).unwrap();
    for sweep in 1..=4 {
        let mut cursor = Cursor::default();
        let swept = world
            .replicas()
            .sweep(&mut cursor, u32::MAX, |pfn, _| match pfn {
                1 => Verdict::Unseen,
                2 => Verdict::Seen,
                _ => Verdict::Unseen,
            });
        assert!(swept.done);
        assert_eq!(cursor, Cursor::default());
        assert_eq!(world.replicas().lookup(1).is_some(), sweep < 2);
        assert!(world.replicas().lookup(2).is_some());
        assert!(world.replicas().touch(3), "touched before every sweep");
    }
}

#[test]
fn a_budget_of_nothing_does_nothing() {
    let mut world = World::new();
    world.claim(1, Owner(0), 10, false).unwrap();
    let mut cursor = Cursor::default();
    let swept = world
        .replicas()
        .sweep(&mut cursor, 0, |_, _| unreachable!());
    assert_eq!(swept, Swept::default());
}
