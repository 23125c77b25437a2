// SPDX-License-Identifier: GPL-2.0

//! Control groups of the default hierarchy.
//!
//! C header: [`include/linux/cgroup.h`](srctree/include/linux/cgroup.h)

use crate::helpers;
use crate::notifier::Chain;
use core::ptr::NonNull;
use kernel::{
    bindings,
    error::to_result,
    ffi::{c_int, c_ulong, c_void},
    mm::MmWithUser,
    prelude::*,
    str::CStr,
    sync::{
        aref::{ARef, AlwaysRefCounted},
        rcu, //
    },
    types::Opaque, //
};

/// A control group.
///
/// # Invariants
///
/// Always reference-counted; a reference keeps it from being freed, not from being removed.
#[repr(transparent)]
pub struct Cgroup(Opaque<bindings::cgroup>);

// SAFETY: All methods may be called from any thread, at the same time.
unsafe impl Send for Cgroup {}
// SAFETY: As above.
unsafe impl Sync for Cgroup {}

// SAFETY: The functions increment and decrement the count that keeps the cgroup from being freed.
unsafe impl AlwaysRefCounted for Cgroup {
    fn inc_ref(&self) {
        // SAFETY: The existence of a shared reference says that the count is not zero.
        unsafe { helpers::kmirror_cgroup_get(self.as_ptr()) }
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller gives up one count.
        unsafe { helpers::kmirror_cgroup_put(obj.cast().as_ptr()) }
    }
}

impl Cgroup {
    /// Uses a C cgroup as long as the caller can vouch for it.
    ///
    /// # Safety
    ///
    /// `ptr` is valid, with a count that is not zero during `'a`.
    unsafe fn from_raw<'a>(ptr: *mut bindings::cgroup) -> &'a Self {
        // SAFETY: By the requirement above; the type is transparent.
        unsafe { &*ptr.cast() }
    }

    fn as_ptr(&self) -> *mut bindings::cgroup {
        self.0.get()
    }

    /// The root of the default hierarchy.
    pub fn root() -> &'static Self {
        // SAFETY: The root lives as long as the kernel.
        unsafe { Self::from_raw(&raw mut bindings::cgrp_dfl_root.cgrp) }
    }

    /// The cgroup's id, which no other ever has.
    pub fn id(&self) -> u64 {
        // SAFETY: The cgroup is valid by the type invariant.
        unsafe { helpers::kmirror_cgroup_id(self.as_ptr()) }
    }

    /// The parent; [`None`] for the root.
    pub fn parent(&self) -> Option<&Self> {
        // SAFETY: As above.
        let parent = unsafe { helpers::kmirror_cgroup_parent(self.as_ptr()) };
        // SAFETY: A cgroup holds a reference to its parent until it is freed.
        (!parent.is_null()).then(|| unsafe { Self::from_raw(parent) })
    }

    /// Whether it has not been removed. It may be the next moment.
    pub fn is_online(&self) -> bool {
        // SAFETY: As above.
        unsafe { helpers::kmirror_cgroup_is_online(self.as_ptr()) }
    }

    /// Writes the path from the root of the hierarchy into `buf`.
    ///
    /// # Errors
    ///
    /// [`E2BIG`] if it does not fit.
    pub fn path<'a>(&self, buf: &'a mut [u8]) -> Result<&'a CStr> {
        // SAFETY: The cgroup is valid, and `buf` is writable for its length.
        to_result(unsafe {
            helpers::kmirror_cgroup_path(self.as_ptr(), buf.as_mut_ptr().cast(), buf.len())
        })?;
        CStr::from_bytes_until_nul(buf).map_err(|_| E2BIG)
    }

    /// Calls `each` for this cgroup and all below it, parents before children.
    ///
    /// Misses none that is there from the beginning to the end. Stops when `each` fails.
    ///
    /// Context: process context; `each` may sleep.
    pub fn for_each_descendant(&self, mut each: impl FnMut(&Self) -> Result) -> Result {
        // SAFETY: `self` is a valid cgroup, and `self` is the css embedded in it.
        let root = unsafe { &raw mut (*self.as_ptr()).self_ };
        let mut pos: Option<ARef<Self>> = None;
        let mut css = core::ptr::null_mut();
        loop {
            let next = {
                let _rcu = rcu::read_lock();
                loop {
                    // SAFETY: Under RCU, and `css` is null, or that of `pos`, to which we have a
                    // reference, or one that was returned in this same critical section.
                    css = unsafe { bindings::css_next_descendant_pre(css, root) };
                    if css.is_null() {
                        return Ok(());
                    }
                    // SAFETY: A css of the default hierarchy's cgroups with no subsystem is
                    // embedded in its cgroup, and valid in this critical section.
                    let cgrp = unsafe { (*css).cgroup };
                    // SAFETY: As above.
                    if unsafe { helpers::kmirror_cgroup_tryget(cgrp) } {
                        // SAFETY: We have just got the reference that is given away here.
                        break unsafe { ARef::from_raw(NonNull::new_unchecked(cgrp.cast())) };
                    }
                }
            };
            // Keep the place while `each` runs outside of the critical section.
            let here: &ARef<Self> = pos.insert(next);
            each(here)?;
        }
    }

    /// Calls `each` for the address space of every thread in this cgroup, not in those below it.
    ///
    /// Threads of one process give the same address space again and again, mostly in a row. Kernel
    /// threads and exiting ones have none.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], or whatever `each` returns.
    ///
    /// Context: process context; `each` may sleep.
    pub fn for_each_mm(&self, mut each: impl FnMut(ARef<MmWithUser>) -> Result) -> Result {
        // The iterator is linked into lists, so it must not move.
        let iter = KBox::pin_init(
            // SAFETY: css_task_iter_start() initializes all of the iterator; the css is valid.
            unsafe {
                pin_init::pin_init_from_closure::<_, Error>(
                    |slot: *mut Opaque<bindings::css_task_iter>| {
                        bindings::css_task_iter_start(
                            &raw mut (*self.as_ptr()).self_,
                            0,
                            Opaque::cast_into(slot),
                        );
                        Ok(())
                    },
                )
            },
            GFP_KERNEL,
        )?;
        let mut result = Ok(());
        while result.is_ok() {
            // SAFETY: The iterator is started and not ended.
            let task = unsafe { bindings::css_task_iter_next(iter.get()) };
            if task.is_null() {
                break;
            }
            // SAFETY: The iterator holds a reference to the task until its next step.
            let mm = unsafe { bindings::get_task_mm(task) };
            if let Some(mm) = NonNull::new(mm) {
                // SAFETY: get_task_mm() has taken a reference to the users of the mm.
                result = each(unsafe { ARef::from_raw(mm.cast()) });
            }
        }
        // SAFETY: The iterator is started and not ended; it is not used after.
        unsafe { bindings::css_task_iter_end(iter.get()) };
        result
    }
}

/// The chain that tells of cgroups that come and go.
///
/// Context: called with `cgroup_mutex` held.
pub struct Lifetime;

/// What [`Lifetime`] tells.
pub enum LifetimeEvent<'a> {
    /// A cgroup is being made; an error keeps it from being.
    Online(&'a Cgroup),
    /// A cgroup is being removed.
    Offline(&'a Cgroup),
}

// SAFETY: A blocking notifier chain, whose unregistration waits for calls under way by its rwsem,
// and which is called in process context with the cgroup as data.
unsafe impl Chain for Lifetime {
    type Event<'a> = LifetimeEvent<'a>;
    const PRIORITY: c_int = 0;

    unsafe fn register(nb: *mut bindings::notifier_block) -> c_int {
        // SAFETY: By the requirements of the trait's function.
        unsafe {
            bindings::blocking_notifier_chain_register(
                &raw mut bindings::cgroup_lifetime_notifier,
                nb,
            )
        }
    }

    unsafe fn unregister(nb: *mut bindings::notifier_block) {
        // SAFETY: By the requirements of the trait's function.
        unsafe {
            bindings::blocking_notifier_chain_unregister(
                &raw mut bindings::cgroup_lifetime_notifier,
                nb,
            )
        };
    }

    unsafe fn event<'a>(action: c_ulong, data: *mut c_void) -> Option<LifetimeEvent<'a>> {
        let cgrp: *mut bindings::cgroup = data.cast();
        // SAFETY: The chain's data is a valid cgroup.
        if !unsafe { helpers::kmirror_cgroup_on_dfl(cgrp) } {
            return None;
        }
        // SAFETY: It stays so during the call.
        let cgrp = unsafe { Cgroup::from_raw(cgrp) };
        match action as u32 {
            bindings::cgroup_lifetime_events_CGROUP_LIFETIME_ONLINE => {
                Some(LifetimeEvent::Online(cgrp))
            }
            bindings::cgroup_lifetime_events_CGROUP_LIFETIME_OFFLINE => {
                Some(LifetimeEvent::Offline(cgrp))
            }
            _ => None,
        }
    }
}
