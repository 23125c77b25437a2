// SPDX-License-Identifier: GPL-2.0

//! Notifier chains.
//!
//! C header: [`include/linux/notifier.h`](srctree/include/linux/notifier.h)

use core::marker::PhantomData;
use kernel::{
    bindings,
    container_of,
    error::to_result,
    ffi::{c_int, c_ulong, c_void},
    prelude::*,
    types::Opaque, //
};

/// A chain that can be joined.
///
/// # Safety
///
/// - `register` and `unregister` add a notifier block to the chain and take it off, and no call of
///   the block is running when `unregister` returns.
/// - The chain calls its blocks in process context, with arguments as `event` expects them.
pub unsafe trait Chain {
    /// What the chain tells.
    type Event<'a>;

    /// Higher priorities are called first.
    const PRIORITY: c_int;

    /// Adds the block to the chain.
    ///
    /// # Safety
    ///
    /// `nb` is initialized, and stays valid and pinned until `unregister()`.
    unsafe fn register(nb: *mut bindings::notifier_block) -> c_int;

    /// Takes the block off the chain.
    ///
    /// # Safety
    ///
    /// `nb` has been registered.
    unsafe fn unregister(nb: *mut bindings::notifier_block);

    /// Makes sense of the arguments. [`None`] when they are of no interest.
    ///
    /// # Safety
    ///
    /// The arguments are those of a call by this chain, which goes on for `'a`.
    unsafe fn event<'a>(action: c_ulong, data: *mut c_void) -> Option<Self::Event<'a>>;
}

/// One that is told.
pub trait Handler<C: Chain>: Send + Sync {
    /// Called for each event.
    ///
    /// # Errors
    ///
    /// Some chains take an error for a veto.
    fn notify(&self, event: C::Event<'_>) -> Result;
}

/// A handler that is on the chain.
///
/// # Invariants
///
/// `nb` is on the chain `C`, and its call is [`Self::call`].
#[pin_data(PinnedDrop)]
pub struct Registration<C: Chain, H: Handler<C>> {
    #[pin]
    nb: Opaque<bindings::notifier_block>,
    handler: H,
    chain: PhantomData<C>,
}

// SAFETY: The notifier block is only used through the chain, which has locks of its own, and the
// handler may be sent and shared by the bounds of `Handler`.
unsafe impl<C: Chain, H: Handler<C>> Send for Registration<C, H> {}
// SAFETY: As above.
unsafe impl<C: Chain, H: Handler<C>> Sync for Registration<C, H> {}

impl<C: Chain, H: Handler<C>> Registration<C, H> {
    /// Joins the chain, for as long as the registration is not dropped.
    pub fn new(handler: H) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            handler,
            chain: PhantomData,
            // INVARIANT: When this succeeds, the block is on the chain. It comes last, since the
            // chain may call from now on.
            nb <- Opaque::try_ffi_init(|nb: *mut bindings::notifier_block| {
                // SAFETY: `nb` is valid for writes, and all zeroes are valid for it.
                unsafe {
                    nb.write_bytes(0, 1);
                    (*nb).notifier_call = Some(Self::call);
                    (*nb).priority = C::PRIORITY;
                }
                // SAFETY: It is initialized, pinned, and taken off the chain in `drop()`.
                to_result(unsafe { C::register(nb) })
            }),
        })
    }

    /// # Safety
    ///
    /// Only for the chain `C` to be called with a block that `new()` has registered.
    unsafe extern "C" fn call(
        nb: *mut bindings::notifier_block,
        action: c_ulong,
        data: *mut c_void,
    ) -> c_int {
        // SAFETY: The block is the field `nb` of a registration, by the requirement above, and
        // that is initialized but for the block itself, and lives until the block is off the chain.
        let this = unsafe { &*container_of!(Opaque::cast_from(nb), Self, nb) };
        // SAFETY: By the requirement above.
        let Some(event) = (unsafe { C::event(action, data) }) else {
            return bindings::NOTIFY_DONE as c_int;
        };
        match this.handler.notify(event) {
            Ok(()) => bindings::NOTIFY_OK as c_int,
            // As notifier_from_errno() does.
            Err(e) => {
                (bindings::NOTIFY_STOP_MASK as c_int)
                    | (bindings::NOTIFY_OK as c_int - e.to_errno())
            }
        }
    }
}

#[pinned_drop]
impl<C: Chain, H: Handler<C>> PinnedDrop for Registration<C, H> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The block is on the chain by the type invariant.
        unsafe { C::unregister(self.nb.get()) }
    }
}
