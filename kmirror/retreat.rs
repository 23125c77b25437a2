// SPDX-License-Identifier: GPL-2.0

//! Memory of the region that others need more than replicas do.
//!
//! The region is set aside when the module is loaded, so it takes no memory from anybody later.
//! But memory may be taken out of the machine, and there may be so little of it that somebody is
//! to be killed. Then the region gives way first: it moves, if there is room elsewhere, or becomes
//! smaller, and stays so until `region/total` is written again.

use crate::{host::Host, store::Store, Kmirror};
use core::ops::Range;
use kernel::{
    prelude::*,
    sync::Arc,
    time::{delay::fsleep, Delta}, //
};
use kernel_ext::{
    memory_hotplug::{GoingOffline, MemoryChain},
    notifier::Handler,
    oom::{OomChain, OutOfMemory}, //
};
use kmirror_core::{BLOCK_BYTES, SLOTS_PER_BLOCK};

/// Blocks to give back at a time, before somebody is killed: 16 MiB.
const AT_ONCE: usize = 8;

/// How often, and how long, the store's lock is waited for then: 10 ms, in which many pages can be
/// copied.
const PATIENCE: u32 = 100;
const PAUSE_US: i64 = 100;

/// Leaves memory that goes offline.
pub(crate) struct Offline(pub(crate) Arc<Kmirror>);

impl Handler<MemoryChain> for Offline {
    fn notify(&self, going: GoingOffline<'_>) -> Result {
        let (gone, replaced) = self.0.store.vacate(&self.0.host, going.frames());
        if replaced < gone {
            pr_warn!(
                "memory goes offline: the mirror region is {} bytes smaller\n",
                (gone - replaced) as u64 * BLOCK_BYTES
            );
        }
        Ok(())
    }
}

/// Gives memory back before a process is killed for want of it.
pub(crate) struct LastResort(pub(crate) Arc<Kmirror>);

impl Handler<OomChain> for LastResort {
    fn notify(&self, mut oom: OutOfMemory<'_>) -> Result {
        let blocks = self.0.store.try_give_back(AT_ONCE);
        if blocks > 0 {
            oom.freed(blocks * SLOTS_PER_BLOCK);
            pr_warn!(
                "out of memory: the mirror region is {} bytes smaller\n",
                blocks as u64 * BLOCK_BYTES
            );
        }
        Ok(())
    }
}

impl Store {
    /// Moves out of these frames, as far as there is memory for it elsewhere. The replicas that were
    /// there are dropped. Returns how many blocks were given back, and how many of them were
    /// replaced.
    ///
    /// Context: may sleep.
    fn vacate(&self, host: &Host, frames: &Range<usize>) -> (usize, usize) {
        let _resize = self.resize.lock();
        let mut gone = 0;
        loop {
            // Dropped outside of the lock: 512 frames go back one by one.
            let block = self.inner.lock().detach_in(frames);
            if block.is_none() {
                break;
            }
            gone += 1;
        }
        if gone == 0 {
            return (0, 0);
        }
        // One by one: some are better than none.
        let replaced = (0..gone).take_while(|_| self.grow(host, 1).is_ok());
        let replaced = replaced.count();
        // It is not where it was said to be any more.
        host.set_placement(None);
        host.wake();
        (gone, replaced)
    }

    /// Gives back up to so many blocks, those with the fewest replicas first. Returns how many.
    ///
    /// Context: any that may sleep, with whatever locks are held. Whoever holds ours may be the caller
    /// himself, or wait for the memory that we are to give: it is waited for a while, not for ever.
    fn try_give_back(&self, blocks: usize) -> usize {
        let mut patience = PATIENCE;
        let mut given = 0;
        while given < blocks {
            let Some(mut inner) = self.inner.try_lock() else {
                if patience == 0 {
                    break;
                }
                patience -= 1;
                fsleep(Delta::from_micros(PAUSE_US));
                continue;
            };
            let block = inner.detach();
            drop(inner);
            if block.is_none() {
                break;
            }
            given += 1;
        }
        given
    }
}
