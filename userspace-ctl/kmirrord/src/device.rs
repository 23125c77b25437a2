// SPDX-License-Identifier: GPL-2.0

//! The virtio device as QEMU sees it through one connection.
//!
//! One thread (of the `vhost-user-backend` crate) takes requests off the queue, one after the
//! other, and answers each before it takes the next. So requests are answered in order, and a QEMU
//! that comes back after this process was killed finds in the used ring where to begin again.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use kmirror_core::wire::{Config, QUEUE};
use tracing::{debug, error, info};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VringRwLock, VringState, VringT};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use crate::chain::Received;
use crate::ram::Ram;
use crate::service::Service;
use crate::sys::sigbus;

/// Entries of the queue at most.
const QUEUE_ENTRIES: usize = 256;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// See above.
pub struct Device {
    service: Arc<Mutex<Service>>,
    /// Set with the memory table; the requests of the queue use it.
    ram: RwLock<(Arc<Ram>, Option<Memory>)>,
    /// The queue makes no sense, or lies in broken memory: nothing is read from it until QEMU sets
    /// the memory table again, as it does when the guest resets the device.
    stopped: AtomicBool,
    exit: EventFd,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Who panicked has left counters behind that may be wrong by one, no more.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device {
    /// A device that has no memory yet.
    ///
    /// # Errors
    ///
    /// When there are no file descriptors left.
    pub fn new(service: Arc<Mutex<Service>>) -> io::Result<Self> {
        Ok(Self {
            service,
            ram: RwLock::new((Arc::new(Ram::default()), None)),
            stopped: AtomicBool::new(false),
            exit: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    fn stop(&self, why: &str) {
        error!(why, "the device is stopped until the guest resets it");
        lock(&self.service).metrics().stopped.inc();
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Answers what is in the queue. The lock of the queue is held from the moment that a request
    /// is taken off it until it is answered: who stops the queue waits for it, and nothing is
    /// written into guest memory after.
    fn drain(&self, vring: &VringRwLock) -> io::Result<()> {
        let (ram, memory) = {
            let state = self.ram.read().unwrap_or_else(PoisonError::into_inner);
            match &state.1 {
                Some(memory) => (state.0.clone(), memory.memory()),
                None => return Ok(()),
            }
        };
        while !self.stopped.load(Ordering::Relaxed) {
            let mut state = vring.get_mut();
            if !state.get_queue().ready() {
                return Ok(());
            }
            match self.one(&ram, &memory, &mut state) {
                Ok(true) => (),
                // The queue is empty. A request that comes now is announced, or seen here.
                Ok(false) => match state.enable_notification() {
                    Ok(true) => (),
                    Ok(false) => break,
                    Err(error) => self.stop(&error.to_string()),
                },
                Err(why) => self.stop(&why),
            }
            if sigbus::taken() {
                self.stop("memory of the queue or of a request is broken");
            }
        }
        Ok(())
    }

    /// Answers one request. `false` when there is none.
    fn one(
        &self,
        ram: &Ram,
        memory: &GuestMemoryLoadGuard<GuestMemoryMmap>,
        state: &mut VringState,
    ) -> Result<bool, String> {
        let chain = state
            .get_queue_mut()
            .iter(memory.clone())
            .map_err(|error| error.to_string())?
            .next();
        let Some(chain) = chain else {
            return Ok(false);
        };
        let head = chain.head_index();
        let received = Received::read::<GuestMemoryLoadGuard<GuestMemoryMmap>>(memory, chain);
        // The zeros that stand for broken memory might be a request, even an old one.
        if sigbus::taken() {
            return Err("memory of the queue or of a request is broken".into());
        }
        let written = match received {
            Some(received) => {
                ram.hear(state.get_queue().desc_table());
                let mut service = lock(&self.service);
                let answer = service.answer(ram, &received.request, received.room());
                received.write(&**memory, &answer).unwrap_or(0)
            }
            None => {
                lock(&self.service).metrics().refused.inc();
                debug!("a chain that is no request");
                0
            }
        };
        state
            .add_used(head, written)
            .map_err(|error| error.to_string())?;
        if state.needs_notification().unwrap_or(true) {
            if let Err(error) = state.signal_used_queue() {
                debug!(%error, "cannot signal the guest");
            }
        }
        Ok(true)
    }
}

impl VhostUserBackend for Device {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        usize::from(QUEUE) + 1
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_ENTRIES
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::MQ
    }

    fn set_event_idx(&self, _: bool) {
        // The queue itself is told.
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let config = Config::ours().encode();
        // What is asked for beyond it reads as 0.
        let bytes = config.into_iter().chain(std::iter::repeat(0));
        bytes
            .skip(offset as usize)
            .take((size as usize).min(256))
            .collect()
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        let ram = Arc::new(Ram::new(memory.memory().into_inner()));
        info!(
            bytes = ram.bytes(),
            regions = ram.regions().len(),
            "the guest's memory is known"
        );
        let mut state = self.ram.write().unwrap_or_else(PoisonError::into_inner);
        *state = (ram, Some(memory));
        lock(&self.service).memory_changed();
        self.stopped.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn exit_event(&self, _: usize) -> Option<EventFd> {
        self.exit.try_clone().ok()
    }

    fn handle_event(
        &self,
        event: u16,
        _: EventSet,
        vrings: &[VringRwLock],
        _: usize,
    ) -> io::Result<()> {
        // An error would end the thread, and with it the device, for good.
        match vrings.get(usize::from(event)) {
            Some(vring) => self.drain(vring),
            None => Ok(()),
        }
    }
}
