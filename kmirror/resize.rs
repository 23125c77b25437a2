// SPDX-License-Identifier: GPL-2.0

//! The mirror region grows and shrinks.

use crate::{
    frames::Frames,
    host::Host,
    host_place,
    host_queue::Fault,
    store::Store, //
};
use kernel::prelude::*;
use kernel_ext::mm;
use kmirror_core::{RegionSize, BLOCK_BYTES};

impl Store {
    /// Grows or shrinks the region to `size`, rounded down to whole blocks. Replicas in memory that
    /// is given back are dropped.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], [`EINTR`], or [`EIO`] if the host's service fails while it places the new memory.
    /// Nothing has changed then.
    ///
    /// Context: may sleep, and take long.
    pub(crate) fn resize(&self, host: &Host, size: RegionSize) -> Result {
        let _resize = self.resize.lock();
        let want = size.blocks() as usize;
        let have = self.totals().blocks as usize;
        if want > have {
            self.grow(host, want - have)?;
        }
        for _ in want..have {
            // Dropped outside of the lock: 512 frames go back one by one.
            let block = self.inner.lock().detach();
            drop(block);
        }
        // It is not where it was said to be any more.
        host.set_placement(None);
        host.wake();
        Ok(())
    }

    /// Makes the region larger by so many blocks, or not at all. The caller holds `resize`.
    pub(crate) fn grow(&self, host: &Host, blocks: usize) -> Result {
        // Not to push out everybody else's memory for a request that cannot be met.
        let bytes = (blocks as u64).checked_mul(BLOCK_BYTES).ok_or(ENOMEM)?;
        if bytes > mm::available_bytes() {
            return Err(ENOMEM);
        }
        let mut fresh = KVec::with_capacity(blocks, GFP_KERNEL | __GFP_NOWARN)?;
        for _ in 0..blocks {
            if kernel::current!().signal_pending() {
                return Err(EINTR);
            }
            fresh
                .push_within_capacity(Frames::new(self.node)?)
                .map_err(|_| ENOMEM)?;
        }
        let fresh = place(host, fresh)?;

        let mut inner = self.inner.lock();
        inner.guest.reserve(fresh.len())?;
        for frames in fresh {
            // There is room for all of them now.
            inner.guest.attach(frames)?;
        }
        Ok(())
    }
}

/// Has the host put fresh blocks where they should be, while nobody uses them.
fn place(host: &Host, fresh: KVec<Frames>) -> Result<KVec<Frames>> {
    let mut firsts = KVec::with_capacity(fresh.len(), GFP_KERNEL)?;
    for frames in &fresh {
        firsts.push(frames.pages.first_pfn(), GFP_KERNEL)?;
    }
    match host_place::place(host, &firsts, true) {
        // Without a service the memory is good where it is; so it is if the host wants no change.
        Ok(_) | Err(Fault::Refused(_) | Fault::Local) => Ok(fresh),
        Err(Fault::Gone) if host.session().is_none() => Ok(fresh),
        // The service was told that the memory is empty, and may still drop it, whenever it wakes
        // up. Nobody may ever use that again.
        Err(_) => {
            pr_err!(
                "the host's service has failed while it placed {} blocks of memory, which are lost until the next boot\n",
                fresh.len()
            );
            core::mem::forget(fresh);
            Err(EIO)
        }
    }
}
