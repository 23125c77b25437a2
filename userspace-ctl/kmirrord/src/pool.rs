// SPDX-License-Identifier: GPL-2.0

//! Replicas that the host holds, by the number of the guest's slot.
//!
//! They are in a file in memory that nobody else has, read and written by system calls: where its
//! memory breaks, a call fails, and one replica is gone. It grows with what is stored up to the
//! limit, and shrinks with what is dropped.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use kmirror_core::wire::{Code, DATA_BYTES};
use rustix::fs::{FallocateFlags, MemfdFlags};
use xxhash_rust::xxh64::xxh64;

use crate::ram::Page;
use crate::sys::mapping::prefer_file;

/// The hash that goes with stored bytes: XXH64 with seed 0, as the guest has it.
pub fn hash(data: &[u8]) -> u64 {
    xxh64(data, 0)
}

/// The most slots of a pool: 4 PiB.
pub const MAX_SLOTS: u64 = 1 << 40;

/// See above.
#[derive(Debug)]
pub struct Pool {
    file: File,
    slots: u64,
    /// One for each slot; what it says counts only where `full` has a bit.
    hashes: Vec<u64>,
    full: Vec<u64>,
    used: u64,
}

impl Pool {
    /// A pool of `slots` slots, on `node` as far as there is room.
    ///
    /// # Errors
    ///
    /// When there are more than [`MAX_SLOTS`], or the host refuses the file or the node.
    pub fn new(slots: u64, node: Option<u32>) -> io::Result<Self> {
        let count = usize::try_from(slots.min(MAX_SLOTS)).map_err(io::Error::other)?;
        if slots > MAX_SLOTS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let file = File::from(rustix::fs::memfd_create(
            c"kmirror-pool",
            MemfdFlags::CLOEXEC,
        )?);
        file.set_len(slots * DATA_BYTES as u64)?;
        if let (Some(node), true) = (node, slots > 0) {
            prefer_file(&file, count * DATA_BYTES, node)?;
        }
        Ok(Self {
            file,
            slots,
            hashes: vec![0; count],
            full: vec![0; count.div_ceil(64)],
            used: 0,
        })
    }

    /// How many slots it has.
    pub fn slots(&self) -> u64 {
        self.slots
    }

    /// How many hold something.
    pub fn used(&self) -> u64 {
        self.used
    }

    fn index(&self, slot: u64) -> Result<usize, Code> {
        match usize::try_from(slot) {
            Ok(index) if slot < self.slots => Ok(index),
            _ => Err(Code::Slot),
        }
    }

    fn is_full(&self, index: usize) -> bool {
        self.full
            .get(index / 64)
            .is_some_and(|word| word & 1 << (index % 64) != 0)
    }

    fn mark(&mut self, index: usize, full: bool) {
        if self.is_full(index) == full {
            return;
        }
        if let Some(word) = self.full.get_mut(index / 64) {
            *word ^= 1 << (index % 64);
            match full {
                true => self.used += 1,
                false => self.used -= 1,
            }
        }
    }

    /// Keeps `data` under `slot`. Whatever goes wrong, nothing older is under it afterwards.
    ///
    /// # Errors
    ///
    /// [`Code::Slot`], [`Code::Corrupt`] when the data do not fit `said`, [`Code::Full`].
    pub fn store(&mut self, slot: u64, said: u64, data: &Page) -> Result<(), Code> {
        let index = self.index(slot)?;
        self.mark(index, false);
        if hash(data) != said {
            return Err(Code::Corrupt);
        }
        let offset = slot * DATA_BYTES as u64;
        if let Err(error) = self.file.write_all_at(data, offset) {
            // A slot whose memory is broken gets another page, and the store a second try.
            let broken = error.raw_os_error() == Some(libc::EIO);
            if !broken || self.punch(slot, 1).is_err() {
                return Err(Code::Full);
            }
            self.file
                .write_all_at(data, offset)
                .map_err(|_| Code::Full)?;
        }
        if let Some(place) = self.hashes.get_mut(index) {
            *place = said;
        }
        self.mark(index, true);
        Ok(())
    }

    /// What is under `slot`, and its hash.
    ///
    /// # Errors
    ///
    /// [`Code::Slot`]; [`Code::Empty`]; [`Code::Corrupt`] when the bytes do not fit their hash any
    /// more, or cannot be read: then nothing is under it afterwards.
    pub fn fetch(&mut self, slot: u64) -> Result<(u64, Page), Code> {
        let index = self.index(slot)?;
        if !self.is_full(index) {
            return Err(Code::Empty);
        }
        let want = self.hashes.get(index).copied().unwrap_or_default();
        let mut data = [0; DATA_BYTES];
        let read = self.file.read_exact_at(&mut data, slot * DATA_BYTES as u64);
        if read.is_err() || hash(&data) != want {
            self.mark(index, false);
            // The page may be a broken one, so it is not used again.
            let _ = self.punch(slot, 1);
            return Err(Code::Corrupt);
        }
        Ok((want, data))
    }

    /// Forgets `count` slots from `slot` on; says how many of them held something.
    ///
    /// # Errors
    ///
    /// [`Code::Slot`] when not all of them are slots; nothing is forgotten then.
    pub fn drop(&mut self, slot: u64, count: u64) -> Result<u64, Code> {
        let end = slot.checked_add(count).ok_or(Code::Slot)?;
        if end > self.slots {
            return Err(Code::Slot);
        }
        let before = self.used;
        for index in slot..end {
            self.mark(index as usize, false);
        }
        if before != self.used {
            // If the pages stay, nothing is under them all the same.
            let _ = self.punch(slot, count);
        }
        Ok(before - self.used)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        if self.used > 0 {
            let _ = self.drop(0, self.slots);
        }
    }

    fn punch(&self, slot: u64, count: u64) -> io::Result<()> {
        rustix::fs::fallocate(
            &self.file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            slot * DATA_BYTES as u64,
            count * DATA_BYTES as u64,
        )?;
        Ok(())
    }

    /// Changes a byte of what is stored, as memory that rots would; for tests.
    #[doc(hidden)]
    pub fn rot(&self, slot: u64) {
        let mut byte = [0];
        let offset = slot * DATA_BYTES as u64 + 77;
        self.file.read_exact_at(&mut byte, offset).expect("a slot");
        let byte = [byte[0] ^ 1];
        self.file.write_all_at(&byte, offset).expect("a slot");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn page(version: u8) -> Page {
        [version; DATA_BYTES]
    }

    #[test]
    fn rotten_bytes_are_not_given_back() {
        let mut pool = Pool::new(4, None).unwrap();
        pool.store(2, hash(&page(7)), &page(7)).unwrap();
        assert_eq!(pool.fetch(2), Ok((hash(&page(7)), page(7))));
        pool.rot(2);
        assert_eq!(pool.fetch(2), Err(Code::Corrupt));
        assert_eq!(pool.fetch(2), Err(Code::Empty));
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn a_store_that_fails_leaves_nothing_older() {
        let mut pool = Pool::new(4, None).unwrap();
        pool.store(1, hash(&page(1)), &page(1)).unwrap();
        assert_eq!(pool.store(1, 99, &page(2)), Err(Code::Corrupt));
        assert_eq!(pool.fetch(1), Err(Code::Empty));
    }

    #[test]
    fn memory_is_given_back() {
        let mut pool = Pool::new(1024, None).unwrap();
        for slot in 0..1024 {
            pool.store(slot, hash(&page(1)), &page(1)).unwrap();
        }
        let blocks = |pool: &Pool| rustix::fs::fstat(&pool.file).unwrap().st_blocks * 512;
        assert_eq!(blocks(&pool), 4 << 20);
        assert_eq!(pool.drop(0, 512), Ok(512));
        assert_eq!(blocks(&pool), 2 << 20);
        pool.clear();
        assert_eq!(blocks(&pool), 0);
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((0u8..4, 0u64..10, 0u8..8), 0..60)) {
            const SLOTS: u64 = 8;
            let mut pool = Pool::new(SLOTS, None).unwrap();
            let mut model = HashMap::new();
            for (what, slot, value) in steps {
                let there = slot < SLOTS;
                match what {
                    0 => {
                        let done = pool.store(slot, hash(&page(value)), &page(value));
                        prop_assert_eq!(done, if there { Ok(()) } else { Err(Code::Slot) });
                        if there {
                            model.insert(slot, value);
                        }
                    }
                    1 => match pool.fetch(slot) {
                        Ok((_, data)) => prop_assert_eq!(Some(&data[0]), model.get(&slot)),
                        Err(Code::Empty) => prop_assert!(there && !model.contains_key(&slot)),
                        Err(code) => prop_assert!(!there && code == Code::Slot),
                    },
                    _ => {
                        let count = u64::from(value) + 1;
                        let done = pool.drop(slot, count);
                        if slot + count > SLOTS {
                            prop_assert_eq!(done, Err(Code::Slot));
                        } else {
                            let before = model.len();
                            model.retain(|at, _| !(slot..slot + count).contains(at));
                            prop_assert_eq!(done, Ok((before - model.len()) as u64));
                        }
                    }
                }
                prop_assert_eq!(pool.used(), model.len() as u64);
            }
        }
    }
}
