// SPDX-License-Identifier: GPL-2.0

//! Drivers for virtio devices with one queue.
//!
//! C headers: [`include/linux/virtio.h`](srctree/include/linux/virtio.h),
//! [`include/linux/virtio_config.h`](srctree/include/linux/virtio_config.h)

mod queue;

pub use queue::{Buffer, Data, Queue};

use crate::helpers;
use core::ptr::NonNull;
use kernel::{
    bindings,
    container_of,
    error::{from_err_ptr, to_result},
    ffi::c_int,
    prelude::*,
    str::CStr,
    sync::Arc,
    types::Opaque, //
};

/// A driver for virtio devices.
pub trait Driver: Send + Sync {
    /// The driver's name in sysfs.
    const NAME: &'static CStr;
    /// The device id that it drives.
    const ID: u32;

    /// A device was found, whose configuration space begins with `config` (zeros if it is shorter).
    /// Its queue may be used until [`remove()`](Self::remove) returns. After
    /// that the queue answers everything with [`ENODEV`].
    ///
    /// A device that was suspended with the machine is found again when that wakes up.
    ///
    /// # Errors
    ///
    /// The device is left alone then.
    ///
    /// Context: may sleep. Locks held: the device's.
    fn probe(&self, config: &[u8; 16], queue: Arc<Queue>) -> Result;

    /// The device whose queue this is goes away, or is suspended with the machine, which makes it
    /// forget its queue.
    ///
    /// Context: may sleep. Locks held: the device's.
    fn remove(&self, queue: &Queue);
}

/// A driver that is registered.
///
/// # Invariants
///
/// `raw` is registered.
#[pin_data(PinnedDrop)]
pub struct Registration<D: Driver> {
    #[pin]
    raw: Opaque<bindings::virtio_driver>,
    driver: D,
}

// SAFETY: `raw` is only used by the driver core, which has locks of its own; a driver may be sent
// and shared.
unsafe impl<D: Driver> Send for Registration<D> {}
// SAFETY: As above.
unsafe impl<D: Driver> Sync for Registration<D> {}

impl<D: Driver> Registration<D> {
    const IDS: [bindings::virtio_device_id; 2] = [
        bindings::virtio_device_id {
            device: D::ID,
            vendor: VIRTIO_DEV_ANY_ID,
        },
        bindings::virtio_device_id {
            device: 0,
            vendor: 0,
        },
    ];

    /// Registers the driver, for as long as the registration is not dropped. Devices that are there
    /// are probed before this returns.
    ///
    /// # Errors
    ///
    /// Those of the driver core: [`EBUSY`] if there is a driver of this name.
    ///
    /// Context: may sleep.
    pub fn new(module: &'static ThisModule, driver: D) -> impl PinInit<Self, Error> + use<D> {
        try_pin_init!(Self {
            driver,
            // INVARIANT: When this succeeds it is registered. It comes last, since devices may be
            // probed from now on.
            raw <- Opaque::try_ffi_init(|raw: *mut bindings::virtio_driver| {
                // SAFETY: `raw` is valid for writes, and all zeroes are valid for it. The table has
                // an end, and lives as long as the program.
                unsafe {
                    raw.write_bytes(0, 1);
                    (*raw).driver.name = D::NAME.as_char_ptr();
                    (*raw).id_table = const { &Self::IDS }.as_ptr();
                    (*raw).probe = Some(Self::probe);
                    (*raw).remove = Some(Self::remove);
                    (*raw).freeze = Some(Self::freeze);
                    (*raw).restore = Some(Self::probe);
                }
                // SAFETY: It is initialized, pinned, and unregistered in `drop()`.
                to_result(unsafe {
                    bindings::__register_virtio_driver(raw, module.as_ptr())
                })
            }),
        })
    }

    /// # Safety
    ///
    /// `vdev` is bound to a driver that `new()` has registered, for `'a`.
    unsafe fn driver<'a>(vdev: *mut bindings::virtio_device) -> &'a D {
        // SAFETY: By the requirement above the device's driver is the field `driver` of the field
        // `raw` of a registration, and the rest of that was initialized before it was registered.
        unsafe {
            let raw = container_of!((*vdev).dev.driver, bindings::virtio_driver, driver);
            &(*container_of!(Opaque::cast_from(raw), Self, raw)).driver
        }
    }

    /// # Safety
    ///
    /// Only to be called by the virtio core, with a device that it binds to what `new()` has
    /// registered, or that [`Self::freeze`] has stopped and that was reset since.
    unsafe extern "C" fn probe(vdev: *mut bindings::virtio_device) -> c_int {
        // SAFETY: By the requirement above.
        let result = unsafe { Self::try_probe(vdev) };
        result.map_or_else(|error| error.to_errno(), |()| 0)
    }

    /// # Safety
    ///
    /// As [`Self::probe`].
    unsafe fn try_probe(vdev: *mut bindings::virtio_device) -> Result {
        // SAFETY: The device is valid, and being probed.
        let vq = from_err_ptr(unsafe {
            helpers::kmirror_virtio_find_queue(vdev, c"requests".as_char_ptr())
        })?;
        let vq = NonNull::new(vq).ok_or(ENODEV)?;
        // SAFETY: The queue was just made, and `shut()` is called before it goes, here or in
        // `remove()`.
        let queue = unsafe { Queue::new(vq) }.inspect_err(|_| {
            // SAFETY: Nobody uses the queue.
            unsafe { helpers::kmirror_virtio_del_queues(vdev) };
        })?;
        // SAFETY: The queue is set up; this is called once after each reset. (The core would make a
        // device ready that is restored, but only after we have begun to use it.)
        unsafe { helpers::kmirror_virtio_ready(vdev) };
        let mut config = [0; 16];
        // SAFETY: The device is valid, and so is the memory for that many bytes.
        unsafe {
            helpers::kmirror_virtio_read_config(vdev, config.as_mut_ptr().cast(), config.len());
        }
        // SAFETY: The device is bound to our driver.
        let result = unsafe { Self::driver(vdev) }.probe(&config, queue.clone());
        if let Err(error) = result {
            // SAFETY: The device is valid, and was just made ready.
            unsafe { Self::stop(vdev, &queue) };
            return Err(error);
        }
        // SAFETY: `priv` is the driver's; `remove()` takes it back.
        unsafe { (*vdev).priv_ = queue.into_raw().cast_mut().cast() };
        Ok(())
    }

    /// # Safety
    ///
    /// Only to be called by the virtio core, with a device that was probed.
    unsafe extern "C" fn remove(vdev: *mut bindings::virtio_device) {
        // SAFETY: The device is valid, and nobody else uses what is the driver's.
        let queue = unsafe { core::mem::replace(&mut (*vdev).priv_, core::ptr::null_mut()) };
        if queue.is_null() {
            // It was frozen, and could not be restored.
            return;
        }
        // SAFETY: `probe()` has left it there, and it was taken out above.
        let queue = unsafe { Arc::from_raw(queue.cast::<Queue>().cast_const()) };
        // SAFETY: The device is bound to our driver until this returns.
        unsafe { Self::driver(vdev) }.remove(&queue);
        // SAFETY: The device is valid.
        unsafe { Self::stop(vdev, &queue) };
    }

    /// # Safety
    ///
    /// As [`Self::remove`].
    unsafe extern "C" fn freeze(vdev: *mut bindings::virtio_device) -> c_int {
        // SAFETY: By the requirement above.
        unsafe { Self::remove(vdev) };
        0
    }

    /// Stops the device and takes its queue back.
    ///
    /// # Safety
    ///
    /// The device is valid and `queue` is its only one.
    unsafe fn stop(vdev: *mut bindings::virtio_device, queue: &Queue) {
        // SAFETY: The device is valid. After the reset it does not look at any buffer any more.
        unsafe { bindings::virtio_reset_device(vdev) };
        // SAFETY: The device was reset.
        unsafe { queue.shut() };
        // SAFETY: Nobody uses the queue after `shut()`.
        unsafe { helpers::kmirror_virtio_del_queues(vdev) };
    }
}

/// `VIRTIO_DEV_ANY_ID`, which the generated bindings lack.
const VIRTIO_DEV_ANY_ID: u32 = 0xffff_ffff;

#[pinned_drop]
impl<D: Driver> PinnedDrop for Registration<D> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: It is registered by the type invariant.
        unsafe { bindings::unregister_virtio_driver(self.raw.get()) }
    }
}
