// SPDX-License-Identifier: GPL-2.0

//! Guests and front ends that do what they should not. The service has to be there afterwards, and
//! to have touched nothing that is not the guest's.

use std::os::unix::net::UnixStream;

use crate::front_end::{folder, Guest, Piece, Process, FREE, RAM_BYTES};
use kmirror_core::wire::{Code, Fetch, Kind, Store, DATA_BYTES, HEADER_BYTES};
use kmirrord::pool::hash;
use vm_memory::{Bytes, GuestAddress};

const DATA: [u8; DATA_BYTES] = [0x42; DATA_BYTES];

fn store(guest: &mut Guest, slot: u64) -> Code {
    let body = [&Store::encode_head(slot, hash(&DATA))[..], &DATA].concat();
    guest.ask(Kind::Store, &body).0
}

fn fetch(guest: &mut Guest, slot: u64) -> Code {
    guest.ask(Kind::Fetch, &Fetch { slot }.encode()).0
}

fn started() -> (tempfile::TempDir, Process) {
    let folder = folder();
    let process = Process::start(folder.path(), &["--pool", "64K"]);
    (folder, process)
}

#[test]
fn chains_that_are_no_request_are_given_back_unanswered() {
    let (_folder, mut process) = started();
    let mut guest = Guest::connect(&process);
    guest.hello(false);
    let request = |bytes| Piece {
        address: FREE,
        bytes,
        writable: false,
    };
    let answer = |bytes| Piece {
        address: FREE + 65536,
        bytes,
        writable: true,
    };
    let outside = |writable| Piece {
        address: RAM_BYTES - 16,
        bytes: 32,
        writable,
    };
    let far = |writable| Piece {
        address: u64::MAX - 8,
        bytes: 32,
        writable,
    };
    let header = guest.header(Kind::Status, 0).encode();
    guest
        .memory
        .write_slice(&header, GuestAddress(FREE))
        .expect("memory");
    for chain in [
        vec![request(32)],
        vec![request(0), answer(31)],
        vec![request(32), answer(31)],
        vec![answer(4096), request(32)],
        vec![request(32), outside(true)],
        vec![request(32), far(true)],
        vec![outside(false), answer(4096)],
        vec![far(false), answer(4096)],
        vec![request(1 << 20), answer(4096)],
        vec![request(u32::MAX), answer(4096)],
    ] {
        assert_eq!(guest.send(&chain), 0, "{chain:?}");
    }
    // A header that is short is at least answered.
    assert_eq!(
        guest.send(&[request(31), answer(4096)]) as usize,
        HEADER_BYTES
    );
    // A ring of descriptors, one that leads nowhere, and an indirect table within another.
    const NEXT: u16 = 1;
    const INDIRECT: u16 = 4;
    guest.descriptor(0, FREE, 32, NEXT, 1);
    guest.descriptor(1, FREE, 0, NEXT, 0);
    guest.submit(0);
    assert_eq!(guest.wait(), Some(0));
    guest.descriptor(0, FREE, 32, NEXT, 9999);
    guest.submit(0);
    assert_eq!(guest.wait(), Some(0));
    let table = FREE + (1 << 20);
    let mut inner = [0; 16];
    inner[..8].copy_from_slice(&table.to_le_bytes());
    inner[8] = 16;
    inner[12] = INDIRECT as u8;
    guest
        .memory
        .write_slice(&inner, GuestAddress(table))
        .expect("memory");
    guest.descriptor(0, table, 16, INDIRECT, 0);
    guest.submit(0);
    assert_eq!(guest.wait(), Some(0));

    assert_eq!(store(&mut guest, 0), Code::Ok);
    assert!(process.lives());
}

#[test]
fn a_request_whose_answer_has_no_place_is_not_done() {
    let (_folder, process) = started();
    let mut guest = Guest::connect(&process);
    guest.hello(false);
    let body = [&Store::encode_head(4, hash(&DATA))[..], &DATA].concat();
    let header = guest.header(Kind::Store, body.len()).encode();
    let request = [&header[..], &body].concat();
    guest
        .memory
        .write_slice(&request, GuestAddress(FREE))
        .expect("memory");
    // The last is where nothing else would be written: there is memory for the whole answer.
    for (address, bytes) in [
        (RAM_BYTES - 16, 32),
        (RAM_BYTES, 4096),
        (u64::MAX - 8, 4096),
        (RAM_BYTES - 64, 4096),
    ] {
        let pieces = [
            Piece {
                address: FREE,
                bytes: request.len() as u32,
                writable: false,
            },
            Piece {
                address,
                bytes,
                writable: true,
            },
        ];
        assert_eq!(guest.send(&pieces), 0, "{address:#x}");
        assert_eq!(fetch(&mut guest, 4), Code::Empty, "{address:#x}");
    }
    let mut last = [0xee; 64];
    guest
        .memory
        .read_slice(&mut last, GuestAddress(RAM_BYTES - 64))
        .expect("memory");
    assert_eq!(last, [0; 64]);
}

#[test]
fn a_queue_that_makes_no_sense_stops_this_device_only() {
    let (_folder, mut process) = started();
    let mut guest = Guest::connect(&process);
    guest.hello(false);
    assert_eq!(store(&mut guest, 3), Code::Ok);
    // More requests than the queue has places.
    guest.publish(0x4000);
    process.wait_for("the device is stopped until the guest resets it");
    assert!(process.lives());
    drop(guest);
    // The next connection is served, and what was stored is there.
    let mut guest = Guest::connect(&process);
    guest.hello(true);
    assert_eq!(fetch(&mut guest, 3), Code::Ok);
}

#[test]
fn broken_memory_under_the_queue_does_not_end_the_service() {
    let (_folder, mut process) = started();
    let mut guest = Guest::connect(&process);
    guest.hello(false);
    assert_eq!(store(&mut guest, 3), Code::Ok);
    // As with memory that breaks, a load from what was cut off is a SIGBUS.
    guest.publish(1);
    guest.file.set_len(4096).expect("it shrinks");
    // SAFETY of the test itself: nothing here touches the mapping from now on.
    process.wait_for("the device is stopped until the guest resets it");
    assert!(process.lives());
    std::mem::forget(guest);
}

#[test]
fn broken_memory_under_a_request_does_not_end_the_service() {
    let (_folder, mut process) = started();
    let mut guest = Guest::connect(&process);
    guest.hello(false);
    assert_eq!(store(&mut guest, 3), Code::Ok);
    let last = RAM_BYTES - 4096;
    guest.file.set_len(last).expect("it shrinks");
    guest.descriptor(0, last, 32, 1, 1);
    guest.descriptor(1, FREE, 4096, 2, 0);
    guest.submit(0);
    process.wait_for("the device is stopped until the guest resets it");
    assert!(process.lives());
    assert!(!guest.used(), "zeros were taken for a request");
    drop(guest);
    let mut guest = Guest::connect(&process);
    guest.hello(true);
    assert_eq!(fetch(&mut guest, 3), Code::Ok);
}

#[test]
fn it_comes_back_after_kill_9_with_an_empty_pool() {
    let (folder, mut process) = started();
    let mut guest = Guest::connect(&process);
    guest.hello(false);
    let before = guest.instance;
    assert_eq!(store(&mut guest, 3), Code::Ok);
    let file = guest.file.try_clone().expect("a descriptor");
    process.kill();
    drop(guest);
    // Its socket was left behind, and is no hindrance.
    let process = Process::start(folder.path(), &["--pool", "64K"]);
    let mut guest = Guest::connect_with(&process, file);
    // A request to the one before has no effect.
    guest.instance = before;
    guest.version = 1;
    assert_eq!(store(&mut guest, 3), Code::Instance);
    guest.hello(true);
    assert_ne!(guest.instance, before);
    assert_eq!(fetch(&mut guest, 3), Code::Empty);
    assert_eq!(store(&mut guest, 3), Code::Ok);
}

#[test]
fn a_queue_that_is_stopped_is_left_alone() {
    let (_folder, process) = started();
    let mut guest = Guest::connect(&process);
    guest.hello(false);
    assert_eq!(store(&mut guest, 1), Code::Ok);
    assert_eq!(guest.stop(), 2);
    guest.descriptor(0, FREE, 32, 1, 1);
    guest.descriptor(1, FREE + 65536, 4096, 2, 0);
    guest.submit(0);
    // The stop has been answered, so nothing may be written. A message that is answered later
    // leaves time for what should not happen.
    guest.config();
    assert!(!guest.used());
}

#[test]
fn the_pool_outlives_a_connection_and_a_front_end_that_hangs() {
    let (_folder, mut process) = started();
    let mut guest = Guest::connect(&process);
    guest.hello(false);
    assert_eq!(store(&mut guest, 5), Code::Ok);
    drop(guest);
    process.wait_for("QEMU has gone");
    // One that says nothing, one that says half a message, and one that says nonsense.
    use std::io::Write;
    drop(UnixStream::connect(&process.socket).expect("it listens"));
    process.wait_for("QEMU is connected");
    for bytes in [&[1, 0, 0, 0, 1][..], &[0xff; 64]] {
        let mut stream = UnixStream::connect(&process.socket).expect("it listens");
        stream.write_all(bytes).expect("it reads");
        process.wait_for("QEMU is connected");
        drop(stream);
    }
    let hung = UnixStream::connect(&process.socket).expect("it listens");
    process.wait_for("QEMU is connected");
    assert!(process.lives());
    drop(hung);
    let mut guest = Guest::connect(&process);
    guest.hello(true);
    assert_eq!(fetch(&mut guest, 5), Code::Ok);
}

#[test]
fn it_ends_when_it_is_told_to_also_while_a_front_end_hangs() {
    let (_folder, mut process) = started();
    let _hung = UnixStream::connect(&process.socket).expect("it listens");
    process.wait_for("QEMU is connected");
    let id = rustix::process::Pid::from_raw(process.id() as i32).expect("a process");
    rustix::process::kill_process(id, rustix::process::Signal::Term).expect("it is ours");
    process.wait_for("the service ends");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while process.lives() {
        assert!(std::time::Instant::now() < end, "it has not ended");
        std::thread::yield_now();
    }
}

#[test]
fn it_connects_to_a_qemu_that_listens_again_and_again() {
    use std::os::unix::net::UnixListener;
    let folder = folder();
    let path = folder.path().join("qemu.sock");
    let flag = path.to_str().expect("a path");
    let process = Process::spawn(&path, &["--connect", flag, "--pool", "64K"]);
    process.wait_for("waiting for QEMU to listen");
    let listener = UnixListener::bind(&path).expect("a socket");
    for keep in [false, true] {
        let (stream, _) = listener.accept().expect("it connects");
        let mut guest = Guest::connect_to(stream);
        guest.hello(keep);
        if keep {
            assert_eq!(fetch(&mut guest, 2), Code::Ok);
        } else {
            assert_eq!(store(&mut guest, 2), Code::Ok);
        }
    }
}
