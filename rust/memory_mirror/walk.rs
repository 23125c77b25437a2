// SPDX-License-Identifier: GPL-2.0

//! From the page tables to the pages whose replicas are to be made.

use super::Refusal;
use crate::helpers;
use crate::page_block::Frame;
use core::marker::PhantomData;
use kernel::{
    bindings,
    error::to_result,
    mm::MmWithUser,
    page::PAGE_SIZE,
    prelude::*, //
};

/// The first address that no user mapping reaches, whatever the depth of the page tables.
const USER_END: usize = (1 << 56) - PAGE_SIZE;

/// Pages that are handed over at once, at most: `MIRROR_MAX_PAGES`, what a huge PMD maps.
const MAX_PAGES: usize = 512;

/// Words of a bitmap with a bit for each of them.
const WORDS: usize = MAX_PAGES / u64::BITS as usize;

/// What a walk has counted, in pages; each counts for every page table entry that maps it.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    /// Pages that are mapped and can be mirrored: the sum of the following.
    pub present: u64,
    /// Pages with `PG_mirrored` behind a clean entry.
    pub current: u64,
    /// Pages that are not.
    pub stale: u64,
    /// Pages given away with `MADV_FREE`.
    pub lazyfree: u64,
    /// Pages of hugetlb in sizes that are not mirrored.
    pub huge: u64,
    /// Pages of shadow stacks.
    pub shadow_stack: u64,
    /// Pages of an address space that a secondary MMU follows.
    pub notifier: u64,
}

/// A walk over the anonymous and shared memory of address spaces.
///
/// # Invariants
///
/// Those of the first `raw.nr` of `pages` that say so hold a reference; `raw.pages` is null, or points to `pages`,
/// which then has room for `raw.max`.
pub struct Walk {
    raw: bindings::mirror_walk,
    pages: KVec<bindings::mirror_page>,
}

impl Walk {
    /// A walk that counts and changes nothing.
    pub fn survey() -> Self {
        Self {
            raw: bindings::mirror_walk::default(),
            pages: KVec::new(),
        }
    }

    /// A walk that cleans, and hands over up to `max` pages or huge pages a step.
    pub fn clean(max: u32) -> Result<Self> {
        let mut pages = KVec::with_capacity(max as usize, GFP_KERNEL)?;
        let raw = bindings::mirror_walk {
            pages: pages.as_mut_ptr(),
            max,
            ..Default::default()
        };
        // INVARIANT: No entry is in use; the vector is never touched again, so it stays in place.
        Ok(Self { raw, pages })
    }

    /// Looks at every page table in walk number `turn` if `all`, else only at those that somebody
    /// has used since the last walk, or that have their turn.
    pub fn scope(&mut self, turn: u64, all: bool) {
        // Only a remainder is looked at.
        self.raw.turn = turn as u32;
        self.raw.all = all;
    }

    /// Begins with another address space.
    pub fn rewind(&mut self) {
        self.raw.start = 0;
        self.raw.end = USER_END;
    }

    /// Walks on in `mm` until its end or until `max` pages have been handed over. Returns whether
    /// there is more. When it returns, no TLB holds a dirty entry for the pages handed over.
    ///
    /// Context: may sleep. Takes `mmap_lock` for reading.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if the task is being killed.
    pub fn step(&mut self, mm: &MmWithUser) -> Result<bool> {
        self.put_pages();
        self.raw.mm = mm.as_raw();
        // SAFETY: The mm has users for as long as the reference; `raw` describes where pages go by
        // the type invariant.
        let more = unsafe { bindings::memory_mirror_walk(&mut self.raw) };
        self.raw.mm = core::ptr::null_mut();
        if more < 0 {
            to_result(more)?;
        }
        Ok(more > 0)
    }

    /// What the last step has handed over.
    pub fn handed(&self) -> impl Iterator<Item = Handed<'_>> + '_ {
        (0..self.raw.nr as usize).map(|i| {
            // SAFETY: The first `nr` entries are initialized by the type invariant.
            let entry = unsafe { &*self.raw.pages.add(i) };
            Handed {
                // INVARIANT: The walk holds a reference until the next step, and cannot be changed
                // while `self` is borrowed; the kernel hands over no more at once.
                page: entry.page,
                nr: entry.nr as usize,
                dirty: entry.dirty,
                _walk: PhantomData,
            }
        })
    }

    /// What was counted since the walk was made, in all address spaces together.
    pub fn counts(&self) -> Counts {
        let raw = &self.raw;
        Counts {
            present: raw.nr_present as u64,
            current: raw.nr_current as u64,
            stale: raw.nr_stale as u64,
            lazyfree: raw.nr_lazyfree as u64,
            huge: raw.nr_huge as u64,
            shadow_stack: raw.nr_shadow_stack as u64,
            notifier: raw.nr_notifier as u64,
        }
    }

    fn put_pages(&mut self) {
        for i in 0..self.raw.nr as usize {
            // SAFETY: The entry is initialized by the type invariant.
            let entry = unsafe { &*self.raw.pages.add(i) };
            if entry.held {
                // SAFETY: It has a reference, by the type invariant.
                unsafe { helpers::kmirror_put_page(entry.page) };
            }
        }
        // INVARIANT: None has a reference any more.
        self.raw.nr = 0;
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        self.put_pages();
        debug_assert!(self.raw.pages.is_null() || self.raw.pages == self.pages.as_mut_ptr());
    }
}

/// Pages that a walk has cleaned and handed over: one, or those of one folio that belong together.
///
/// # Invariants
///
/// `page` is the first of `nr` pages of one folio, at most [`MAX_PAGES`], and the walk holds one
/// reference to that folio.
pub struct Handed<'a> {
    pub(super) page: *mut bindings::page,
    pub(super) nr: usize,
    pub(super) dirty: bool,
    pub(super) _walk: PhantomData<&'a ()>,
}

impl Handed<'_> {
    /// The first page's frame number.
    pub fn pfn(&self) -> usize {
        // SAFETY: The page is valid by the type invariant.
        unsafe { helpers::kmirror_page_to_pfn(self.page) }
    }

    /// How many pages there are.
    pub fn count(&self) -> usize {
        self.nr
    }

    /// Whether the walk found their entry dirty, and cleaned it.
    pub fn was_dirty(&self) -> bool {
        self.dirty
    }

    /// Maps a huge page by PTEs, so that each page has a dirty bit of its own.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if somebody else holds the folio lock, [`EINVAL`] for a page of hugetlb, which
    /// cannot be mapped by PTEs.
    ///
    /// Context: may sleep.
    pub fn split_mapping(&self) -> Result {
        // SAFETY: The page is valid, with a reference, by the type invariant.
        to_result(unsafe { bindings::memory_mirror_split(self.page) })
    }

    /// Begins the replicas: locks the folio and sets `PG_mirrored`, if it is fit for that.
    ///
    /// Context: may sleep.
    pub fn begin(&self) -> Result<Primaries<'_>, Refusal> {
        let mut fresh = [0_u64; WORDS];
        // SAFETY: The pages are valid, and the walk's is the only reference that we hold. The bitmap has
        // room for them; an array of `u64` is one of `unsigned long` here.
        Refusal::from_raw(unsafe {
            bindings::memory_mirror_begin(self.page, self.nr as u32, fresh.as_mut_ptr().cast())
        })?;
        // INVARIANT: That has succeeded, and has set only bits below `nr`.
        Ok(Primaries {
            handed: self,
            fresh,
        })
    }
}

/// Pages whose replicas are being made.
///
/// # Invariants
///
/// `memory_mirror_begin()` has succeeded for the pages, so their folio is locked. The bits of
/// `fresh` are those that it has set, less the ones that have been taken out.
pub struct Primaries<'a> {
    handed: &'a Handed<'a>,
    fresh: [u64; WORDS],
}

impl Primaries<'_> {
    /// The next page that is to be copied.
    #[expect(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<Primary<'_>> {
        let word = self.fresh.iter().position(|&word| word != 0)?;
        let bit = self.fresh[word].trailing_zeros() as usize;
        self.fresh[word] &= self.fresh[word] - 1;
        let index = word * u64::BITS as usize + bit;
        Some(Primary {
            // INVARIANT: `index` is below `nr`, by the type invariant, and taken only once.
            // SAFETY: The pages of a folio have their `struct page`s in a row.
            page: unsafe { self.handed.page.add(index) },
            pfn: self.handed.pfn() + index,
            _folio: PhantomData,
        })
    }
}

impl Drop for Primaries<'_> {
    fn drop(&mut self) {
        while self.next().is_some() {}
        // SAFETY: By the type invariant; called once, when the value goes.
        unsafe { bindings::memory_mirror_end(self.handed.page, self.handed.nr as u32) }
    }
}

/// A page whose replica is being made.
///
/// # Invariants
///
/// `page`, with the frame number `pfn`, is valid, and one that `memory_mirror_begin()` wants copied.
pub struct Primary<'a> {
    page: *mut bindings::page,
    pfn: usize,
    _folio: PhantomData<&'a ()>,
}

impl Primary<'_> {
    /// The page's frame number.
    pub fn pfn(&self) -> usize {
        self.pfn
    }

    /// Copies the page. A broken one is reported, and nobody dies of it.
    ///
    /// # Errors
    ///
    /// [`EIO`] if the page cannot be read; the contents of `to` then mean nothing.
    pub fn copy_to(&self, to: &Frame<'_>) -> Result {
        // SAFETY: Both pages are valid, by the type invariants. That others write to the primary
        // meanwhile is not seen by Rust: the copy is made by C, byte by byte.
        if unsafe { helpers::kmirror_copy_mc_page(to.as_ptr(), self.page) } != 0 {
            return Err(EIO);
        }
        Ok(())
    }

    /// Whether it may be filled with one word: it is in a few places.
    pub fn seems_filled(&self) -> bool {
        // SAFETY: The page is valid, by the type invariant. As for copying.
        unsafe { helpers::kmirror_page_seems_filled(self.page) }
    }

    /// The replica is made and can be found. Without this the page loses `PG_mirrored`.
    pub fn finish(self) {
        core::mem::forget(self);
    }
}

impl Drop for Primary<'_> {
    fn drop(&mut self) {
        // SAFETY: The page is valid by the type invariant.
        unsafe { bindings::memory_mirror_drop(self.page) }
    }
}
