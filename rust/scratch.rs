// SPDX-License-Identifier: GPL-2.0

//! A page to look at what was copied to it.
//!
//! C headers: [`include/linux/gfp.h`](srctree/include/linux/gfp.h),
//! [`include/linux/highmem.h`](srctree/include/linux/highmem.h)

use crate::{helpers, page_block::Frame};
use core::ptr::NonNull;
use kernel::{bindings, page::PAGE_SIZE, prelude::*};

/// Words in a page.
pub const WORDS: usize = PAGE_SIZE / size_of::<u64>();

/// A page of one's own, which the kernel has an address for.
///
/// # Invariants
///
/// We own the only reference to `page`, whose memory is initialized.
pub struct Scratch {
    page: NonNull<bindings::page>,
}

// SAFETY: The page belongs to the value, whichever thread has it.
unsafe impl Send for Scratch {}
// SAFETY: Shared references only read it.
unsafe impl Sync for Scratch {}

impl Scratch {
    /// A page filled with zeros.
    ///
    /// Context: may sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub fn new() -> Result<Self> {
        // SAFETY: It may be called anywhere where one may sleep.
        let page = NonNull::new(unsafe { helpers::kmirror_alloc_page() }).ok_or(ENOMEM)?;
        // INVARIANT: That is what the allocator gives, filled with zeros.
        Ok(Self { page })
    }

    /// The page, to be filled.
    pub fn frame(&mut self) -> Frame<'_> {
        // SAFETY: The page is ours, and we are borrowed for as long as the frame is used.
        unsafe { Frame::from_page(self.page) }
    }

    /// What is in it.
    pub fn words(&self) -> &[u64; WORDS] {
        // SAFETY: The page is valid, and the kernel's address of it is one of a whole page, so it is
        // aligned; it is initialized by the type invariant. Nobody else knows of the page, and to be
        // filled it needs a mutable borrow.
        unsafe { &*helpers::kmirror_page_address(self.page.as_ptr()).cast() }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, and it is not used any more.
        unsafe { helpers::kmirror_free_page(self.page.as_ptr()) }
    }
}
