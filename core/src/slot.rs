// SPDX-License-Identifier: GPL-2.0

//! The name of a slot: which block of the mirror region, and which frame of it.

/// Slots in a block: the 4 KiB frames of 2 MiB.
pub const SLOTS_PER_BLOCK: usize = 512;

/// Bytes of memory that a block stands for.
pub const BLOCK_BYTES: u64 = 2 << 20;

/// Number of a slot within its block, below [`SLOTS_PER_BLOCK`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotIndex(u16);

impl SlotIndex {
    /// `None` when `index` is not below [`SLOTS_PER_BLOCK`].
    pub const fn new(index: usize) -> Option<Self> {
        if index < SLOTS_PER_BLOCK {
            Some(Self(index as u16))
        } else {
            None
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The number, with its bound in sight of the compiler.
    pub(crate) const fn place(self) -> usize {
        self.0 as usize % SLOTS_PER_BLOCK
    }
}

/// A slot of the mirror region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    block: u32,
    index: SlotIndex,
}

impl Slot {
    /// Bits that [`to_raw`](Self::to_raw) needs, well within a value entry of an XArray.
    pub const RAW_BITS: u32 = 42;

    /// Slot `index` of block number `block`.
    pub const fn new(block: u32, index: SlotIndex) -> Self {
        Self { block, index }
    }

    /// Number of the block.
    pub const fn block(self) -> u32 {
        self.block
    }

    /// Number within the block.
    pub const fn index(self) -> SlotIndex {
        self.index
    }

    /// The slot after this one. `None` after the last of a block.
    pub const fn next(self) -> Option<Self> {
        match SlotIndex::new(self.index.0 as usize + 1) {
            Some(index) => Some(Self { index, ..self }),
            None => None,
        }
    }

    /// Bytes from the start of the block to the slot's frame.
    pub const fn offset(self) -> u64 {
        (self.index.0 as u64) << 12
    }

    /// The slot as one number: never 0, below `1 << RAW_BITS`.
    pub const fn to_raw(self) -> u64 {
        ((self.block as u64) << 9 | self.index.0 as u64) + 1
    }

    /// The slot that [`to_raw`](Self::to_raw) gave `raw` for. `None` when it gave it for none.
    pub const fn from_raw(raw: u64) -> Option<Self> {
        let Some(number) = raw.checked_sub(1) else {
            return None;
        };
        if number >> (32 + 9) != 0 {
            return None;
        }
        Some(Self {
            block: (number >> 9) as u32,
            index: SlotIndex((number % SLOTS_PER_BLOCK as u64) as u16),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slot_is_one_number_and_back() {
        let last = SlotIndex::new(511).unwrap();
        assert_eq!(SlotIndex::new(512), None);
        assert_eq!(Slot::from_raw(0), None);
        let greatest = Slot::new(u32::MAX, last);
        assert_eq!(greatest.to_raw(), 1 << 41);
        assert!(greatest.to_raw() < 1 << Slot::RAW_BITS);
        assert_eq!(Slot::from_raw(greatest.to_raw()), Some(greatest));
        assert_eq!(Slot::from_raw(greatest.to_raw() + 1), None);
        assert_eq!(Slot::from_raw(u64::MAX), None);
        assert_eq!(Slot::new(3, last).offset(), BLOCK_BYTES - 4096);
        assert_eq!(Slot::new(3, last).next(), None);
        let first = SlotIndex::new(0).unwrap();
        assert_eq!(
            Slot::new(3, first).next(),
            Some(Slot::new(3, SlotIndex::new(1).unwrap()))
        );
    }

    proptest! {
        #[test]
        fn a_slot_survives_packing(block: u32, index in 0usize..512) {
            let slot = Slot::new(block, SlotIndex::new(index).unwrap());
            prop_assert_ne!(slot.to_raw(), 0);
            prop_assert_eq!(Slot::from_raw(slot.to_raw()), Some(slot));
        }

        #[test]
        fn from_raw_takes_only_what_to_raw_gives(raw: u64) {
            if let Some(slot) = Slot::from_raw(raw) {
                prop_assert_eq!(slot.to_raw(), raw);
            }
        }
    }
}
