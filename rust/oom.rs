// SPDX-License-Identifier: GPL-2.0

//! Memory that nobody else can give.
//!
//! C header: [`include/linux/oom.h`](srctree/include/linux/oom.h)

use crate::{helpers, notifier::Chain};
use kernel::{
    bindings,
    ffi::{c_int, c_ulong, c_void}, //
};

/// The chain that is asked for memory before a process is killed for want of it.
///
/// Called in the context of any allocation that may sleep and may start the OOM killer, with
/// whatever locks its caller holds: handlers only try to take theirs.
pub struct OomChain;

/// Somebody is going to be killed, unless memory is given.
pub struct OutOfMemory<'a> {
    freed: &'a mut c_ulong,
}

impl OutOfMemory<'_> {
    /// Tells that so many pages have been freed. Then the allocation is tried once more.
    pub fn freed(&mut self, pages: usize) {
        *self.freed = self.freed.saturating_add(pages);
    }
}

// SAFETY: A blocking notifier chain, whose unregistration waits for calls under way by its rwsem.
unsafe impl Chain for OomChain {
    type Event<'a> = OutOfMemory<'a>;

    const PRIORITY: c_int = 0;

    unsafe fn register(nb: *mut bindings::notifier_block) -> c_int {
        // SAFETY: By the requirements of the trait's function.
        unsafe { helpers::kmirror_register_oom_notifier(nb) }
    }

    unsafe fn unregister(nb: *mut bindings::notifier_block) {
        // SAFETY: By the requirements of the trait's function.
        unsafe { helpers::kmirror_unregister_oom_notifier(nb) }
    }

    unsafe fn event<'a>(_action: c_ulong, data: *mut c_void) -> Option<OutOfMemory<'a>> {
        // SAFETY: The chain's data is a counter of freed pages, which its handlers, called one after
        // the other, may change.
        unsafe { data.cast::<c_ulong>().as_mut() }.map(|freed| OutOfMemory { freed })
    }
}
