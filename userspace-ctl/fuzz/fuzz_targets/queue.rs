// SPDX-License-Identifier: GPL-2.0

//! The request loop on a queue that a guest has filled with what it likes: the input is the first
//! bytes of guest memory, where the descriptors, the rings and some requests are. What looks like a
//! request gets the instance of the service, which nobody could guess.

#![no_main]

use std::sync::{Arc, Mutex};

use kmirrord::device::Device;
use vhost_user_backend::{VhostUserBackend, VringRwLock, VringT};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic};
use vmm_sys_util::epoll::EventSet;

kmirror_fuzz::fuzz_target!(run);

const ENTRIES: u16 = 8;
const AVAILABLE: u64 = 16 * ENTRIES as u64;
const USED: u64 = 0x1_0000;

struct Machine {
    instance: u64,
    device: Device,
    memory: GuestMemoryAtomic<vm_memory::GuestMemoryMmap>,
}

thread_local! {
    static MACHINE: Machine = {
        let service = kmirror_fuzz::service();
        let instance = service.instance();
        let service = Arc::new(Mutex::new(service));
        let device = Device::new(service).expect("a device");
        let memory = GuestMemoryAtomic::new(kmirror_fuzz::memory());
        Machine { instance, device, memory }
    };
}

fn run(bytes: &[u8]) {
    MACHINE.with(
        |Machine {
             instance,
             device,
             memory,
         }| {
            // Clears what has stopped the device.
            device.update_memory(memory.clone()).expect("memory");
            let mut bytes = bytes[..bytes.len().min(USED as usize)].to_vec();
            for at in 0..bytes.len().saturating_sub(31) {
                let request = &mut bytes[at..at + 32];
                if request.starts_with(b"KMIR") && request[6..8] != [1, 0] {
                    request[24..].copy_from_slice(&instance.to_le_bytes());
                }
            }
            let guest = memory.memory();
            guest
                .write_slice(&[0; 8192], GuestAddress(0))
                .expect("memory");
            guest
                .write_slice(&[0; 4096], GuestAddress(USED))
                .expect("memory");
            guest.write_slice(&bytes, GuestAddress(0)).expect("memory");

            let vring = VringRwLock::new(memory.clone(), 256).expect("a queue");
            vring.set_queue_size(ENTRIES);
            vring.set_queue_info(0, AVAILABLE, USED).expect("addresses");
            vring.set_queue_ready(true);
            vring.set_enabled(true);
            device
                .handle_event(0, EventSet::IN, &[vring], 0)
                .expect("it goes on");
        },
    );
}
