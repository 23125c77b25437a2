// SPDX-License-Identifier: GPL-2.0

//! Memory mirroring.
//!
//! C header: [`include/linux/memory_mirror.h`](srctree/include/linux/memory_mirror.h)

use crate::helpers;
use crate::page_block::Frame;
use core::marker::PhantomData;
use kernel::{
    bindings,
    container_of,
    error::to_result,
    ffi::c_ulong,
    mm::MmWithUser,
    page::PAGE_SIZE,
    prelude::*,
    types::Opaque, //
};

/// The first address that no user mapping reaches, whatever the depth of the page tables.
const USER_END: usize = (1 << 56) - PAGE_SIZE;

/// Why a page is not mirrored, or not restored: `enum mirror_refusal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody else holds the folio lock.
    Locked,
    /// Not anonymous memory, or not any more.
    NotAnon,
    /// Part of a large folio.
    Huge,
    /// Given away with `MADV_FREE`.
    Lazyfree,
    /// There are references that could be used for writing.
    Pinned,
    /// A secondary MMU may write to it.
    Notifier,
    /// Written since its replica was begun.
    Stale,
    /// There is no replica.
    NoReplica,
    /// The replica is damaged.
    BadReplica,
    /// No frame could be had to restore to.
    NoMemory,
}

impl Refusal {
    /// [`Ok`] for `MIRROR_OK`.
    fn from_raw(why: bindings::mirror_refusal) -> Result<(), Self> {
        Err(match why {
            bindings::mirror_refusal_MIRROR_OK => return Ok(()),
            bindings::mirror_refusal_MIRROR_LOCKED => Self::Locked,
            bindings::mirror_refusal_MIRROR_NOT_ANON => Self::NotAnon,
            bindings::mirror_refusal_MIRROR_HUGE => Self::Huge,
            bindings::mirror_refusal_MIRROR_LAZYFREE => Self::Lazyfree,
            bindings::mirror_refusal_MIRROR_PINNED => Self::Pinned,
            bindings::mirror_refusal_MIRROR_NOTIFIER => Self::Notifier,
            bindings::mirror_refusal_MIRROR_NO_REPLICA => Self::NoReplica,
            bindings::mirror_refusal_MIRROR_BAD_REPLICA => Self::BadReplica,
            bindings::mirror_refusal_MIRROR_NO_MEMORY => Self::NoMemory,
            // What we do not know is no reason to trust a replica.
            _ => Self::Stale,
        })
    }
}

/// What a walk has counted, in pages; each counts for every PTE that maps it.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    /// Anonymous pages that are mapped: the sum of the following.
    pub present: u64,
    /// Pages with `PG_mirrored` behind a clean PTE.
    pub current: u64,
    /// Small pages that are not.
    pub stale: u64,
    /// Pages given away with `MADV_FREE`.
    pub lazyfree: u64,
    /// Pages of large folios.
    pub huge: u64,
    /// Pages of shadow stacks.
    pub shadow_stack: u64,
    /// Pages of an address space that a secondary MMU follows.
    pub notifier: u64,
}

/// A walk over the anonymous pages of address spaces.
///
/// # Invariants
///
/// The first `raw.nr` of `pages` hold a reference each; `raw.pages` is null, or points to `pages`,
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

    /// A walk that cleans, and hands over up to `max` pages a step.
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

    /// The pages that the last step has handed over.
    pub fn pages(&self) -> impl Iterator<Item = HandedPage<'_>> + '_ {
        (0..self.raw.nr as usize).map(|i| {
            // SAFETY: The first `nr` entries are initialized by the type invariant.
            let entry = unsafe { &*self.raw.pages.add(i) };
            HandedPage {
                // INVARIANT: The walk holds a reference until the next step, and cannot be changed
                // while `self` is borrowed.
                page: entry.page,
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
            // SAFETY: The entry is initialized and has a reference by the type invariant.
            unsafe { helpers::kmirror_put_page((*self.raw.pages.add(i)).page) };
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

/// A page that a walk has cleaned and handed over.
///
/// # Invariants
///
/// `page` is valid, and the walk holds one reference to it.
pub struct HandedPage<'a> {
    page: *mut bindings::page,
    dirty: bool,
    _walk: PhantomData<&'a Walk>,
}

impl HandedPage<'_> {
    /// The page's frame number.
    pub fn pfn(&self) -> usize {
        // SAFETY: The page is valid by the type invariant.
        unsafe { helpers::kmirror_page_to_pfn(self.page) }
    }

    /// Whether the walk found its PTE dirty, and cleaned it.
    pub fn was_dirty(&self) -> bool {
        self.dirty
    }

    /// Begins the page's replica: locks the page and sets `PG_mirrored`, if it is fit for that.
    ///
    /// Context: may sleep.
    pub fn begin(&self) -> Result<Primary<'_>, Refusal> {
        // SAFETY: The page is valid, and ours is the only reference that we hold.
        Refusal::from_raw(unsafe { bindings::memory_mirror_begin(self.page) })?;
        // INVARIANT: That has succeeded.
        Ok(Primary {
            page: self,
            done: false,
        })
    }
}

/// A page whose replica is being made.
///
/// # Invariants
///
/// `memory_mirror_begin()` has succeeded for the page, so it is locked.
pub struct Primary<'a> {
    page: &'a HandedPage<'a>,
    done: bool,
}

impl Primary<'_> {
    /// Copies the page. A broken one is reported, and nobody dies of it.
    ///
    /// # Errors
    ///
    /// [`EIO`] if the page cannot be read; the contents of `to` then mean nothing.
    pub fn copy_to(&self, to: &Frame<'_>) -> Result {
        // SAFETY: Both pages are valid, by the type invariants. That others write to the primary
        // meanwhile is not seen by Rust: the copy is made by C, byte by byte.
        if unsafe { helpers::kmirror_copy_mc_page(to.as_ptr(), self.page.page) } != 0 {
            return Err(EIO);
        }
        Ok(())
    }

    /// The replica is made and can be found. Returns whether the page still has the flag.
    pub fn finish(mut self) -> bool {
        self.done = true;
        self.end()
    }

    fn end(&self) -> bool {
        // SAFETY: By the type invariant; called once, when the value goes.
        unsafe { bindings::memory_mirror_end(self.page.page, self.done) }
    }
}

impl Drop for Primary<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.end();
        }
    }
}

/// Whether the page in this frame has `PG_mirrored`, at this moment.
pub fn is_mirrored(pfn: usize) -> bool {
    // SAFETY: Any number will do.
    unsafe { helpers::kmirror_pfn_mirrored(pfn) }
}

/// Clears `PG_mirrored` of the page in this frame: its replica is of no use any more.
///
/// That the frame may have been given to somebody else does no harm: a replica too few.
pub fn clear_mirrored(pfn: usize) {
    // SAFETY: Any number will do; the flag is cleared atomically.
    unsafe { helpers::kmirror_pfn_clear_mirrored(pfn) }
}

/// Recovers from an error that nobody has run into yet, if there is a current replica.
///
/// # Errors
///
/// [`ENOENT`] if there is none, [`EHWPOISON`] if the frame is poisoned already, [`ENXIO`] if there
/// is no such memory. Nothing has changed then.
///
/// Context: may sleep. Calls back into the [`Keeper`].
pub fn recover(pfn: usize) -> Result {
    // SAFETY: Any number will do.
    to_result(unsafe { bindings::memory_mirror_recover(pfn) })
}

/// A page to be filled in place of one that is lost.
///
/// # Invariants
///
/// `page` is valid, locked and known to nobody else.
pub struct Target<'a> {
    page: *mut bindings::page,
    _call: PhantomData<&'a ()>,
}

impl Target<'_> {
    /// Fills the page from a replica, and returns the hash of what it then contains.
    ///
    /// # Errors
    ///
    /// [`EIO`] if the replica cannot be read.
    pub fn fill_from(&mut self, from: &Frame<'_>) -> Result<u64> {
        // SAFETY: Both pages are valid by the type invariants.
        if unsafe { helpers::kmirror_copy_mc_page(self.page, from.as_ptr()) } != 0 {
            return Err(EIO);
        }
        // SAFETY: As above.
        Ok(unsafe { helpers::kmirror_hash_page(self.page) })
    }
}

/// One who keeps replicas.
///
/// Context: all are called in process context, may sleep, and no two at a time. Locks held by the
/// caller: `mf_mutex`, and in [`fill()`](Self::fill) the locks of the lost folio and the new one.
pub trait Keeper: Send + Sync {
    /// Is this frame one of those that hold replicas? Then it is not used any more.
    fn owns(&self, pfn: usize) -> bool;
    /// Is there a replica for this frame?
    fn mirrored(&self, pfn: usize) -> bool;
    /// Fills `to` from the replica of frame `pfn`, which has been proven current.
    ///
    /// # Errors
    ///
    /// The reason if there is none that can be used.
    fn fill(&self, pfn: usize, to: Target<'_>) -> Result<(), Refusal>;
    /// The page was restored to another frame.
    fn restored(&self, pfn: usize, to: usize);
    /// The page is lost and was not restored. It need not be one that the keeper knows.
    fn refused(&self, pfn: usize, why: Refusal);
}

/// A keeper that the kernel asks when memory is lost.
///
/// # Invariants
///
/// `raw` is registered.
#[pin_data(PinnedDrop)]
pub struct Registration<K: Keeper> {
    #[pin]
    raw: Opaque<bindings::memory_mirror>,
    keeper: K,
}

// SAFETY: `raw` is only used by the kernel, under its locks; a keeper may be sent and shared.
unsafe impl<K: Keeper> Send for Registration<K> {}
// SAFETY: As above.
unsafe impl<K: Keeper> Sync for Registration<K> {}

impl<K: Keeper> Registration<K> {
    const OPS: bindings::memory_mirror_ops = bindings::memory_mirror_ops {
        owns: Some(Self::owns),
        mirrored: Some(Self::mirrored),
        fill: Some(Self::fill),
        restored: Some(Self::restored),
        refused: Some(Self::refused),
    };

    /// Registers the keeper, for as long as the registration is not dropped.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if there is one already.
    ///
    /// Context: may sleep.
    pub fn new(keeper: K) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            keeper,
            // INVARIANT: When this succeeds it is registered. It comes last, since the kernel may
            // call from now on.
            raw <- Opaque::try_ffi_init(|raw: *mut bindings::memory_mirror| {
                // SAFETY: `raw` is valid for writes.
                unsafe { (*raw).ops = &Self::OPS };
                // SAFETY: It is initialized, pinned, and unregistered in `drop()`.
                to_result(unsafe { bindings::memory_mirror_register(raw) })
            }),
        })
    }

    /// # Safety
    ///
    /// `raw` is the one that `new()` has registered, for `'a`.
    unsafe fn keeper<'a>(raw: *mut bindings::memory_mirror) -> &'a K {
        // SAFETY: By the requirement above it is the field of a registration, and the keeper was
        // initialized before it was registered.
        unsafe { &(*container_of!(Opaque::cast_from(raw), Self, raw)).keeper }
    }

    /// # Safety
    ///
    /// Only to be called by the kernel, with what `new()` has registered.
    unsafe extern "C" fn owns(raw: *mut bindings::memory_mirror, pfn: c_ulong) -> bool {
        // SAFETY: The kernel calls with what is registered.
        unsafe { Self::keeper(raw) }.owns(pfn)
    }

    /// # Safety
    ///
    /// Only to be called by the kernel, with what `new()` has registered.
    unsafe extern "C" fn mirrored(raw: *mut bindings::memory_mirror, pfn: c_ulong) -> bool {
        // SAFETY: As above.
        unsafe { Self::keeper(raw) }.mirrored(pfn)
    }

    /// # Safety
    ///
    /// Only to be called by the kernel, with what `new()` has registered.
    unsafe extern "C" fn fill(
        raw: *mut bindings::memory_mirror,
        pfn: c_ulong,
        to: *mut bindings::page,
    ) -> bindings::mirror_refusal {
        // INVARIANT: The target of a migration that has not begun to exist for others.
        let to = Target {
            page: to,
            _call: PhantomData,
        };
        // SAFETY: As above.
        match unsafe { Self::keeper(raw) }.fill(pfn, to) {
            Ok(()) => bindings::mirror_refusal_MIRROR_OK,
            Err(Refusal::NoReplica) => bindings::mirror_refusal_MIRROR_NO_REPLICA,
            Err(_) => bindings::mirror_refusal_MIRROR_BAD_REPLICA,
        }
    }

    /// # Safety
    ///
    /// Only to be called by the kernel, with what `new()` has registered.
    unsafe extern "C" fn restored(raw: *mut bindings::memory_mirror, pfn: c_ulong, to: c_ulong) {
        // SAFETY: As above.
        unsafe { Self::keeper(raw) }.restored(pfn, to)
    }

    /// # Safety
    ///
    /// Only to be called by the kernel, with what `new()` has registered.
    unsafe extern "C" fn refused(
        raw: *mut bindings::memory_mirror,
        pfn: c_ulong,
        why: bindings::mirror_refusal,
    ) {
        if let Err(why) = Refusal::from_raw(why) {
            // SAFETY: As above.
            unsafe { Self::keeper(raw) }.refused(pfn, why)
        }
    }
}

#[pinned_drop]
impl<K: Keeper> PinnedDrop for Registration<K> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: It is registered by the type invariant.
        unsafe { bindings::memory_mirror_unregister(self.raw.get()) }
    }
}
