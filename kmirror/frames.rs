// SPDX-License-Identifier: GPL-2.0

//! The memory behind slots, and the map from a page to its replica.

use kernel::{
    alloc::Flags,
    prelude::*,
    xarray::{AllocKind, XArray}, //
};
use kernel_ext::{page_block::PageBlock, xarray::Value};
use kmirror_core::{Backing, Entries, Entry, Map, NoMemory, Slot, SlotIndex, SLOTS_PER_BLOCK};

/// The memory of a block of slots: the frames, and what is remembered about each.
pub(crate) struct Frames {
    pub(crate) pages: PageBlock,
    entries: KBox<Entries>,
}

impl Backing for Frames {
    fn entries(&self) -> &Entries {
        &self.entries
    }

    fn entries_mut(&mut self) -> &mut Entries {
        &mut self.entries
    }
}

impl Frames {
    /// Memory for a block, from `node` if one is given.
    ///
    /// Context: may sleep.
    pub(crate) fn new(node: Option<u32>) -> Result<Self> {
        Ok(Self {
            pages: PageBlock::new(node)?,
            entries: entries(GFP_KERNEL | __GFP_NOWARN)?,
        })
    }
}

/// What is remembered about the slots of a block.
pub(crate) fn entries(flags: Flags) -> Result<KBox<Entries>> {
    KBox::init(pin_init::init_array_from_fn(|_| Entry::EMPTY), flags)
}

/// A block of slots whose bytes are elsewhere: only what is remembered about each.
pub(crate) struct Records {
    entries: KBox<Entries>,
    /// The slots for which something may be held elsewhere, a bit for each, and how many.
    held: [u64; SLOTS_PER_BLOCK / 64],
    count: usize,
}

impl Backing for Records {
    fn entries(&self) -> &Entries {
        &self.entries
    }

    fn entries_mut(&mut self) -> &mut Entries {
        &mut self.entries
    }
}

impl Records {
    /// Records of a block for which nothing is held.
    ///
    /// Context: may sleep.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            entries: entries(GFP_KERNEL | __GFP_NOWARN)?,
            held: [0; SLOTS_PER_BLOCK / 64],
            count: 0,
        })
    }

    /// Something may be held for the slot.
    pub(crate) fn hold(&mut self, index: SlotIndex) {
        let at = usize::from(index.get());
        self.count += usize::from(!self.is_held(index));
        self.held[at / 64] |= 1 << (at % 64);
    }

    /// Nothing is held for the slot any more.
    pub(crate) fn forget(&mut self, index: SlotIndex) {
        let at = usize::from(index.get());
        self.count -= usize::from(self.is_held(index));
        self.held[at / 64] &= !(1 << (at % 64));
    }

    /// How many slots something may be held for.
    pub(crate) fn held(&self) -> usize {
        self.count
    }

    /// Whether something may be held for the slot.
    pub(crate) fn is_held(&self, index: SlotIndex) -> bool {
        let at = usize::from(index.get());
        self.held[at / 64] & 1 << (at % 64) != 0
    }
}

/// The replicas by the primary's frame number.
pub(crate) struct ByFrame(Pin<KBox<XArray<Value>>>);

impl ByFrame {
    /// A map of nothing.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(KBox::pin_init(
            XArray::new(AllocKind::Alloc),
            GFP_KERNEL,
        )?))
    }
}

impl Map for ByFrame {
    fn get(&self, pfn: u64) -> Option<Slot> {
        let value = self.0.lock().get(pfn as usize)?;
        Slot::from_raw(value.get())
    }

    fn insert(&mut self, pfn: u64, slot: Slot) -> Result<(), NoMemory> {
        let value = Value::new(slot.to_raw()).ok_or(NoMemory)?;
        self.0
            .lock()
            .store(pfn as usize, value, GFP_NOWAIT | __GFP_NOWARN)
            .map_err(|_| NoMemory)?;
        Ok(())
    }

    fn remove(&mut self, pfn: u64) -> Option<Slot> {
        let value = self.0.lock().remove(pfn as usize)?;
        Slot::from_raw(value.get())
    }
}
