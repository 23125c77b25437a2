// SPDX-License-Identifier: GPL-2.0

//! Breaking memory on purpose, for tests. A crate of its own, which is not part of kmirror.ko.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h),
//! [`arch/x86/include/asm/mce.h`](srctree/arch/x86/include/asm/mce.h)

use core::pin::Pin;
use kernel::{
    bindings,
    error::to_result,
    ffi::{c_int, c_ulong, c_void},
    prelude::*,
    sync::Completion,
    types::Opaque, //
};

extern "C" {
    fn kmirror_inject_overwrite(pfn: c_ulong, pattern: u8) -> bool;
    fn kmirror_inject_hold(pfn: c_ulong) -> bool;
    fn kmirror_inject_release(pfn: c_ulong);
    fn kmirror_inject_overwrite_held(pfn: c_ulong, pattern: u8);
    fn kmirror_inject_log_mce(pfn: c_ulong, deferred: bool);
}

/// How an error is reported to `memory_failure()`.
#[derive(Clone, Copy)]
pub enum Report {
    /// Found by the hardware, nobody has run into it.
    Latent,
    /// The caller has run into it.
    ActionRequired,
}

/// Overwrites a frame through the kernel's own mapping, which sets no dirty bit: as a failing DIMM
/// would, it leaves nothing of what was there.
///
/// # Errors
///
/// [`ENXIO`] if there is no such memory.
pub fn overwrite(pfn: usize, pattern: u8) -> Result {
    // SAFETY: The function looks whether there is such a frame. Destroying what somebody else has
    // in it is what this is for: whoever loads a module for tests has asked for it.
    if unsafe { kmirror_inject_overwrite(pfn, pattern) } {
        Ok(())
    } else {
        Err(ENXIO)
    }
}

/// A reference to the page in a frame. Nobody can move the page elsewhere meanwhile, and nobody else can
/// be given the frame.
///
/// # Invariants
///
/// The reference to the folio of frame `pfn` is ours.
pub struct Hold {
    pfn: usize,
}

impl Hold {
    /// Takes one.
    ///
    /// # Errors
    ///
    /// [`ENXIO`] if there is no such page, or nobody uses it.
    pub fn take(pfn: usize) -> Result<Self> {
        // SAFETY: The function looks whether there is such a page.
        if unsafe { kmirror_inject_hold(pfn) } {
            // INVARIANT: It has just been taken.
            Ok(Self { pfn })
        } else {
            Err(ENXIO)
        }
    }

    /// Which frame.
    pub fn pfn(&self) -> usize {
        self.pfn
    }

    /// Overwrites the frame as [`overwrite`] does. As long as this lives, nobody copies what is there now:
    /// no migration, no mirror.
    ///
    /// Context: may sleep.
    pub fn overwrite(&self, pattern: u8) {
        // SAFETY: The page cannot go, by the type invariant. As for its contents, see `overwrite`.
        unsafe { kmirror_inject_overwrite_held(self.pfn, pattern) }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // SAFETY: It is ours, by the type invariant, and not used again.
        unsafe { kmirror_inject_release(self.pfn) }
    }
}

/// Reports a frame as broken.
///
/// # Errors
///
/// What `memory_failure()` returns.
///
/// Context: may sleep.
pub fn memory_failure(pfn: usize, report: Report) -> Result {
    let flags = match report {
        Report::Latent => 0,
        Report::ActionRequired => bindings::mf_flags_MF_ACTION_REQUIRED,
    };
    // SAFETY: Any number will do, and nobody's reference is handed over.
    to_result(unsafe { bindings::memory_failure(pfn, flags as c_int) })
}

/// Reports a frame as broken and hands the reference to it over.
///
/// # Errors
///
/// What `memory_failure()` returns.
///
/// Context: may sleep.
pub fn memory_failure_held(hold: Hold, report: Report) -> Result {
    let flags = bindings::mf_flags_MF_COUNT_INCREASED
        | match report {
            Report::Latent => 0,
            Report::ActionRequired => bindings::mf_flags_MF_ACTION_REQUIRED,
        };
    let pfn = hold.pfn;
    core::mem::forget(hold);
    // SAFETY: The reference that is handed over was that of `hold`, which does not give it back.
    to_result(unsafe { bindings::memory_failure(pfn, flags as c_int) })
}

/// Sends records of machine checks through the decode chain, and knows when they have come through.
///
/// # Invariants
///
/// `nb` is on the decode chain, and its call is [`Self::call`].
#[pin_data(PinnedDrop)]
pub struct MceLog {
    #[pin]
    nb: Opaque<bindings::notifier_block>,
    #[pin]
    through: Completion,
}

// SAFETY: The block is only used by the chain, and a completion may be sent and shared.
unsafe impl Send for MceLog {}
// SAFETY: As above.
unsafe impl Sync for MceLog {}

impl MceLog {
    /// Joins the end of the chain.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            through <- Completion::new(),
            // INVARIANT: Registered here, as the last field, since it may be called from now on.
            nb <- Opaque::ffi_init(|nb: *mut bindings::notifier_block| {
                // SAFETY: `nb` is valid for writes, and pinned until it is unregistered.
                unsafe {
                    nb.write_bytes(0, 1);
                    (*nb).notifier_call = Some(Self::call);
                    (*nb).priority = bindings::mce_notifier_prios_MCE_PRIO_LOWEST as c_int;
                    bindings::mce_register_decode_chain(nb);
                }
            }),
        })
    }

    /// Logs one record of an uncorrected error that nobody has run into, and waits until all
    /// handlers have seen it. For one record in the life of the value: the completion stays complete.
    pub fn log(self: Pin<&Self>, pfn: usize, deferred: bool) {
        // SAFETY: Any number will do.
        unsafe { kmirror_inject_log_mce(pfn, deferred) };
        self.through.wait_for_completion();
    }

    /// # Safety
    ///
    /// Only to be called by the chain, with the block that `new()` has registered.
    unsafe extern "C" fn call(
        nb: *mut bindings::notifier_block,
        _action: c_ulong,
        _data: *mut c_void,
    ) -> c_int {
        // SAFETY: The chain calls with the block that was registered, which is the field of a
        // pinned `MceLog` that lives until it is off the chain.
        let this = unsafe { &*kernel::container_of!(Opaque::cast_from(nb), Self, nb) };
        this.through.complete_all();
        bindings::NOTIFY_DONE as c_int
    }
}

#[pinned_drop]
impl PinnedDrop for MceLog {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The block is on the chain by the type invariant.
        unsafe { bindings::mce_unregister_decode_chain(self.nb.get()) }
    }
}
