// SPDX-License-Identifier: GPL-2.0

//! The queue of a virtio device, and the buffers that pass through it.

use crate::helpers;
use crate::page_block::Frame;
use core::ptr::NonNull;
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::{new_spinlock, Arc, SpinLock},
};

/// Bytes of the part of a [`Buffer`] that holds the message of a request.
const MESSAGE: usize = 2048;

/// Bytes of the part that holds the message of the answer. It is copied on the stack.
const ANSWER: usize = 512;

/// What of a buffer's page the device is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nothing.
    None,
    /// It may read the first bytes of the page, so many.
    Out(u32),
    /// It may write the page.
    In,
}

/// Memory for a request with a message of up to [`Buffer::MESSAGE`] bytes, its answer with one of up
/// to [`Buffer::ANSWER`], and one page of data. It is owned by the one who fills and reads it, or by the queue; so nobody looks
/// at what a device is still writing.
///
/// # Invariants
///
/// `messages` and `data` are pages that we own.
pub struct Buffer {
    messages: NonNull<bindings::page>,
    data: NonNull<bindings::page>,
    /// For the owner, to tell one from another.
    pub id: u64,
}

// SAFETY: The pages belong to the buffer, whichever thread has it.
unsafe impl Send for Buffer {}

impl Buffer {
    /// The longest message of a request.
    pub const MESSAGE: usize = MESSAGE;
    /// The longest message of an answer.
    pub const ANSWER: usize = ANSWER;

    /// A buffer, filled with zeros.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    ///
    /// Context: may sleep.
    pub fn new() -> Result<KBox<Self>> {
        // SAFETY: May be called in any context that may sleep; so may the next.
        let messages = NonNull::new(unsafe { helpers::kmirror_alloc_page() }).ok_or(ENOMEM)?;
        // SAFETY: As above.
        let Some(data) = NonNull::new(unsafe { helpers::kmirror_alloc_page() }) else {
            // SAFETY: We own the page.
            unsafe { helpers::kmirror_free_page(messages.as_ptr()) };
            return Err(ENOMEM);
        };
        // INVARIANT: Just allocated.
        let buffer = Self {
            messages,
            data,
            id: 0,
        };
        Ok(KBox::new(buffer, GFP_KERNEL)?)
    }

    /// Where the request's message begins; that of the answer is [`MESSAGE`] bytes after.
    fn base(&self) -> *mut u8 {
        // SAFETY: The page is valid, and has an address: it is not from high memory.
        unsafe { helpers::kmirror_page_address(self.messages.as_ptr()) }.cast()
    }

    /// The message of the request.
    pub fn request(&mut self) -> &mut [u8; MESSAGE] {
        // SAFETY: The first half of the page is ours alone: no device has the buffer, since it is
        // borrowed here.
        unsafe { &mut *self.base().cast::<[u8; MESSAGE]>() }
    }

    /// The message of the answer, of which the device has written no more than it has said.
    ///
    /// A copy, for a device that breaks the rules and writes after it has given the buffer back.
    pub fn answer(&self) -> [u8; ANSWER] {
        let mut answer = [0; ANSWER];
        // SAFETY: The second half of the page is ours. Should the device write to it meanwhile
        // against all rules, any bytes are as good as any other.
        unsafe {
            core::ptr::copy_nonoverlapping(self.base().add(MESSAGE), answer.as_mut_ptr(), ANSWER);
        }
        answer
    }

    /// The page of data, as a frame to copy to and from.
    pub fn data(&self) -> Frame<'_> {
        // SAFETY: The page is ours, by the type invariant, as long as the buffer is borrowed.
        unsafe { Frame::from_page(self.data) }
    }

    /// The bytes of the page of data.
    pub fn data_bytes(&mut self) -> &mut [u8; 4096] {
        // SAFETY: As in `request()`; the page is not from high memory either.
        unsafe { &mut *helpers::kmirror_page_address(self.data.as_ptr()).cast::<[u8; 4096]>() }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: We own the pages, by the type invariant.
        unsafe {
            helpers::kmirror_free_page(self.messages.as_ptr());
            helpers::kmirror_free_page(self.data.as_ptr());
        }
    }
}

/// The virtqueue.
///
/// # Invariants
///
/// [`None`], or valid, with buffers in it that are leaked [`KBox<Buffer>`]s.
struct Raw(Option<NonNull<bindings::virtqueue>>);

// SAFETY: A virtqueue may be used by any thread, one at a time.
unsafe impl Send for Raw {}

/// The queue of a device. It is polled: there are no interrupts for it.
#[pin_data]
pub struct Queue {
    #[pin]
    raw: SpinLock<Raw>,
}

impl Queue {
    /// # Safety
    ///
    /// `vq` is valid until [`Self::shut`] has been called.
    pub(super) unsafe fn new(vq: NonNull<bindings::virtqueue>) -> Result<Arc<Self>> {
        // SAFETY: The queue is valid, and nobody else has it yet.
        unsafe { bindings::virtqueue_disable_cb(vq.as_ptr()) };
        Arc::pin_init(
            pin_init!(Self {
                // INVARIANT: By the requirement above; there is nothing in it.
                raw <- new_spinlock!(Raw(Some(vq))),
            }),
            GFP_KERNEL,
        )
    }

    /// Takes all buffers back and forgets the queue.
    ///
    /// # Safety
    ///
    /// The device has been reset.
    pub(super) unsafe fn shut(&self) {
        let mut raw = self.raw.lock();
        let Some(vq) = raw.0.take() else { return };
        loop {
            // SAFETY: The queue is valid; the device does not use it any more.
            let buffer = unsafe { bindings::virtqueue_detach_unused_buf(vq.as_ptr()) };
            if buffer.is_null() {
                return;
            }
            // SAFETY: By the type invariant; it has just been taken out.
            drop(unsafe { KBox::from_raw(buffer.cast::<Buffer>()) });
        }
    }

    /// Gives the device a request with `request` bytes of message, room for `answer` bytes of
    /// message in return, and the page as `data` says.
    ///
    /// The order is message, page, both ways. A device that has been told before, and is still
    /// at work, need not be told again. Returns whether it has to be told of this one.
    ///
    /// # Errors
    ///
    /// [`ENODEV`] after the device has gone, [`ENOSPC`] if the queue is full, [`EIO`] if it is
    /// broken. The buffer comes back then.
    ///
    /// Context: does not sleep.
    pub fn submit(
        &self,
        buffer: KBox<Buffer>,
        request: usize,
        data: Data,
        answer: usize,
    ) -> Result<bool, (Error, KBox<Buffer>)> {
        let raw = self.raw.lock();
        let Some(vq) = raw.0 else {
            return Err((ENODEV, buffer));
        };
        let request = request.min(MESSAGE) as u32;
        let answer = answer.min(ANSWER) as u32;
        let (out_len, in_len) = match data {
            Data::None => (0, 0),
            Data::Out(len) => (len.min(4096), 0),
            Data::In => (0, 4096),
        };
        let message = buffer.base();
        let page = buffer.data.as_ptr();
        let token = KBox::into_raw(buffer);
        // SAFETY: The queue is valid. The memory is that of the buffer, which stays where it is until
        // the queue gives the token back.
        let result = unsafe {
            helpers::kmirror_virtqueue_add(
                vq.as_ptr(),
                message.cast(),
                request,
                page,
                out_len,
                in_len,
                message.add(MESSAGE).cast(),
                answer,
                token.cast(),
            )
        };
        if let Err(error) = to_result(result) {
            // SAFETY: The queue has not taken it.
            return Err((error, unsafe { KBox::from_raw(token) }));
        }
        // SAFETY: The queue is valid.
        Ok(unsafe { bindings::virtqueue_kick_prepare(vq.as_ptr()) })
    }

    /// Tells the device that there is something in the queue, in the ordinary way.
    ///
    /// # Errors
    ///
    /// [`ENODEV`] if it has gone or does not want to hear.
    ///
    /// Context: does not sleep.
    pub fn notify(&self) -> Result {
        let raw = self.raw.lock();
        let vq = raw.0.ok_or(ENODEV)?;
        // SAFETY: The queue is valid.
        if unsafe { bindings::virtqueue_notify(vq.as_ptr()) } {
            Ok(())
        } else {
            Err(ENODEV)
        }
    }

    /// Where to write which number for [`Self::notify`], by guest-physical address: for somebody
    /// else to do it. [`None`] if that is not how it is done.
    ///
    /// Context: does not sleep.
    pub fn notify_register(&self) -> Option<(u64, u16)> {
        let raw = self.raw.lock();
        let vq = raw.0?;
        // SAFETY: The queue is valid.
        let address = unsafe { helpers::kmirror_virtqueue_notify_address(vq.as_ptr()) };
        // SAFETY: As above.
        let index = unsafe { (*vq.as_ptr()).index };
        (address != 0).then_some((address, u16::try_from(index).ok()?))
    }

    /// A buffer that the device has given back, and how many bytes it says that it has written.
    ///
    /// Context: does not sleep.
    pub fn completed(&self) -> Option<(KBox<Buffer>, usize)> {
        let raw = self.raw.lock();
        let vq = raw.0?;
        let mut len = 0;
        // SAFETY: The queue is valid.
        let buffer = unsafe { bindings::virtqueue_get_buf(vq.as_ptr(), &mut len) };
        if buffer.is_null() {
            return None;
        }
        // SAFETY: By the type invariant; it has just been taken out.
        Some((unsafe { KBox::from_raw(buffer.cast()) }, len as usize))
    }
}
