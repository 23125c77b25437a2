// SPDX-License-Identifier: GPL-2.0

//! Machine check events.
//!
//! C header: [`arch/x86/include/asm/mce.h`](srctree/arch/x86/include/asm/mce.h)

use crate::{helpers, notifier::Chain};
use kernel::{
    bindings,
    ffi::{c_int, c_ulong, c_void}, //
};

/// The chain that every machine check event goes through, after the fact, from a work queue.
pub struct DecodeChain;

/// A memory error that is known, and that nobody has run into yet.
pub struct LatentError<'a> {
    mce: &'a mut bindings::mce,
}

impl LatentError<'_> {
    /// The number of the broken frame.
    pub fn pfn(&self) -> usize {
        // SAFETY: The event is valid as long as the reference.
        unsafe { helpers::kmirror_mce_pfn(&*self.mce) }
    }

    /// Tells the handlers that follow that the page has been taken care of.
    pub fn handled(&mut self) {
        // SAFETY: The event is valid as long as the reference.
        unsafe { helpers::kmirror_mce_set_handled(self.mce) }
    }
}

// SAFETY: A blocking notifier chain, whose unregistration waits for calls under way by its rwsem,
// and which is called from a work queue with a `struct mce` as data.
unsafe impl Chain for DecodeChain {
    type Event<'a> = LatentError<'a>;

    // Before the kernel's own handler of the same errors.
    const PRIORITY: c_int = bindings::mce_notifier_prios_MCE_PRIO_EARLY as c_int;

    unsafe fn register(nb: *mut bindings::notifier_block) -> c_int {
        // SAFETY: By the requirements of the trait's function.
        unsafe { bindings::mce_register_decode_chain(nb) };
        0
    }

    unsafe fn unregister(nb: *mut bindings::notifier_block) {
        // SAFETY: By the requirements of the trait's function.
        unsafe { bindings::mce_unregister_decode_chain(nb) }
    }

    unsafe fn event<'a>(_action: c_ulong, data: *mut c_void) -> Option<LatentError<'a>> {
        // SAFETY: The chain's data is a `struct mce`, if any, which its handlers, called one after
        // the other, may change.
        let mce = unsafe { data.cast::<bindings::mce>().as_mut() }?;
        // SAFETY: It is a valid event.
        unsafe { bindings::mce_is_latent(mce) }.then_some(LatentError { mce })
    }
}
