// SPDX-License-Identifier: GPL-2.0

//! Dropping the replicas of pages that nobody uses any more.
//!
//! A page that is freed says nothing to kmirror (its flag goes with it, so its replica is never
//! restored); the slot is found here, a little at a time.
//!
//! How much that is after an epoch does not grow with what is protected, so that one in which little
//! was written costs little: [`slice()`] replicas, and the same again as long as that
//! [pays](Swept::pays). In [`ROUND`] epochs at most all have been looked at.

use crate::block::Backing;
use crate::index::{Map, Replicas, Usage};
use crate::record::Record;
use crate::slot::Slot;

/// A replica goes when this many sweeps in a row have not seen its primary. One is not enough: a
/// page on its way to another frame or to swap and back is out of sight for a moment only.
pub const RELEASE_AGE: u8 = 2;

/// Epochs in which a sweep in slices comes around, at most.
pub const ROUND: u64 = 1024;

/// Replicas that cost so little that all can be looked at at once.
const SMALL: u64 = 128;

/// Replicas to look at after an epoch, out of `used`.
pub fn slice(used: u64) -> u32 {
    // Less than 2^41 slots, see `Slot`.
    u32::try_from(used.div_ceil(ROUND).max(SMALL)).unwrap_or(u32::MAX)
}

/// Where the next call of [`Replicas::sweep`] goes on. It stays valid when blocks come and go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    block: u32,
    index: u16,
}

/// What is to become of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it as it is.
    Keep,
    /// The primary is in use: forget for how long it was not seen.
    Seen,
    /// The primary was not seen: drop the replica at [`RELEASE_AGE`].
    Unseen,
    /// The frame is free, or there is another reason to drop the replica now.
    Release,
}

/// What a call of [`Replicas::sweep`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Replicas judged.
    pub judged: u32,
    /// Replicas dropped.
    pub released: u32,
    /// The end of the region was reached: the next call begins at its start.
    pub done: bool,
}

impl Swept {
    /// Whether there is likely to be more to drop where this came to its end: pages are freed in
    /// numbers, and their replicas are neighbours as they were. From one in eight on.
    pub fn pays(&self) -> bool {
        !self.done && self.released >= (self.judged / 8).max(1)
    }
}

impl<M, E, U> Replicas<'_, M, E, U>
where
    M: Map + ?Sized,
    E: Backing,
    U: Usage + ?Sized,
{
    /// Lets `judge` decide over the replicas from `cursor` on, by the primary's frame number and
    /// what is remembered about it, up to the end of the region.
    ///
    /// `budget` bounds the work: the number of replicas judged, plus one for each block (or hole)
    /// passed.
    pub fn sweep(
        &mut self,
        cursor: &mut Cursor,
        budget: u32,
        mut judge: impl FnMut(u64, Record) -> Verdict,
    ) -> Swept {
        let mut swept = Swept::default();
        let mut budget = budget;
        loop {
            if cursor.block as usize >= self.blocks.len() {
                *cursor = Cursor::default();
                swept.done = true;
                return swept;
            }
            if budget == 0 {
                return swept;
            }
            budget -= 1;
            let Some((index, record)) = self.next_record(cursor.block, cursor.index) else {
                // Cannot overflow: it was less than the length of a slice with u32 numbers.
                cursor.block += 1;
                cursor.index = 0;
                continue;
            };
            cursor.index = index.get() + 1;
            swept.judged += 1;
            let slot = Slot::new(cursor.block, index);
            let age = match judge(record.pfn(), record) {
                Verdict::Keep => continue,
                Verdict::Seen => 0,
                Verdict::Unseen => record.age().saturating_add(1),
                Verdict::Release => RELEASE_AGE,
            };
            if age >= RELEASE_AGE {
                self.release_slot(slot);
                swept.released += 1;
            } else if let Some(Some(block)) = self.blocks.get_mut(slot.block() as usize) {
                block.set_record(index, record.with_age(age));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_small_and_comes_around() {
        for used in [
            0,
            1,
            SMALL,
            SMALL * ROUND,
            SMALL * ROUND + 1,
            1 << 21,
            1 << 39,
        ] {
            let slice = u64::from(slice(used));
            assert!(slice * ROUND >= used);
            assert!(slice <= SMALL.max(used / ROUND + 1));
        }
    }

    #[test]
    fn a_slice_pays_that_finds_one_in_eight() {
        let swept = |judged, released, done| Swept {
            judged,
            released,
            done,
        };
        assert!(swept(80, 10, false).pays());
        assert!(!swept(80, 9, false).pays());
        assert!(!swept(80, 80, true).pays());
        assert!(!swept(0, 0, false).pays());
    }
}
