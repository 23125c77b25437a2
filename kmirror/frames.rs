// SPDX-License-Identifier: GPL-2.0

//! The memory of the mirror region, and the map from a page to its replica.

use kernel::{
    prelude::*,
    xarray::{AllocKind, XArray}, //
};
use kernel_ext::{page_block::PageBlock, xarray::Value};
use kmirror_core::{Backing, Entries, Entry, Map, NoMemory, Slot};

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
            entries: KBox::init(
                pin_init::init_array_from_fn(|_| Entry::EMPTY),
                GFP_KERNEL | __GFP_NOWARN,
            )?,
        })
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
