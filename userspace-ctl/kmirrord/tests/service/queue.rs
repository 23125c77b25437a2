// SPDX-License-Identifier: GPL-2.0

//! The moment in which QEMU stops a queue that was just rung for. It cannot be met from outside, so
//! here the device itself is called, as its thread would.

use std::fs::File;
use std::sync::{Arc, Mutex};

use crate::front_end::{FREE, RAM_BYTES};
use kmirror_core::wire::{Hello, Kind, RequestHeader, HEADER_BYTES, VERSIONS};
use kmirrord::device::Device;
use kmirrord::metrics::Metrics;
use kmirrord::nodes::Nodes;
use kmirrord::service::{Limits, Service};
use rustix::fs::MemfdFlags;
use vhost_user_backend::{VhostUserBackend, VringRwLock, VringT};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;

#[test]
fn a_queue_that_was_stopped_after_the_doorbell_is_left_alone() {
    let file =
        File::from(rustix::fs::memfd_create(c"guest", MemfdFlags::CLOEXEC).expect("a memfd"));
    file.set_len(RAM_BYTES).expect("it grows");
    let range = (
        GuestAddress(0),
        RAM_BYTES as usize,
        Some(FileOffset::new(file, 0)),
    );
    let guest: GuestMemoryMmap = GuestMemoryMmap::from_ranges_with_files([range]).expect("memory");
    let put = |bytes: &[u8], at| guest.write_slice(bytes, GuestAddress(at)).expect("memory");
    let memory = GuestMemoryAtomic::new(guest.clone());
    let service = Service::new(Limits::default(), Nodes::of_this_host(), Metrics::new());
    let device = Device::new(Arc::new(Mutex::new(service.expect("a service")))).expect("a device");
    device.update_memory(memory.clone()).expect("memory");

    // HELLO, with room for its answer.
    let hello = Hello {
        lowest: VERSIONS.0,
        highest: VERSIONS.1,
        keep: false,
        features: 0,
    }
    .encode();
    let header = RequestHeader {
        version: 0,
        kind: Kind::Hello.number(),
        id: 1,
        length: hello.len() as u32,
        instance: 0,
    };
    put(&header.encode(), FREE);
    put(&hello, FREE + HEADER_BYTES as u64);
    for (at, address, bytes, flags) in [
        (0, FREE, (HEADER_BYTES + hello.len()) as u32, 1u16),
        (1, FREE + 65536, 4096, 2),
    ] {
        let place = DESCRIPTORS + 16 * at;
        put(&u64::to_le_bytes(address), place);
        put(&u32::to_le_bytes(bytes), place + 8);
        put(&flags.to_le_bytes(), place + 12);
        put(&[1 - at as u8, 0], place + 14);
    }
    put(&[1, 0], AVAILABLE + 2);

    let vring = VringRwLock::new(memory, 256).expect("a queue");
    vring.set_queue_size(16);
    vring
        .set_queue_info(DESCRIPTORS, AVAILABLE, USED)
        .expect("addresses");
    vring.set_enabled(true);
    let vrings = [vring];
    let used = || -> u16 { guest.read_obj(GuestAddress(USED + 2)).expect("memory") };
    let rung = || {
        device
            .handle_event(0, EventSet::IN, &vrings, 0)
            .expect("it goes on")
    };
    vrings[0].set_queue_ready(false);
    rung();
    assert_eq!(used(), 0, "a stopped queue was written to");
    // It was only stopped.
    vrings[0].set_queue_ready(true);
    rung();
    assert_eq!(used(), 1);
}
