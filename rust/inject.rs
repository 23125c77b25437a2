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
    fn kmirror_inject_overwrite_held(pfn: c_ulong, pattern: u8) -> bool;
    fn kmirror_inject_get_page(pfn: c_ulong) -> bool;
    fn kmirror_inject_log_mce(pfn: c_ulong, deferred: bool);
}

/// How an error is reported to `memory_failure()`.
#[derive(Clone, Copy)]
pub enum Report {
    /// Found by the hardware, nobody has run into it.
    Latent,
    /// The caller has run into it.
    ActionRequired,
    /// As [`Latent`](Self::Latent), with a reference to the page handed over.
    CountIncreased,
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

/// Reports a frame as broken.
///
/// # Errors
///
/// What `memory_failure()` returns; [`ENXIO`] if a reference is to be handed over and cannot be had.
///
/// Context: may sleep.
pub fn memory_failure(pfn: usize, report: Report) -> Result {
    let flags = match report {
        Report::Latent => 0,
        Report::ActionRequired => bindings::mf_flags_MF_ACTION_REQUIRED,
        Report::CountIncreased => {
            // SAFETY: The function looks whether there is such a page.
            if !unsafe { kmirror_inject_get_page(pfn) } {
                return Err(ENXIO);
            }
            bindings::mf_flags_MF_COUNT_INCREASED
        }
    };
    // SAFETY: Any number will do, and the flags tell the truth.
    to_result(unsafe { bindings::memory_failure(pfn, flags as c_int) })
}

/// Overwrites a frame and reports it with a reference that is held from before to after, so that
/// nobody can copy what was overwritten before it is known to be lost: no migration, no mirror.
///
/// # Errors
///
/// What `memory_failure()` returns; [`ENXIO`] if there is no such page, or nobody uses it.
///
/// Context: may sleep.
pub fn overwrite_and_report(pfn: usize, pattern: u8, required: bool) -> Result {
    // SAFETY: As in `overwrite`.
    if !unsafe { kmirror_inject_overwrite_held(pfn, pattern) } {
        return Err(ENXIO);
    }
    let mut flags = bindings::mf_flags_MF_COUNT_INCREASED;
    if required {
        flags |= bindings::mf_flags_MF_ACTION_REQUIRED;
    }
    // SAFETY: The reference that is handed over was taken above.
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
