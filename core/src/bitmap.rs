// SPDX-License-Identifier: GPL-2.0

//! One bit for each slot of a block.

use crate::slot::{SlotIndex, SLOTS_PER_BLOCK};

const WORDS: usize = SLOTS_PER_BLOCK / 64;

/// A set of slots. All zero is the empty set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bitmap([u64; WORDS]);

impl Bitmap {
    pub(crate) const EMPTY: Self = Self([0; WORDS]);

    pub(crate) fn contains(&self, index: SlotIndex) -> bool {
        let (word, bit) = Self::place(index);
        self.0[word] & bit != 0
    }

    pub(crate) fn insert(&mut self, index: SlotIndex) {
        let (word, bit) = Self::place(index);
        self.0[word] |= bit;
    }

    pub(crate) fn remove(&mut self, index: SlotIndex) {
        let (word, bit) = Self::place(index);
        self.0[word] &= !bit;
    }

    /// The first slot at or after number `from` that is in the set.
    pub(crate) fn next(&self, from: u16) -> Option<SlotIndex> {
        let first = usize::from(from) / 64;
        // Bits before `from` in the first word are not looked at, all of the later words are.
        let mut mask = u64::MAX << (from % 64);
        for (word, bits) in self.0.iter().enumerate().skip(first) {
            let found = bits & mask;
            if found != 0 {
                return SlotIndex::new(word * 64 + found.trailing_zeros() as usize);
            }
            mask = u64::MAX;
        }
        None
    }

    /// The first slot that is in neither set.
    pub(crate) fn first_in_neither(&self, other: &Self) -> Option<SlotIndex> {
        for (word, (a, b)) in self.0.iter().zip(&other.0).enumerate() {
            let taken = a | b;
            if taken != u64::MAX {
                return SlotIndex::new(word * 64 + taken.trailing_ones() as usize);
            }
        }
        None
    }

    /// The slots of the set in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = SlotIndex> + '_ {
        let mut from = 0;
        core::iter::from_fn(move || {
            let index = self.next(from)?;
            from = index.get() + 1;
            Some(index)
        })
    }

    fn place(index: SlotIndex) -> (usize, u64) {
        let index = usize::from(index.get());
        // A slot's index is below 512; the remainder only makes that evident here.
        (index / 64 % WORDS, 1 << (index % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn is_a_set(
            steps in proptest::collection::vec((any::<bool>(), 0usize..512), 0..600),
            other in proptest::collection::btree_set(0usize..512, 0..512),
            from in 0u16..600,
        ) {
            let mut bitmap = Bitmap::EMPTY;
            let mut set = BTreeSet::new();
            for (put, n) in steps {
                let index = SlotIndex::new(n).unwrap();
                if put {
                    bitmap.insert(index);
                    set.insert(n);
                } else {
                    bitmap.remove(index);
                    set.remove(&n);
                }
                prop_assert_eq!(bitmap.contains(index), put);
            }
            let mut second = Bitmap::EMPTY;
            for &n in &other {
                second.insert(SlotIndex::new(n).unwrap());
            }
            let all = |i: Option<SlotIndex>| i.map(|i| usize::from(i.get()));
            prop_assert_eq!(
                bitmap.iter().map(|i| usize::from(i.get())).collect::<Vec<_>>(),
                set.iter().copied().collect::<Vec<_>>()
            );
            prop_assert_eq!(
                all(bitmap.next(from)),
                set.range(usize::from(from)..).next().copied()
            );
            prop_assert_eq!(
                all(bitmap.first_in_neither(&second)),
                (0..512).find(|n| !set.contains(n) && !other.contains(n))
            );
        }
    }
}
