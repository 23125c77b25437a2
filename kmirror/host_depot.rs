// SPDX-License-Identifier: GPL-2.0

//! The host's pool: replicas that the host's service keeps, under the numbers of our slots.

use crate::{
    depot::{Depot, Source},
    frames::Records,
    host::Host,
    host_queue::Fault,
    shelf::Shelf,
    tenants::Owners, //
};
use kernel::{prelude::*, sync::Arc};
use kernel_ext::memory_mirror::{self, Target};
use kmirror_core::{wire::Code, Block, Refusal, Slot, SlotIndex, SLOTS_PER_BLOCK};

/// Runs of slots that are dropped at the host at a time.
const RUNS: u32 = 64;

/// The slots of the pool. Their bytes are at the host.
pub(crate) struct HostDepot {
    shelf: Shelf<Records>,
    host: Arc<Host>,
}

impl HostDepot {
    /// A pool without slots.
    pub(crate) fn new(host: Arc<Host>) -> Result<Self> {
        Ok(Self {
            shelf: Shelf::new()?,
            host,
        })
    }

    /// The blocks, by number.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (u32, &Block<Records>)> {
        let numbered = self.shelf.blocks.iter().enumerate();
        numbered.filter_map(|(number, block)| Some((number as u32, block.as_ref()?)))
    }

    /// Takes so many blocks into use: the pool of a new session.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], and nothing has changed.
    pub(crate) fn fill_up(&mut self, mut blocks: KVec<Records>) -> Result {
        self.shelf.reserve(blocks.len(), GFP_KERNEL)?;
        for records in blocks.drain_all() {
            // There is room for all of them.
            self.shelf.attach(records)?;
        }
        Ok(())
    }

    /// Drops all replicas, with their slots. Each page loses the flag unless `covered` says that
    /// there is another replica of it.
    pub(crate) fn clear(
        &mut self,
        owners: &mut Owners,
        mut covered: impl FnMut(&mut Owners, usize) -> bool,
    ) -> KVec<Block<Records>> {
        let mut gone = KVec::new();
        for number in 0..self.shelf.blocks.len() as u32 {
            let mut dropped = KVec::new();
            let lost = &self.host.lost;
            let block = self.shelf.replicas(owners).evacuate(number, |pfn| {
                lost.count();
                // Without room to remember it, it loses the flag: a replica too few.
                if dropped
                    .push(pfn as usize, GFP_NOWAIT | __GFP_NOWARN)
                    .is_err()
                {
                    memory_mirror::clear_mirrored(pfn as usize);
                }
            });
            for &pfn in &dropped {
                if !covered(owners, pfn) {
                    memory_mirror::clear_mirrored(pfn);
                }
            }
            if let Some(block) = block {
                // Freed by the caller, outside of the lock, if there is room to hand it over.
                let _ = gone.push(block, GFP_NOWAIT | __GFP_NOWARN);
            }
        }
        gone
    }

    /// Has the service forget slots that it still holds, and that nobody uses any more. Returns
    /// whether there may be more.
    pub(crate) fn trim(&mut self) -> bool {
        let mut runs = 0;
        for (number, block) in self.shelf.blocks.iter_mut().enumerate() {
            // Something may be held for each slot in use, so then there is nothing else.
            let Some(block) = block
                .as_mut()
                .filter(|b| b.backing().held() > b.used_slots())
            else {
                continue;
            };
            let mut from = 0;
            while let Some((first, count)) = idle_run(block, from) {
                if runs == RUNS {
                    return true;
                }
                runs += 1;
                from = first + count;
                let slot = (number * SLOTS_PER_BLOCK + first) as u64;
                if self.host.forget(slot, count as u64).is_err() {
                    return false;
                }
                for index in (first..from).filter_map(SlotIndex::new) {
                    block.backing_mut().forget(index);
                }
            }
        }
        false
    }
}

/// The next slots in a row that the service holds for nobody: the first, and how many.
fn idle_run(block: &Block<Records>, from: usize) -> Option<(usize, usize)> {
    let idle = |at: usize| {
        SlotIndex::new(at)
            .is_some_and(|index| block.backing().is_held(index) && block.record(index).is_none())
    };
    let first = (from..SLOTS_PER_BLOCK).find(|&at| idle(at))?;
    let end = (first..SLOTS_PER_BLOCK).find(|&at| !idle(at));
    Some((first, end.unwrap_or(SLOTS_PER_BLOCK) - first))
}

/// The number under which the service keeps a slot.
fn number(slot: Slot) -> u64 {
    u64::from(slot.block()) * SLOTS_PER_BLOCK as u64 + u64::from(slot.index().get())
}

impl Depot for HostDepot {
    type Backing = Records;

    fn shelf(&mut self) -> &mut Shelf<Records> {
        &mut self.shelf
    }

    fn ready(&self) -> Result<(), Refusal> {
        match self.host.session() {
            Some(_) => Ok(()),
            None => Err(Refusal::NoHost),
        }
    }

    fn put(&mut self, slot: Slot, from: &impl Source) -> Result<u64, Refusal> {
        // Also if it fails: then nobody knows.
        if let Some(Some(block)) = self.shelf.blocks.get_mut(slot.block() as usize) {
            block.backing_mut().hold(slot.index());
        }
        self.host
            .store(number(slot), from)
            .map_err(|fault| match fault {
                Fault::Local | Fault::Refused(Code::Busy) => Refusal::Busy,
                Fault::Refused(Code::Full | Code::Slot) => Refusal::NoSpace,
                _ => Refusal::NoHost,
            })
    }

    fn take(&mut self, slot: Slot, to: &mut Target<'_>) -> Result<u64, memory_mirror::Refusal> {
        self.host
            .fetch(number(slot), to)
            .map_err(|_| memory_mirror::Refusal::BadReplica)
    }
}
