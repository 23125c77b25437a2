// SPDX-License-Identifier: GPL-2.0

//! Naturally aligned blocks of page frames.
//!
//! C headers: [`include/linux/gfp.h`](srctree/include/linux/gfp.h),
//! [`include/linux/highmem.h`](srctree/include/linux/highmem.h)

use crate::helpers;
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::{alloc::AllocError, bindings, error::code::EIO, error::Result, ffi::c_int};

/// Log2 of the number of frames in a block.
const ORDER: u32 = 9;

/// Number of frames in a block: 2 MiB of them on x86.
pub const FRAMES_PER_BLOCK: usize = 1 << ORDER;

/// A block of page frames that nobody else uses, with contents of no meaning.
///
/// Its pages count as `PageOffline()`: dumps and hibernation leave them out, and the memory may go
/// offline if the block is dropped when [`GoingOffline`](crate::memory_hotplug::GoingOffline) says so.
///
/// # Invariants
///
/// `first` is the first of [`FRAMES_PER_BLOCK`] pages with neighbouring frame numbers, the first of
/// which is a multiple of that. We own the single reference to each of them.
pub struct PageBlock {
    first: NonNull<bindings::page>,
}

// SAFETY: The pages belong to the block, whichever thread has it.
unsafe impl Send for PageBlock {}
// SAFETY: Shared references allow no more than `Frame` does.
unsafe impl Sync for PageBlock {}

impl PageBlock {
    /// Takes a block from the page allocator, from `node` only if there is one given. Tries hard,
    /// but kills nobody for it.
    ///
    /// Context: may sleep.
    pub fn new(node: Option<u32>) -> Result<Self, AllocError> {
        let nid = match node {
            Some(node) => c_int::try_from(node).map_err(|_| AllocError)?,
            None => bindings::NUMA_NO_NODE,
        };
        // SAFETY: Any number will do: one that is no node gets nothing.
        let page = unsafe { helpers::kmirror_alloc_block(nid, ORDER) };
        let first = NonNull::new(page).ok_or(AllocError)?;
        // From here on each page has a reference of its own, so that a broken one can be left out
        // of use when the others go back.
        // SAFETY: It is the first page of a fresh block of this order, not a compound page.
        unsafe { bindings::split_page(page, ORDER) };
        // INVARIANT: The allocator aligns blocks naturally, and we own what it gives.
        let block = Self { first };
        for frame in (0..FRAMES_PER_BLOCK).filter_map(|index| block.frame(index)) {
            // SAFETY: The page is ours, is mapped by nobody, and has no type yet.
            unsafe { helpers::kmirror_offline_page(frame.as_ptr()) };
        }
        Ok(block)
    }

    /// The number of the first frame, a multiple of [`FRAMES_PER_BLOCK`].
    pub fn first_pfn(&self) -> usize {
        // SAFETY: The page is valid by the type invariant.
        unsafe { helpers::kmirror_page_to_pfn(self.first.as_ptr()) }
    }

    /// The node that the block is on.
    pub fn node(&self) -> i32 {
        // SAFETY: The page is valid by the type invariant.
        unsafe { bindings::page_to_nid(self.first.as_ptr()) }
    }

    /// One of the frames; [`None`] if `index` is not below [`FRAMES_PER_BLOCK`].
    pub fn frame(&self, index: usize) -> Option<Frame<'_>> {
        (index < FRAMES_PER_BLOCK).then(|| Frame {
            // INVARIANT: One of the block's pages by the type invariant: the frames of one block
            // have their `struct page`s in a row.
            // SAFETY: The index is within the block.
            page: unsafe { self.first.add(index) },
            _owner: PhantomData,
        })
    }
}

impl Drop for PageBlock {
    fn drop(&mut self) {
        for index in 0..FRAMES_PER_BLOCK {
            // A poisoned frame does not come into use again: the page allocator sees to that.
            // SAFETY: By the type invariant we own a reference to each page, and give it up here.
            unsafe { helpers::kmirror_free_page(self.first.add(index).as_ptr()) };
        }
    }
}

/// One frame of a block, or of another owner.
///
/// # Invariants
///
/// `page` is valid, and belongs to the one that it is borrowed from.
pub struct Frame<'a> {
    page: NonNull<bindings::page>,
    _owner: PhantomData<&'a ()>,
}

impl Frame<'_> {
    /// # Safety
    ///
    /// The page belongs to one who is borrowed for the lifetime.
    pub(crate) unsafe fn from_page(page: NonNull<bindings::page>) -> Self {
        // INVARIANT: By the requirement above.
        Self {
            page,
            _owner: PhantomData,
        }
    }

    pub(crate) fn as_ptr(&self) -> *mut bindings::page {
        self.page.as_ptr()
    }

    /// The frame's number.
    pub fn pfn(&self) -> usize {
        // SAFETY: The page is valid by the type invariant.
        unsafe { helpers::kmirror_page_to_pfn(self.as_ptr()) }
    }

    /// Marks the frame as broken. The page allocator will not take it back into use.
    pub fn poison(&self) {
        // SAFETY: The page is valid, and the flag is set atomically.
        unsafe { helpers::kmirror_poison_page(self.as_ptr()) }
    }

    /// Copies the frame. A broken one is reported, and nobody dies of it.
    ///
    /// # Errors
    ///
    /// [`EIO`] if it cannot be read; the contents of `to` then mean nothing.
    pub fn copy_to(&self, to: &Frame<'_>) -> Result {
        // SAFETY: Both pages are valid by the type invariant.
        if unsafe { helpers::kmirror_copy_mc_page(to.as_ptr(), self.as_ptr()) } != 0 {
            return Err(EIO);
        }
        Ok(())
    }

    /// Hash of the contents: XXH64 with seed 0.
    ///
    /// Not safe against machine checks: for frames that have just been written.
    pub fn hash(&self) -> u64 {
        // SAFETY: The page is valid, and belongs to us; nobody maps it.
        unsafe { helpers::kmirror_hash_page(self.as_ptr()) }
    }
}
