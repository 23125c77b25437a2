// SPDX-License-Identifier: GPL-2.0

//! What a slot remembers about the page that it is the replica of.

use crate::epoch::Heat;

/// Number of a protected cgroup, given out by the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner(pub u16);

/// Frame numbers have this many bits: 52 of a physical address, less 12 within the page.
pub const PFN_BITS: u32 = 40;

/// A page, its owner, how often it is written and how long nobody has seen it, in one word:
///
/// ```text
/// 63    60 59    56 55          40 39                          0
/// +-------+--------+--------------+----------------------------+
/// |  age  |  heat  |    owner     |        primary's pfn       |
/// +-------+--------+--------------+----------------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record(u64);

const OWNER_SHIFT: u32 = PFN_BITS;
const HEAT_SHIFT: u32 = OWNER_SHIFT + 16;
const AGE_SHIFT: u32 = HEAT_SHIFT + 4;

impl Record {
    /// The record of a slot that holds nothing.
    pub(crate) const EMPTY: Self = Self(0);

    /// The greatest age; [`with_age`](Self::with_age) keeps to it.
    pub const MAX_AGE: u8 = 15;

    /// A cold page that has just been seen. `None` when `pfn` has more than [`PFN_BITS`] bits,
    /// which no frame of memory has.
    pub fn new(pfn: u64, owner: Owner) -> Option<Self> {
        if pfn >> PFN_BITS != 0 {
            return None;
        }
        Some(Self(pfn | u64::from(owner.0) << OWNER_SHIFT))
    }

    /// Frame number of the primary.
    pub fn pfn(self) -> u64 {
        self.field(0, PFN_BITS)
    }

    /// The cgroup that pays for the replica.
    pub fn owner(self) -> Owner {
        Owner(self.field(OWNER_SHIFT, 16) as u16)
    }

    /// How often the page was found dirty lately.
    pub fn heat(self) -> Heat {
        Heat::new(self.field(HEAT_SHIFT, 4) as u8)
    }

    /// For how many sweeps nobody has seen the primary: 0 to [`MAX_AGE`](Self::MAX_AGE).
    pub fn age(self) -> u8 {
        self.field(AGE_SHIFT, 4) as u8
    }

    /// The same with another owner.
    pub fn with_owner(self, owner: Owner) -> Self {
        self.with_field(OWNER_SHIFT, 16, u64::from(owner.0))
    }

    /// The same with another heat.
    pub fn with_heat(self, heat: Heat) -> Self {
        self.with_field(HEAT_SHIFT, 4, u64::from(heat.get()))
    }

    /// The same with another age, at most [`MAX_AGE`](Self::MAX_AGE).
    pub fn with_age(self, age: u8) -> Self {
        self.with_field(AGE_SHIFT, 4, u64::from(age.min(Self::MAX_AGE)))
    }

    fn field(self, shift: u32, bits: u32) -> u64 {
        self.0 >> shift & ((1 << bits) - 1)
    }

    /// `value` fits in `bits` at every call.
    fn with_field(self, shift: u32, bits: u32, value: u64) -> Self {
        Self(self.0 & !(((1 << bits) - 1) << shift) | value << shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_number_of_more_than_40_bits_is_refused() {
        assert!(Record::new((1 << PFN_BITS) - 1, Owner(0)).is_some());
        assert_eq!(Record::new(1 << PFN_BITS, Owner(0)), None);
        assert_eq!(Record::new(u64::MAX, Owner(0)), None);
    }

    proptest! {
        #[test]
        fn fields_do_not_touch_each_other(
            pfn in 0u64..1 << PFN_BITS,
            owners in any::<(u16, u16)>(),
            heats in (0u8..16, 0u8..16),
            ages in any::<(u8, u8)>(),
        ) {
            let heats = (Heat::new(heats.0), Heat::new(heats.1));
            // Each is set twice, so that bits left from the first time would show.
            let mut record = Record::new(pfn, Owner(owners.0))
                .unwrap()
                .with_heat(heats.0)
                .with_age(ages.0);
            record = record
                .with_age(ages.1)
                .with_owner(Owner(owners.1))
                .with_heat(heats.1);
            prop_assert_eq!(record.pfn(), pfn);
            prop_assert_eq!(record.owner(), Owner(owners.1));
            prop_assert_eq!(record.heat(), heats.1);
            prop_assert_eq!(record.age(), ages.1.min(15));
        }
    }
}
