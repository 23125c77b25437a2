// SPDX-License-Identifier: GPL-2.0

//! One question to the host's service and its answer: through the queue, by the doorbell, with a
//! bound on the time.
//!
//! Every question has a buffer of its own, from a fixed number that is made when the device is
//! found, so that nothing is allocated while a page is restored. A question that is not answered in
//! time is given up, but its buffer stays with the device until that gives it back: a service that
//! was only slow writes to nobody else's memory.

use crate::group::Counter;
use kernel::{
    prelude::*,
    processor::cpu_relax,
    sync::{
        atomic::{Atomic, Relaxed},
        new_mutex,
        Arc,
        Mutex, //
    },
    time::{delay::fsleep, Delta, Instant, Monotonic}, //
};
use kernel_ext::{
    kvm_para,
    virtio::{Buffer, Data, Queue}, //
};
use kmirror_core::wire::{AnswerHeader, Code, Kind, RequestHeader, HEADER_BYTES};

/// Questions under way at most.
const BUFFERS: usize = 8;

/// For how long an answer is waited for without sleeping. On the host another CPU is at work
/// meanwhile, and most answers are there by then.
const SPIN: Delta = Delta::from_micros(50);

/// The sleep between two looks after that.
const NAP: Delta = Delta::from_micros(100);

/// Why there is no answer that is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There is no service, or the guest has given it up.
    Gone,
    /// It has not answered in time.
    Timeout,
    /// What it has answered makes no sense.
    Rubbish,
    /// It has said no.
    Refused(Code),
    /// The guest's own fault: out of memory, or a page that cannot be read.
    Local,
}

/// What the counters of `stat` are.
#[derive(Default)]
pub(crate) struct Traffic {
    pub(crate) requests: Counter,
    pub(crate) timeouts: Counter,
    pub(crate) rubbish: Counter,
    pub(crate) refused: Counter,
    pub(crate) hypercalls: Counter,
    pub(crate) notifications: Counter,
}

/// A question.
pub(crate) struct Question<'a> {
    pub(crate) kind: Kind,
    pub(crate) version: u16,
    pub(crate) instance: u64,
    /// What follows the header, without data.
    pub(crate) body: &'a [u8],
    pub(crate) data: Data,
    pub(crate) timeout: Delta,
}

/// An answer.
pub(crate) struct Answer<'a> {
    pub(crate) header: AnswerHeader,
    message: [u8; Buffer::ANSWER],
    body: usize,
    /// The page of data, if the question was for one.
    pub(crate) buffer: &'a Buffer,
}

impl Answer<'_> {
    /// What follows the header, without data.
    pub(crate) fn body(&self) -> &[u8] {
        self.message
            .get(HEADER_BYTES..HEADER_BYTES + self.body)
            .unwrap_or(&[])
    }
}

/// A buffer, wherever it is.
enum Place {
    /// Here, and nobody uses it.
    Idle(KBox<Buffer>),
    /// With the one who fills or reads it, or with the device.
    Away,
    /// With the device, and nobody waits for it any more.
    GivenUp,
    /// Back from the device, with so many bytes written.
    Back(KBox<Buffer>, usize),
}

/// The queue to the service.
#[pin_data]
pub(crate) struct HostQueue {
    queue: Arc<Queue>,
    #[pin]
    places: Mutex<[Place; BUFFERS]>,
    number: Atomic<u64>,
    /// Whether the hypercall has worked so far.
    hypercall: Atomic<bool>,
}

impl HostQueue {
    /// Uses a device's queue.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn new(queue: Arc<Queue>) -> Result<Arc<Self>> {
        let mut places = [const { Place::Away }; BUFFERS];
        for (id, place) in places.iter_mut().enumerate() {
            let mut buffer = Buffer::new()?;
            buffer.id = id as u64;
            *place = Place::Idle(buffer);
        }
        Arc::pin_init(
            pin_init!(Self {
                queue,
                places <- new_mutex!(places),
                number: Atomic::new(0),
                hypercall: Atomic::new(true),
            }),
            GFP_KERNEL,
        )
    }

    /// Whether it is this queue.
    pub(crate) fn is(&self, queue: &Queue) -> bool {
        core::ptr::eq(&*self.queue, queue)
    }

    /// Asks, and waits for the answer. `fill` may put data into the buffer's page first; `read` is
    /// given an answer that is one to this question, with [`Code::Ok`].
    ///
    /// # Errors
    ///
    /// See [`Fault`]. After [`Fault::Timeout`] the service may still do what it was asked, at any
    /// later time.
    ///
    /// Context: may sleep, not much longer than the question allows.
    pub(crate) fn ask<R>(
        &self,
        traffic: &Traffic,
        question: &Question<'_>,
        fill: impl FnOnce(&mut Buffer, &mut [u8; 16]) -> Result<usize, Fault>,
        read: impl FnOnce(&Answer<'_>) -> Result<R, Fault>,
    ) -> Result<R, Fault> {
        let start = Instant::<Monotonic>::now();
        let mut buffer = self.idle()?;
        let id = buffer.id;

        let mut head = [0; 16];
        let filled = match fill(&mut buffer, &mut head) {
            Ok(filled) => filled.min(head.len()),
            Err(fault) => {
                self.put_back(buffer);
                return Err(fault);
            }
        };
        let data_out = match question.data {
            Data::Out(bytes) => bytes as usize,
            _ => 0,
        };
        let body = question.body.len() + filled;
        let header = RequestHeader {
            version: question.version,
            kind: question.kind.number(),
            id: self.number.fetch_add(1u64, Relaxed),
            length: (body + data_out) as u32,
            instance: question.instance,
        };
        let parts = [&header.encode()[..], &head[..filled], question.body];
        for (place, byte) in buffer.request().iter_mut().zip(parts.into_iter().flatten()) {
            *place = *byte;
        }
        let data_in = match question.data {
            Data::In => 4096,
            _ => 0,
        };
        let expected = question.kind.answer_bytes() - data_in;
        let submitted = self.queue.submit(
            buffer,
            HEADER_BYTES + body,
            question.data,
            HEADER_BYTES + expected,
        );
        let tell = match submitted {
            Ok(tell) => tell,
            Err((_, buffer)) => {
                self.put_back(buffer);
                return Err(Fault::Gone);
            }
        };
        traffic.requests.count();
        if tell {
            self.kick(traffic);
        }

        let (buffer, used) = self.wait(id, start, question.timeout).inspect_err(|_| {
            traffic.timeouts.count();
        })?;
        let message = buffer.answer();
        let mut bytes = [0; HEADER_BYTES];
        bytes.copy_from_slice(&message[..HEADER_BYTES]);
        let result = match AnswerHeader::parse(&bytes, used, &header) {
            Err(_) => Err(Fault::Rubbish),
            Ok(header) if header.code != Code::Ok => Err(Fault::Refused(header.code)),
            Ok(header) => read(&Answer {
                header,
                message,
                body: expected,
                buffer: &buffer,
            }),
        };
        match result {
            Err(Fault::Rubbish) => traffic.rubbish.count(),
            Err(Fault::Refused(_)) => traffic.refused.count(),
            _ => {}
        }
        self.put_back(buffer);
        result
    }

    /// Takes back what the device has given up meanwhile.
    pub(crate) fn reap(&self) {
        self.collect(&mut self.places.lock());
    }

    fn idle(&self) -> Result<KBox<Buffer>, Fault> {
        let mut places = self.places.lock();
        self.collect(&mut places);
        for place in places.iter_mut() {
            match core::mem::replace(place, Place::Away) {
                Place::Idle(buffer) => return Ok(buffer),
                other => *place = other,
            }
        }
        // All are with the service, which has not answered for longer than anybody waits.
        Err(Fault::Gone)
    }

    fn put_back(&self, buffer: KBox<Buffer>) {
        let mut places = self.places.lock();
        if let Some(place) = places.get_mut(buffer.id as usize) {
            *place = Place::Idle(buffer);
        }
    }

    /// Takes what the device has done out of the queue.
    fn collect(&self, places: &mut [Place; BUFFERS]) {
        while let Some((buffer, used)) = self.queue.completed() {
            let Some(place) = places.get_mut(buffer.id as usize) else {
                continue;
            };
            *place = match place {
                Place::GivenUp => Place::Idle(buffer),
                _ => Place::Back(buffer, used),
            };
        }
    }

    fn wait(
        &self,
        id: u64,
        start: Instant<Monotonic>,
        timeout: Delta,
    ) -> Result<(KBox<Buffer>, usize), Fault> {
        loop {
            // Looked at before the queue is: so an answer that has come in time is not missed,
            // however long this thread has slept.
            let waited = start.elapsed();
            let mut places = self.places.lock();
            self.collect(&mut places);
            let place = places.get_mut(id as usize).ok_or(Fault::Gone)?;
            match core::mem::replace(place, Place::Away) {
                Place::Back(buffer, used) => return Ok((buffer, used)),
                other => *place = other,
            }
            if waited >= timeout {
                *place = Place::GivenUp;
                return Err(Fault::Timeout);
            }
            drop(places);
            if waited < SPIN {
                cpu_relax();
            } else {
                fsleep(NAP);
            }
        }
    }

    /// Tells the device that there is something to do. Should that fail the question times out.
    fn kick(&self, traffic: &Traffic) {
        if self.hypercall.load(Relaxed) {
            let done = self
                .queue
                .notify_register()
                .ok_or(ENODEV)
                .and_then(|(address, value)| kvm_para::mirror_kick(address, value));
            match done {
                Ok(()) => {
                    traffic.hypercalls.count();
                    return;
                }
                // It will not be known later either.
                Err(_) => self.hypercall.store(false, Relaxed),
            }
        }
        traffic.notifications.count();
        let _ = self.queue.notify();
    }
}
