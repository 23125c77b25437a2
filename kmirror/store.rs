// SPDX-License-Identifier: GPL-2.0

//! The mirror region, and which replica is where in it.
//!
//! Everything is behind one lock, which is also held while a page is copied. So a slot never
//! changes hands under a copy, and whoever takes a slot, a block or an owner's replicas away finds
//! nothing half-way. The price is that two workers copy one after the other.

use crate::{
    frames::{ByFrame, Frames},
    group::Group,
    tenants::{Owners, Tenant}, //
};
use kernel::{
    fmt,
    prelude::*,
    sync::{new_mutex, Arc, Mutex}, //
};
use kernel_ext::{
    memory_mirror::{self, Primary, Refusal, Target},
    mm,
    page_block::PageBlock, //
};
use kmirror_core::{
    Block,
    Cursor,
    Heat,
    Owner,
    Region,
    RegionSize,
    Replicas,
    Slot,
    SlotIndex,
    Totals,
    Verdict,
    BLOCK_BYTES,
    SLOTS_PER_BLOCK, //
};

/// Replicas to look at before the lock is given to others.
const BUDGET: u32 = 4096;

/// What the lock protects.
struct Inner {
    map: ByFrame,
    region: Region,
    blocks: KVec<Option<Block<Frames>>>,
    /// First frame and number of each block, by frame.
    by_frame: KVec<(usize, u32)>,
    owners: Owners,
}

impl Inner {
    fn replicas(&mut self) -> Replicas<'_, ByFrame, Frames, Owners> {
        Replicas::new(
            &mut self.map,
            &mut self.region,
            &mut self.blocks,
            &mut self.owners,
        )
    }

    fn pages(&self, slot: Slot) -> Option<&PageBlock> {
        let block = self.blocks.get(slot.block() as usize)?.as_ref()?;
        Some(&block.backing().pages)
    }

    /// The slot that is in this frame.
    fn slot_of(&self, pfn: usize) -> Option<Slot> {
        let (first, index) = (pfn - pfn % SLOTS_PER_BLOCK, pfn % SLOTS_PER_BLOCK);
        let at = self
            .by_frame
            .binary_search_by_key(&first, |&(first, _)| first)
            .ok()?;
        Some(Slot::new(self.by_frame[at].1, SlotIndex::new(index)?))
    }

    /// Puts a block into the first hole, which must have been made.
    fn attach(&mut self, frames: Frames) -> Result {
        let first = frames.pages.first_pfn();
        let hole = self.blocks.iter().position(Option::is_none).ok_or(ENOMEM)?;
        let at = self.by_frame.partition_point(|&(other, _)| other < first);
        self.by_frame.reserve(1, GFP_KERNEL)?;
        self.region
            .attach(&mut self.blocks, hole as u32, Block::new(frames))
            .map_err(|_| EINVAL)?;
        self.by_frame
            .insert_within_capacity(at, (first, hole as u32))
            .map_err(|_| ENOMEM)
    }

    /// Takes out the block with the fewest replicas.
    fn detach(&mut self) -> Option<Block<Frames>> {
        let used = |block: &Option<Block<Frames>>| block.as_ref().map(Block::used_slots);
        let (number, _) = self
            .blocks
            .iter()
            .enumerate()
            .filter_map(|(number, block)| Some((number as u32, used(block)?)))
            .min_by_key(|&(_, used)| used)?;
        let block = self
            .replicas()
            .evacuate(number, |pfn| memory_mirror::clear_mirrored(pfn as usize))?;
        self.by_frame.retain(|&mut (_, other)| other != number);
        Some(block)
    }
}

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

/// The mirror region with its replicas.
#[pin_data]
pub(crate) struct Store {
    #[pin]
    inner: Mutex<Inner>,
    /// Held by whoever changes the size, which takes long and is not done under the lock.
    #[pin]
    resize: Mutex<()>,
    node: Option<u32>,
}

impl Store {
    /// A region of no size, whose memory will come from `node`.
    pub(crate) fn new(node: Option<u32>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            inner <- new_mutex!(Inner {
                map: ByFrame::new()?,
                region: Region::new(),
                blocks: KVec::new(),
                by_frame: KVec::new(),
                owners: Owners::default(),
            }),
            resize <- new_mutex!(()),
            node,
        }? Error)
    }

    /// The node that was asked for.
    pub(crate) fn node(&self) -> Option<u32> {
        self.node
    }

    /// How much there is, used and lost.
    pub(crate) fn totals(&self) -> Totals {
        self.inner.lock().region.totals()
    }

    /// Grows or shrinks the region to `size`, rounded down to whole blocks. Replicas in memory that
    /// is given back are dropped.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], and nothing has changed.
    ///
    /// Context: may sleep, and take long.
    pub(crate) fn resize(&self, size: RegionSize) -> Result {
        let _resize = self.resize.lock();
        let want = size.blocks() as usize;
        let have = self.totals().blocks as usize;
        if want > have {
            return self.grow(want - have);
        }
        for _ in want..have {
            // Dropped outside of the lock: 512 frames go back one by one.
            let block = self.inner.lock().detach();
            drop(block);
        }
        Ok(())
    }

    fn grow(&self, blocks: usize) -> Result {
        // Not to push out everybody else's memory for a request that cannot be met.
        let bytes = (blocks as u64).checked_mul(BLOCK_BYTES).ok_or(ENOMEM)?;
        if bytes > mm::available_bytes() {
            return Err(ENOMEM);
        }
        let mut fresh = KVec::with_capacity(blocks, GFP_KERNEL | __GFP_NOWARN)?;
        for _ in 0..blocks {
            if kernel::current!().signal_pending() {
                return Err(EINTR);
            }
            fresh
                .push_within_capacity(Frames::new(self.node)?)
                .map_err(|_| ENOMEM)?;
        }
        let mut inner = self.inner.lock();
        let holes = inner.blocks.iter().filter(|block| block.is_none()).count();
        for _ in holes..blocks {
            inner.blocks.push(None, GFP_KERNEL)?;
        }
        inner.by_frame.reserve(blocks, GFP_KERNEL)?;
        for frames in fresh.drain_all() {
            // There is room for all of them now.
            inner.attach(frames)?;
        }
        Ok(())
    }

    /// Gives a number to a new owner of replicas, made into a group by `make`.
    ///
    /// # Errors
    ///
    /// [`ENOSPC`] if there are too many, [`ENOMEM`].
    pub(crate) fn admit(
        &self,
        make: impl FnOnce(Owner) -> Result<Arc<Group>>,
    ) -> Result<Arc<Group>> {
        let mut inner = self.inner.lock();
        let tenants = &mut inner.owners.0;
        let free = tenants.iter().position(Option::is_none);
        let number = free.unwrap_or(tenants.len());
        let group = make(Owner(u16::try_from(number).map_err(|_| ENOSPC)?))?;
        if free.is_none() {
            tenants.push(None, GFP_KERNEL)?;
        }
        tenants[number] = Some(Tenant {
            group: group.clone(),
            slots: 0,
            tracked: false,
        });
        Ok(group)
    }

    /// Drops an owner with all its replicas.
    pub(crate) fn evict(&self, owner: Owner) {
        self.set_tracked(owner, false);
        let mut inner = self.inner.lock();
        if let Some(tenant) = inner.owners.0.get_mut(usize::from(owner.0)) {
            *tenant = None;
        }
    }

    /// Allows the owner to have replicas, or drops them all: it has none when this returns, and no
    /// page keeps the flag for them. Returns whether it was allowed before.
    pub(crate) fn set_tracked(&self, owner: Owner, tracked: bool) -> bool {
        let mut inner = self.inner.lock();
        let Some(tenant) = inner.owners.tenant_mut(owner) else {
            return false;
        };
        let before = core::mem::replace(&mut tenant.tracked, tracked);
        if !tracked {
            inner
                .replicas()
                .release_owner(owner, |pfn| memory_mirror::clear_mirrored(pfn as usize));
        }
        before
    }

    /// How hot the page is. [`None`] without a replica.
    pub(crate) fn heat(&self, pfn: usize) -> Option<Heat> {
        let mut inner = self.inner.lock();
        inner.replicas().lookup(pfn as u64).map(|r| r.record.heat())
    }

    /// Remembers how hot the page is.
    pub(crate) fn set_heat(&self, pfn: usize, heat: Heat) {
        self.inner.lock().replicas().set_heat(pfn as u64, heat);
    }

    /// Copies a page, whose replica has been begun, and publishes it.
    ///
    /// Locks held: the folio's. It keeps the restore of this page out until the replica is whole.
    pub(crate) fn copy(&self, group: &Group, primary: &Primary<'_>) -> Copied {
        let pfn = primary.pfn();
        let mut inner = self.inner.lock();
        // The number may have been given to another since the epoch began.
        let tenant = inner.owners.tenant(group.owner);
        let Some(tenant) = tenant.filter(|t| t.tracked && core::ptr::eq(&*t.group, group)) else {
            return Copied::Refused(kmirror_core::Refusal::Busy);
        };
        let limit = tenant.slots.saturating_add(group.headroom());
        let slot = match inner.replicas().claim(pfn as u64, group.owner, limit) {
            Ok(slot) => slot,
            Err(error) => return Copied::Refused(error.into()),
        };
        // Until it is published, nobody takes what is in the slot for a replica.
        let copied = inner
            .pages(slot)
            .and_then(|pages| pages.frame(usize::from(slot.index().get())))
            .and_then(|frame| primary.copy_to(&frame).ok().map(|()| frame.hash()));
        let Some(hash) = copied else {
            inner.replicas().release(pfn as u64);
            return Copied::Refused(kmirror_core::Refusal::Busy);
        };
        if inner.replicas().publish(pfn as u64, slot, hash) {
            Copied::Done
        } else {
            Copied::Refused(kmirror_core::Refusal::NoReplica)
        }
    }

    /// Drops replicas of `root` and all below it until it keeps to its limit.
    pub(crate) fn reduce(&self, root: &Group, owners: &[Owner]) {
        let mut cursor = Cursor::default();
        loop {
            let mut inner = self.inner.lock();
            let limit = root.settings().limit.slots();
            let mut excess = root.used_slots().saturating_sub(limit);
            let swept = inner.replicas().sweep(&mut cursor, BUDGET, |pfn, record| {
                if excess == 0 || !owners.contains(&record.owner()) {
                    return Verdict::Keep;
                }
                excess -= 1;
                memory_mirror::clear_mirrored(pfn as usize);
                Verdict::Release
            });
            if swept.done || excess == 0 {
                return;
            }
        }
    }

    /// Whether there is a replica of this frame.
    pub(crate) fn has(&self, pfn: usize) -> bool {
        let mut inner = self.inner.lock();
        inner
            .replicas()
            .lookup(pfn as u64)
            .is_some_and(|replica| replica.hash.is_some())
    }

    /// Fills `to` from the replica of frame `pfn`.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoReplica`], or [`Refusal::BadReplica`] if its contents are not those that were
    /// copied.
    pub(crate) fn fill(&self, pfn: usize, mut to: Target<'_>) -> Result<(), Refusal> {
        let mut inner = self.inner.lock();
        let replica = inner
            .replicas()
            .lookup(pfn as u64)
            .ok_or(Refusal::NoReplica)?;
        let hash = replica.hash.ok_or(Refusal::NoReplica)?;
        let frame = inner
            .pages(replica.slot)
            .and_then(|pages| pages.frame(usize::from(replica.slot.index().get())))
            .ok_or(Refusal::NoReplica)?;
        match to.fill_from(&frame) {
            Ok(filled) if filled == hash => Ok(()),
            _ => Err(Refusal::BadReplica),
        }
    }

    /// Drops the replica of frame `pfn`, and tells whose it was.
    pub(crate) fn release(&self, pfn: usize) -> Option<Arc<Group>> {
        let mut inner = self.inner.lock();
        let group = Self::group(&mut inner, pfn);
        inner.replicas().release(pfn as u64);
        group
    }

    /// Whose the replica of frame `pfn` is.
    pub(crate) fn group_of(&self, pfn: usize) -> Option<Arc<Group>> {
        Self::group(&mut self.inner.lock(), pfn)
    }

    fn group(inner: &mut Inner, pfn: usize) -> Option<Arc<Group>> {
        let owner = inner.replicas().lookup(pfn as u64)?.record.owner();
        inner
            .owners
            .tenant(owner)
            .map(|tenant| tenant.group.clone())
    }

    /// Takes frame `pfn` out of use for good, if it is one of the region's. The page whose replica
    /// was in it loses the flag, and so is copied again by the next epoch.
    pub(crate) fn retire(&self, pfn: usize) -> Option<Lost> {
        let mut inner = self.inner.lock();
        let slot = inner.slot_of(pfn)?;
        let owner = inner
            .blocks
            .get(slot.block() as usize)
            .and_then(|block| block.as_ref()?.record(slot.index()))
            .map(|record| record.owner());
        // Poisoned before the lock is let go: it cannot be given back before that.
        if let Some(frame) = inner
            .pages(slot)
            .and_then(|pages| pages.frame(usize::from(slot.index().get())))
        {
            frame.poison();
        }
        let primary = inner.replicas().retire(slot).map(|pfn| pfn as usize);
        if let Some(primary) = primary {
            memory_mirror::clear_mirrored(primary);
        }
        let group = owner
            .and_then(|owner| inner.owners.tenant(owner))
            .map(|tenant| tenant.group.clone());
        Some(Lost {
            replica: primary.map(|primary| (primary, group)),
        })
    }

    /// Drops the replicas of `owners` that no page needs any more: those without the flag that two
    /// sweeps in a row have not found in use, or, when `hard`, all without the flag.
    pub(crate) fn sweep(&self, owners: &[Owner], hard: bool) {
        let mut cursor = Cursor::default();
        loop {
            let mut inner = self.inner.lock();
            let swept = inner.replicas().sweep(&mut cursor, BUDGET, |pfn, record| {
                if !owners.contains(&record.owner()) {
                    Verdict::Keep
                } else if memory_mirror::is_mirrored(pfn as usize) {
                    Verdict::Seen
                } else if hard {
                    Verdict::Release
                } else {
                    Verdict::Unseen
                }
            });
            if swept.done {
                return;
            }
        }
    }

    /// Writes a line for each replica: its page's frame, its own, and the id of its cgroup.
    pub(crate) fn list(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner.lock();
        for block in inner.blocks.iter().flatten() {
            let first = block.backing().pages.first_pfn();
            for index in block.iter_used() {
                let Some(record) = block.record(index) else {
                    continue;
                };
                let id = inner
                    .owners
                    .tenant(record.owner())
                    .map_or(0, |tenant| tenant.group.cgroup.id());
                let at = first + usize::from(index.get());
                writeln!(f, "{} {} {}", record.pfn(), at, id)?;
            }
        }
        Ok(())
    }
}
