// SPDX-License-Identifier: GPL-2.0

//! Those whom the kernel asks when memory is lost.

use super::Refusal;
use crate::helpers;
use crate::page_block::Frame;
use core::marker::PhantomData;
use core::num::NonZero;
use kernel::{
    bindings,
    container_of,
    error::to_result,
    ffi::c_ulong,
    prelude::*,
    types::Opaque, //
};

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
    /// Fills the page with one word.
    pub fn fill_with(&mut self, word: u64) {
        // SAFETY: The page is valid, and known to nobody else, by the type invariant.
        unsafe { helpers::kmirror_fill_page(self.page, word) }
    }

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
/// caller: `mf_mutex`, and in [`fill()`](Self::fill) and [`rescue()`](Self::rescue) the locks of the
/// lost folio and the new one.
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
    /// May somebody else be able to read the frame, though the kernel is not?
    fn rescues(&self, pfn: usize) -> bool;
    /// Has him fill `to` with what is in frame `pfn`. The kernel cannot read it, and nobody can write
    /// to it.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoReplica`] if he cannot read it either.
    fn rescue(&self, pfn: usize, to: Target<'_>) -> Result<(), Refusal>;
    /// The page was restored to another frame; or, without one, nobody had it any more, and only its
    /// frame was taken out of use.
    fn restored(&self, pfn: usize, to: Option<NonZero<usize>>);
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
        rescues: Some(Self::rescues),
        rescue: Some(Self::rescue),
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
        // SAFETY: As above.
        unsafe { Self::filled(raw, pfn, to, K::fill) }
    }

    /// # Safety
    ///
    /// Only to be called by the kernel, with what `new()` has registered.
    unsafe extern "C" fn rescues(raw: *mut bindings::memory_mirror, pfn: c_ulong) -> bool {
        // SAFETY: As above.
        unsafe { Self::keeper(raw) }.rescues(pfn)
    }

    /// # Safety
    ///
    /// Only to be called by the kernel, with what `new()` has registered and a page that nobody else
    /// knows.
    unsafe extern "C" fn rescue(
        raw: *mut bindings::memory_mirror,
        pfn: c_ulong,
        to: *mut bindings::page,
    ) -> bindings::mirror_refusal {
        // SAFETY: As above.
        unsafe { Self::filled(raw, pfn, to, K::rescue) }
    }

    /// # Safety
    ///
    /// As for [`Self::keeper`], and nobody else knows the page.
    unsafe fn filled(
        raw: *mut bindings::memory_mirror,
        pfn: c_ulong,
        to: *mut bindings::page,
        how: impl FnOnce(&K, usize, Target<'_>) -> Result<(), Refusal>,
    ) -> bindings::mirror_refusal {
        // INVARIANT: The target of a migration that has not begun to exist for others.
        let to = Target {
            page: to,
            _call: PhantomData,
        };
        // SAFETY: By the requirement above.
        match how(unsafe { Self::keeper(raw) }, pfn, to) {
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
        unsafe { Self::keeper(raw) }.restored(pfn, NonZero::new(to))
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
