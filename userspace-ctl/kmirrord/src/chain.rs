// SPDX-License-Identifier: GPL-2.0

//! A chain of descriptors: the request in it is copied out once, its answer is copied in.

use std::ops::Deref;

use kmirror_core::wire::MAX_REQUEST_BYTES;
use virtio_queue::{Descriptor, DescriptorChain};
use vm_memory::{Bytes, GuestAddress, GuestMemory};

/// Descriptors of one chain at most; the rest is not looked at. A guest needs four.
const MAX_DESCRIPTORS: usize = 64;

/// What a guest has put into a chain, in memory of this process.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The request.
    pub request: Vec<u8>,
    /// Where its answer goes: guest-physical addresses and lengths. All of it is guest memory.
    room: Vec<(GuestAddress, usize)>,
}

impl Received {
    /// Reads each descriptor of `chain` once, and copies what they name once. `None` when the chain
    /// makes no sense: something readable after something writable, addresses that are not memory,
    /// more than the longest request.
    pub fn read<M>(memory: &M::Target, chain: DescriptorChain<M>) -> Option<Self>
    where
        M: Deref,
        M::Target: GuestMemory,
    {
        let mut received = Self::default();
        for (at, descriptor) in chain.enumerate() {
            if at == MAX_DESCRIPTORS {
                return None;
            }
            received.take(memory, &descriptor)?;
        }
        Some(received)
    }

    fn take<M: GuestMemory + ?Sized>(&mut self, memory: &M, descriptor: &Descriptor) -> Option<()> {
        let (address, bytes) = (descriptor.addr(), descriptor.len() as usize);
        if descriptor.is_write_only() {
            if !memory.check_range(address, bytes) {
                return None;
            }
            self.room.push((address, bytes));
            return Some(());
        }
        let filled = self.request.len();
        if !self.room.is_empty() || bytes > MAX_REQUEST_BYTES - filled {
            return None;
        }
        self.request.resize(filled + bytes, 0);
        let place = self.request.get_mut(filled..)?;
        memory.read_slice(place, address).ok()
    }

    /// Bytes that an answer may have.
    pub fn room(&self) -> usize {
        self.room
            .iter()
            .fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    /// Copies the answer to where the guest wants it. `None` when it cannot be; then part of it may
    /// be there.
    pub fn write<M: GuestMemory + ?Sized>(&self, memory: &M, answer: &[u8]) -> Option<u32> {
        let mut rest = answer;
        for &(address, bytes) in &self.room {
            let (now, later) = rest.split_at(bytes.min(rest.len()));
            memory.write_slice(now, address).ok()?;
            rest = later;
        }
        rest.is_empty()
            .then_some(answer.len())
            .and_then(|bytes| u32::try_from(bytes).ok())
    }
}
