// SPDX-License-Identifier: GPL-2.0

//! The relay: a front end that stays connected, while one service after the other is killed.

use crate::front_end::{folder, Guest, Process, FREE};
use kmirror_core::wire::{Code, Config, Fetch, Kind, Status, Store, DATA_BYTES, HEADER_BYTES};
use kmirrord::pool::hash;
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};

const DATA: [u8; DATA_BYTES] = [0x42; DATA_BYTES];

fn store(guest: &mut Guest, slot: u64) -> Code {
    let body = [&Store::encode_head(slot, hash(&DATA))[..], &DATA].concat();
    guest.ask(Kind::Store, &body).0
}

fn fetch(guest: &mut Guest, slot: u64) -> Code {
    guest.ask(Kind::Fetch, &Fetch { slot }.encode()).0
}

fn service(folder: &TempDir) -> Process {
    Process::start(folder.path(), &["--pool", "64K"])
}

fn started() -> (TempDir, Process, Process, Guest) {
    let folder = folder();
    let service = service(&folder);
    let relay = Process::relay(folder.path(), &service.socket);
    let mut guest = Guest::connect(&relay);
    guest.hello(false);
    assert_eq!(store(&mut guest, 3), Code::Ok);
    assert_eq!(fetch(&mut guest, 3), Code::Ok);
    (folder, service, relay, guest)
}

/// Makes a request available without waiting for its answer.
fn submit_status(guest: &mut Guest) {
    let header = guest.header(Kind::Status, 0).encode();
    let put = |bytes: &[u8], at| guest.memory.write_slice(bytes, GuestAddress(at));
    put(&header, FREE).expect("memory");
    put(&[0xee; HEADER_BYTES], FREE + 65536).expect("memory");
    guest.descriptor(0, FREE, HEADER_BYTES as u32, 1, 1);
    guest.descriptor(1, FREE + 65536, 4096, 2, 0);
    guest.submit(0);
}

#[test]
fn a_service_that_is_killed_is_followed_by_another_on_the_same_connection() {
    let (folder, mut old, relay, mut guest) = started();
    for _ in 0..3 {
        let before = guest.instance;
        old.kill();
        relay.wait_for("the service has gone");
        old = service(&folder);
        relay.wait_for("the service is there again");
        // What was meant for the last instance has no effect, and the guest learns it at once.
        assert_eq!(store(&mut guest, 3), Code::Instance);
        assert_ne!(guest.instance, before);
        guest.hello(true);
        assert_eq!(fetch(&mut guest, 3), Code::Empty);
        assert_eq!(store(&mut guest, 3), Code::Ok);
        assert_eq!(fetch(&mut guest, 3), Code::Ok);
    }
}

#[test]
fn a_request_that_nobody_has_answered_is_answered_by_the_next_service() {
    let (folder, mut old, relay, mut guest) = started();
    old.kill();
    relay.wait_for("the service has gone");
    submit_status(&mut guest);
    guest.take_kick();
    assert!(!guest.used());
    let _new = service(&folder);
    assert_eq!(guest.wait(), Some(HEADER_BYTES as u32));
    guest.hello(false);
    let room = HEADER_BYTES + Status::BYTES;
    let header = guest.header(Kind::Status, 0);
    assert_eq!(guest.ask_as(&header, &[], room).0, Code::Ok);
}

#[test]
fn qemu_is_answered_while_there_is_no_service() {
    let (folder, mut old, relay, mut guest) = started();
    let config = guest.config();
    assert!(Config::parse(&config.clone().try_into().expect("16 bytes")).is_some());
    old.kill();
    relay.wait_for("the service has gone");
    assert_eq!(guest.config(), config);
    // HELLO, STORE, FETCH.
    assert_eq!(guest.stop(), 3);
    // Nothing that was stopped begins to run when a service is there.
    submit_status(&mut guest);
    let _new = service(&folder);
    relay.wait_for("the service is there again");
    assert_eq!(guest.config(), config);
    assert!(!guest.used());
}

#[test]
fn the_relay_waits_for_the_first_service_and_for_the_next_qemu() {
    let folder = folder();
    let relay = Process::relay(folder.path(), &folder.path().join("kmirrord.sock"));
    let service = service(&folder);
    for _ in 0..2 {
        let mut guest = Guest::connect(&relay);
        guest.hello(false);
        assert_eq!(store(&mut guest, 1), Code::Ok);
        drop(guest);
        relay.wait_for("QEMU has gone");
        service.wait_for("QEMU has gone");
    }
}
