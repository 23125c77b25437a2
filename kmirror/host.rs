// SPDX-License-Identifier: GPL-2.0

//! The host's service, as the module sees it: whether it is there, and what can be asked of it.
//!
//! ```text
//!            device found          HELLO answered
//!   no queue -----------> no session -----------> session
//!      ^                   ^    |                    |
//!      |  device gone      |    +--- once a second   | no answer in time, rubbish,
//!      +-------------------+-------------------------+ another instance
//! ```
//!
//! The session ends at the first answer that does not come, or makes no sense: from then on nothing
//! is asked but HELLO, so a dead service costs its users one wait, not one each. What it held counts
//! as lost. [`host_link`](crate::host_link) begins the next.

use crate::{
    depot::Source,
    host_place::Placement,
    host_queue::{Answer, Fault, HostQueue, Question, Traffic},
};
use kernel::{
    prelude::*,
    sync::{new_condvar, new_mutex, Arc, CondVar, Mutex},
    time::{msecs_to_jiffies, Delta}, //
};
use kernel_ext::{
    memory_mirror::Target,
    virtio::{Buffer, Data, Driver, Queue}, //
};
use kmirror_core::wire::{self, features, Code, Hello, HelloAnswer, Kind};

/// How long a replica is waited for, both ways. A process stands still meanwhile, or a worker and
/// with it all who want the store's lock; an answer takes some 10 microseconds.
const QUICK: Delta = Delta::from_millis(1000);
/// How long anything else is.
const SLOW: Delta = Delta::from_secs(3);
/// For what the service does page by page.
const LONG: Delta = Delta::from_secs(30);

/// What has been agreed on with an instance of the service.
#[derive(Clone, Copy)]
pub(crate) struct Session {
    pub(crate) instance: u64,
    pub(crate) hello: HelloAnswer,
}

impl Session {
    /// Whether both know the feature.
    pub(crate) fn has(&self, feature: u64) -> bool {
        self.hello.features & feature != 0
    }
}

#[derive(Default)]
struct State {
    queue: Option<Arc<HostQueue>>,
    session: Option<Session>,
    /// What is known about where the region is.
    placement: Option<Placement>,
    /// Somebody has something for the thread to do.
    work: bool,
    stop: bool,
}

/// The service.
#[pin_data]
pub(crate) struct Host {
    #[pin]
    state: Mutex<State>,
    #[pin]
    changed: CondVar,
    pub(crate) traffic: Traffic,
    /// Sessions begun.
    pub(crate) sessions: crate::group::Counter,
    /// Replicas that the service held when it was lost.
    pub(crate) lost: crate::group::Counter,
}

impl Host {
    /// Nothing is known of any service.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                state <- new_mutex!(State::default()),
                changed <- new_condvar!(),
                traffic: Traffic::default(),
                sessions: Default::default(),
                lost: Default::default(),
            }),
            GFP_KERNEL,
        )
    }

    /// What has been agreed on, if there is a service.
    pub(crate) fn session(&self) -> Option<Session> {
        self.state.lock().session
    }

    /// The queue, if there is a device.
    pub(crate) fn queue(&self) -> Option<Arc<HostQueue>> {
        self.state.lock().queue.clone()
    }

    /// Where the region is, as far as it has been asked.
    pub(crate) fn placement(&self) -> Option<Placement> {
        self.state.lock().placement
    }

    /// Remembers where the region is.
    pub(crate) fn set_placement(&self, placement: Option<Placement>) {
        self.state.lock().placement = placement;
    }

    /// Wakes the thread.
    pub(crate) fn wake(&self) {
        self.state.lock().work = true;
        self.changed.notify_all();
    }

    /// Tells the thread to end.
    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    /// The module goes: the service is let go without a word.
    pub(crate) fn end(&self) {
        self.state.lock().session = None;
    }

    /// For the thread: sleeps for so long, or until there is something to do. Returns whether to go
    /// on.
    pub(crate) fn pause(&self, ms: u32) -> bool {
        let mut state = self.state.lock();
        if !state.stop && !state.work {
            let _ = self
                .changed
                .wait_interruptible_timeout(&mut state, msecs_to_jiffies(ms));
        }
        state.work = false;
        !state.stop
    }

    /// Waits until there is a session, if there is a device, but not for long.
    pub(crate) fn settle(&self) {
        let mut state = self.state.lock();
        let mut left = 20;
        while state.queue.is_some() && state.session.is_none() && left > 0 {
            let _ = self
                .changed
                .wait_interruptible_timeout(&mut state, msecs_to_jiffies(100));
            left -= 1;
        }
    }

    /// Ends the session with `instance`, for this reason.
    fn lose(&self, instance: u64, fault: Fault) {
        let mut state = self.state.lock();
        if state.session.is_none_or(|s| s.instance != instance) {
            return;
        }
        state.session = None;
        state.work = true;
        drop(state);
        self.changed.notify_all();
        let why = match fault {
            Fault::Timeout => "it does not answer",
            Fault::Rubbish => "its answer makes no sense",
            Fault::Refused(Code::Instance) => "it was started anew",
            _ => "it is gone",
        };
        pr_warn!("the host's service is lost: {why}; so are the replicas that it held\n");
    }

    /// Asks within the session.
    fn ask<R>(
        &self,
        kind: Kind,
        body: &[u8],
        data: Data,
        timeout: Delta,
        fill: impl FnOnce(&mut Buffer, &mut [u8; 16]) -> Result<usize, Fault>,
        read: impl FnOnce(&Answer<'_>) -> Result<R, Fault>,
    ) -> Result<R, Fault> {
        let (queue, session) = {
            let state = self.state.lock();
            (state.queue.clone(), state.session)
        };
        let queue = queue.ok_or(Fault::Gone)?;
        let session = session.ok_or(Fault::Gone)?;
        let question = Question {
            kind,
            version: session.hello.version,
            instance: session.instance,
            body,
            data,
            timeout,
        };
        let result = queue.ask(&self.traffic, &question, fill, |answer| {
            if answer.header.instance != session.instance {
                return Err(Fault::Refused(Code::Instance));
            }
            read(answer)
        });
        if let Err(fault) = &result {
            match fault {
                Fault::Gone
                | Fault::Timeout
                | Fault::Rubbish
                | Fault::Refused(Code::Instance | Code::Version) => {
                    self.lose(session.instance, *fault);
                }
                Fault::Refused(_) | Fault::Local => {}
            }
        }
        result
    }

    /// Asks for what has no data.
    pub(crate) fn plain<R>(
        &self,
        kind: Kind,
        body: &[u8],
        long: bool,
        read: impl FnOnce(&[u8]) -> Result<R, Fault>,
    ) -> Result<R, Fault> {
        let timeout = if long { LONG } else { SLOW };
        self.ask(
            kind,
            body,
            Data::None,
            timeout,
            |_, _| Ok(0),
            |answer| read(answer.body()),
        )
    }

    /// Begins a session. The service forgets what it has held for this guest.
    pub(crate) fn hello(&self) -> Result<Session, Fault> {
        let queue = self.queue().ok_or(Fault::Gone)?;
        queue.reap();
        let hello = Hello {
            lowest: wire::VERSIONS.0,
            highest: wire::VERSIONS.1,
            keep: false,
            features: features::ALL,
        };
        let question = Question {
            kind: Kind::Hello,
            version: 0,
            instance: 0,
            body: &hello.encode(),
            data: Data::None,
            timeout: SLOW,
        };
        let session = queue.ask(
            &self.traffic,
            &question,
            |_, _| Ok(0),
            |answer| {
                let instance = answer.header.instance;
                let hello = HelloAnswer::parse(answer.body()).map_err(|_| Fault::Rubbish)?;
                if !(wire::VERSIONS.0..=wire::VERSIONS.1).contains(&hello.version) {
                    return Err(Fault::Rubbish);
                }
                Ok(Session { instance, hello })
            },
        )?;
        Ok(session)
    }

    /// What has been agreed on is in force from now on.
    pub(crate) fn begin(&self, session: Session) {
        self.state.lock().session = Some(session);
        self.sessions.count();
        self.changed.notify_all();
    }

    /// Has the service keep a copy of it under the number `slot`, and returns its hash.
    ///
    /// The bytes pass through a page of ours: so what is sent is what was hashed, whoever writes to
    /// the page meanwhile.
    pub(crate) fn store(&self, slot: u64, from: &impl Source) -> Result<u64, Fault> {
        let mut hash = 0;
        self.ask(
            Kind::Store,
            &[],
            Data::Out(wire::DATA_BYTES as u32),
            QUICK,
            |buffer, head| {
                let frame = buffer.data();
                from.copy_to(&frame).map_err(|_| Fault::Local)?;
                hash = frame.hash();
                *head = wire::Store::encode_head(slot, hash);
                Ok(head.len())
            },
            |_| Ok(()),
        )?;
        Ok(hash)
    }

    /// Fills the page with the data of an answer, and returns the hash of what has arrived.
    fn fill(&self, kind: Kind, body: &[u8], to: &mut Target<'_>) -> Result<u64, Fault> {
        self.ask(
            kind,
            body,
            Data::In,
            QUICK,
            |_, _| Ok(0),
            |answer| {
                to.fill_from(&answer.buffer.data())
                    .map_err(|_| Fault::Local)
            },
        )
    }

    /// Fills the page with what the service has under the number `slot`, and returns the hash of
    /// what has arrived. The hash that the service says is of no interest: it is ours that counts.
    pub(crate) fn fetch(&self, slot: u64, to: &mut Target<'_>) -> Result<u64, Fault> {
        self.fill(Kind::Fetch, &wire::Fetch { slot }.encode(), to)
    }

    /// Whether frames may be lost to the guest that the service can still read: those behind a huge page
    /// of the host, of which a part has broken.
    pub(crate) fn can_rescue(&self) -> bool {
        self.session().is_some_and(|session| {
            session.has(features::RESCUE) && session.hello.frame_bytes > wire::DATA_BYTES as u64
        })
    }

    /// Fills the page with what the service finds in a frame that the guest cannot read.
    ///
    /// There is no hash that it could be compared with: the service is believed here, as QEMU is with
    /// every byte of memory.
    pub(crate) fn rescue(&self, pfn: usize, to: &mut Target<'_>) -> Result<(), Fault> {
        let address = (pfn as u64) << 12;
        self.fill(Kind::Rescue, &wire::Rescue { address }.encode(), to)
            .map(|_| ())
    }

    /// Has the service forget `count` numbers from `slot` on.
    pub(crate) fn forget(&self, slot: u64, count: u64) -> Result<(), Fault> {
        self.plain(
            Kind::Drop,
            &wire::Drop { slot, count }.encode(),
            false,
            |_| Ok(()),
        )
    }
}

/// Finds the device.
pub(crate) struct HostDriver(pub(crate) Arc<Host>);

impl Driver for HostDriver {
    const NAME: &'static CStr = c"kmirror";
    const ID: u32 = wire::VIRTIO_ID;

    fn probe(&self, config: &[u8; 16], queue: Arc<Queue>) -> Result {
        // Others may use this number too. A service that has not been started yet shows zeros.
        if wire::Config::parse(config).is_none() && *config != [0; 16] {
            return Err(ENODEV);
        }
        let queue = HostQueue::new(queue)?;
        let mut state = self.0.state.lock();
        if state.queue.is_some() {
            pr_warn!("there is a second device of a mirror service: it is not used\n");
            return Err(EBUSY);
        }
        state.queue = Some(queue);
        state.work = true;
        drop(state);
        self.0.changed.notify_all();
        Ok(())
    }

    fn remove(&self, queue: &Queue) {
        let mut state = self.0.state.lock();
        if !state.queue.as_ref().is_some_and(|ours| ours.is(queue)) {
            return;
        }
        let old = state.queue.take();
        let lost = state.session.take();
        state.work = true;
        drop(state);
        self.0.changed.notify_all();
        drop(old);
        if lost.is_some() {
            pr_warn!("the host's service is lost: its device is gone or sleeps; so are the replicas that it held\n");
        }
    }
}
