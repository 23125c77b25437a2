// SPDX-License-Identifier: GPL-2.0

//! Memory that comes and goes.
//!
//! C header: [`include/linux/memory.h`](srctree/include/linux/memory.h)

use crate::{helpers, notifier::Chain};
use core::{marker::PhantomData, ops::Range};
use kernel::{
    bindings,
    ffi::{c_int, c_ulong, c_void}, //
};

/// The chain that is told about memory that goes online and offline.
pub struct MemoryChain;

/// Memory is about to go offline: what is in use there has to move, or it stays.
pub struct GoingOffline<'a> {
    frames: Range<usize>,
    /// It waits for us as long as the call lasts.
    call: PhantomData<&'a ()>,
}

impl GoingOffline<'_> {
    /// The frames that go. Those that are freed now are given to nobody else.
    pub fn frames(&self) -> &Range<usize> {
        &self.frames
    }
}

// SAFETY: A blocking notifier chain, whose unregistration waits for calls under way by its rwsem.
unsafe impl Chain for MemoryChain {
    type Event<'a> = GoingOffline<'a>;

    const PRIORITY: c_int = 0;

    unsafe fn register(nb: *mut bindings::notifier_block) -> c_int {
        // SAFETY: By the requirements of the trait's function.
        unsafe { helpers::kmirror_register_memory_notifier(nb) }
    }

    unsafe fn unregister(nb: *mut bindings::notifier_block) {
        // SAFETY: By the requirements of the trait's function.
        unsafe { helpers::kmirror_unregister_memory_notifier(nb) }
    }

    unsafe fn event<'a>(action: c_ulong, data: *mut c_void) -> Option<GoingOffline<'a>> {
        let (mut start, mut nr) = (0, 0);
        // SAFETY: The arguments are those of a call by this chain, by the requirement of the trait's
        // function, and the results go to variables of ours.
        unsafe { helpers::kmirror_memory_going_offline(action, data, &mut start, &mut nr) }.then(
            || GoingOffline {
                frames: start..start.saturating_add(nr),
                call: PhantomData,
            },
        )
    }
}
