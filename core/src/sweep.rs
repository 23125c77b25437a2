// SPDX-License-Identifier: GPL-2.0

//! Dropping the replicas of pages that nobody uses any more.
//!
//! A page that is freed says nothing to kmirror (its flag goes with it, so its replica is never
//! restored); the slot is found here, a little at a time.

use crate::block::Backing;
use crate::index::{Map, Replicas, Usage};
use crate::record::Record;
use crate::slot::Slot;

/// A replica goes when this many sweeps in a row have not seen its primary. One is not enough: a
/// page on its way to another frame or to swap and back is out of sight for a moment only.
pub const RELEASE_AGE: u8 = 2;

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
    /// Drop it now.
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
