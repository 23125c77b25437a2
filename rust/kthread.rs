// SPDX-License-Identifier: GPL-2.0

//! Kernel threads.
//!
//! C header: [`include/linux/kthread.h`](srctree/include/linux/kthread.h)

use core::ptr::NonNull;
use kernel::{
    bindings,
    error::from_err_ptr,
    ffi::{c_int, c_void},
    prelude::*,
    str::CStr,
    sync::Arc, //
};

/// What a thread does.
pub trait Run: Send + Sync + 'static {
    /// The thread's body. It must return soon after the owner of the [`Kthread`] has told it to, by
    /// whatever means they have agreed on.
    fn run(self: Arc<Self>);
}

/// A running thread, which is waited for when this is dropped.
///
/// # Invariants
///
/// `task` is a thread made by [`Self::spawn`], to which we hold a reference.
pub struct Kthread {
    task: NonNull<bindings::task_struct>,
}

// SAFETY: kthread_stop() may be called by any thread (but the one to be stopped, see `drop()`).
unsafe impl Send for Kthread {}
// SAFETY: There is nothing to be done with a shared reference.
unsafe impl Sync for Kthread {}

impl Kthread {
    /// Starts a thread with this name, of which 15 bytes are seen by most tools.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], or [`EINTR`] if the caller is being killed.
    ///
    /// Context: may sleep.
    pub fn spawn<T: Run>(name: &CStr, data: Arc<T>) -> Result<Self> {
        let data = data.into_raw();
        // SAFETY: The function takes what `data` is. The format has one string, and the name is one
        // during the call.
        let task = from_err_ptr(unsafe {
            bindings::kthread_create_on_node(
                Some(Self::main::<T>),
                data.cast_mut().cast(),
                bindings::NUMA_NO_NODE,
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        })
        .inspect_err(|_| {
            // SAFETY: There is no thread, so the reference is still ours.
            drop(unsafe { Arc::from_raw(data) });
        })?;
        // SAFETY: The task is valid: a thread that has not begun does not end.
        unsafe {
            bindings::get_task_struct(task);
            bindings::wake_up_process(task);
        }
        Ok(Self {
            // INVARIANT: Just made, with a reference taken.
            // SAFETY: It is not an error, and no thread is at address 0.
            task: unsafe { NonNull::new_unchecked(task) },
        })
    }

    /// # Safety
    ///
    /// Only to be called by a thread that `spawn()` makes, with an [`Arc<T>`] given away.
    unsafe extern "C" fn main<T: Run>(data: *mut c_void) -> c_int {
        // SAFETY: By the requirement above.
        let data = unsafe { Arc::from_raw(data.cast::<T>().cast_const()) };
        data.run();
        0
    }
}

impl Drop for Kthread {
    fn drop(&mut self) {
        // The thread is never stopped before it has begun, which would leave its data behind: it
        // was woken in `spawn()`, but to be sure of it, kthread_stop() would have to be told.
        // SAFETY: We hold a reference. The thread itself never owns its `Kthread`.
        unsafe {
            bindings::kthread_stop(self.task.as_ptr());
            bindings::put_task_struct(self.task.as_ptr());
        }
    }
}
