// SPDX-License-Identifier: GPL-2.0

//! Each request, from a queue in memory through the socket of a real kmirrord and back.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use crate::front_end::{folder, Guest, Process, FREE, RAM_BYTES};
use kmirror_core::wire::{
    features, placed, Code, Config, Domain, Drop, DropAnswer, Fetch, FetchAnswer, Frames, Heal,
    HealAnswer, Hello, Kind, Place, PlaceAnswer, Range, RequestHeader, Rescue, Status, Store,
    DATA_BYTES, HEADER_BYTES,
};
use kmirrord::pool::hash;
use vm_memory::{Bytes, GuestAddress};

fn page(version: u8) -> [u8; DATA_BYTES] {
    std::array::from_fn(|at| version ^ (at / 7) as u8)
}

fn store(guest: &mut Guest, slot: u64, said: u64, data: &[u8]) -> Code {
    let body = [&Store::encode_head(slot, said)[..], data].concat();
    guest.ask(Kind::Store, &body).0
}

fn fetch(guest: &mut Guest, slot: u64) -> Result<Vec<u8>, Code> {
    match guest.ask(Kind::Fetch, &Fetch { slot }.encode()) {
        (Code::Ok, body) => {
            let (head, data) = body.split_first_chunk().expect("a hash");
            assert_eq!(FetchAnswer::parse(head).hash, hash(data));
            Ok(data.to_vec())
        }
        (code, body) => {
            assert!(body.is_empty());
            Err(code)
        }
    }
}

fn status(guest: &mut Guest) -> Status {
    let (code, body) = guest.ask(Kind::Status, &[]);
    assert_eq!(code, Code::Ok);
    Status::parse(&body).expect("a status")
}

#[test]
fn hello_says_what_the_service_has() {
    let folder = folder();
    let process = Process::start(folder.path(), &["--pool", "64K"]);
    let mut guest = Guest::connect(&process);
    assert_eq!(guest.config(), Config::ours().encode());
    let hello = guest.hello(false);
    assert_eq!(
        (hello.version, hello.slots, hello.frame_bytes),
        (1, 16, 4096)
    );
    let has = features::POOL | features::HEAL | features::RESCUE;
    assert_eq!(hello.features & has, has);
    assert_eq!(hello.features & !features::ALL, 0);
    let domains = hello.domains.as_slice();
    assert!(!domains.is_empty());
    // The rings have been touched, so the guest is somewhere.
    assert!(domains.iter().any(|d| d.flags & Domain::PRIMARIES != 0));

    // Only what the guest knows is used, and a version that nobody speaks is none.
    for (versions, know, code) in [((1, 9), 0, Code::Ok), ((2, 9), 0, Code::Version)] {
        let hello = Hello {
            lowest: versions.0,
            highest: versions.1,
            keep: true,
            features: know,
        };
        assert_eq!(guest.ask(Kind::Hello, &hello.encode()).0, code);
    }
    assert_eq!(fetch(&mut guest, 0), Err(Code::Unsupported));
}

#[test]
fn what_is_stored_is_fetched() {
    let folder = folder();
    let process = Process::start(folder.path(), &["--pool", "64K"]);
    let mut guest = Guest::connect(&process);
    guest.hello(false);
    for slot in 0..16 {
        assert_eq!(fetch(&mut guest, slot), Err(Code::Empty));
        let data = page(slot as u8);
        assert_eq!(store(&mut guest, slot, hash(&data), &data), Code::Ok);
    }
    for slot in 0..16 {
        assert_eq!(fetch(&mut guest, slot), Ok(page(slot as u8).to_vec()));
    }
    // Written over.
    assert_eq!(store(&mut guest, 3, hash(&page(99)), &page(99)), Code::Ok);
    assert_eq!(fetch(&mut guest, 3), Ok(page(99).to_vec()));
    // What arrives is not what was sent: the older bytes are gone too.
    assert_eq!(store(&mut guest, 3, 1, &page(5)), Code::Corrupt);
    assert_eq!(fetch(&mut guest, 3), Err(Code::Empty));
    // Outside of the pool.
    for slot in [16, 17, u64::MAX] {
        assert_eq!(
            store(&mut guest, slot, hash(&page(1)), &page(1)),
            Code::Slot
        );
        assert_eq!(fetch(&mut guest, slot), Err(Code::Slot));
    }
    let drop = |guest: &mut Guest, slot, count| {
        let (code, body) = guest.ask(Kind::Drop, &Drop { slot, count }.encode());
        (code, DropAnswer::parse(&body).map(|answer| answer.dropped))
    };
    assert_eq!(drop(&mut guest, 2, 3), (Code::Ok, Ok(2)));
    assert_eq!(drop(&mut guest, 15, 2).0, Code::Slot);
    assert_eq!(fetch(&mut guest, 2), Err(Code::Empty));
    assert_eq!(fetch(&mut guest, 15), Ok(page(15).to_vec()));

    let status = status(&mut guest);
    assert_eq!((status.slots, status.used, status.stored), (16, 13, 17));
    assert_eq!((status.fetched, status.dropped, status.corrupt), (18, 2, 1));
}

#[test]
fn a_guest_that_boots_afresh_finds_an_empty_pool() {
    let folder = folder();
    let process = Process::start(folder.path(), &["--pool", "64K"]);
    let mut guest = Guest::connect(&process);
    guest.hello(false);
    assert_eq!(store(&mut guest, 1, hash(&page(1)), &page(1)), Code::Ok);
    guest.hello(true);
    assert_eq!(fetch(&mut guest, 1), Ok(page(1).to_vec()));
    guest.hello(false);
    assert_eq!(fetch(&mut guest, 1), Err(Code::Empty));
}

#[test]
fn nothing_is_done_without_hello_or_for_another_instance() {
    let folder = folder();
    let process = Process::start(folder.path(), &["--pool", "64K"]);
    let mut guest = Guest::connect(&process);
    assert_eq!(
        store(&mut guest, 1, hash(&page(1)), &page(1)),
        Code::Instance
    );
    guest.hello(false);
    let right = guest.header(Kind::Status, 0);
    let room = HEADER_BYTES + Status::BYTES;
    for (header, code) in [
        (right, Code::Ok),
        (
            RequestHeader {
                instance: right.instance ^ 1,
                ..right
            },
            Code::Instance,
        ),
        (
            RequestHeader {
                version: 2,
                ..right
            },
            Code::Version,
        ),
        (RequestHeader { kind: 77, ..right }, Code::Kind),
        (RequestHeader { length: 1, ..right }, Code::Length),
    ] {
        assert_eq!(guest.ask_as(&header, &[], room).0, code, "{header:?}");
    }
    // Room for a header, but not for what was asked: said, and not done.
    let data = page(1);
    let body = [&Store::encode_head(1, hash(&data))[..], &data].concat();
    let header = guest.header(Kind::Store, body.len());
    assert_eq!(guest.ask_as(&header, &body, HEADER_BYTES).0, Code::Ok);
    let header = guest.header(Kind::Drop, 16);
    let drop = Drop { slot: 1, count: 1 }.encode();
    assert_eq!(
        guest.ask_as(&header, &drop, HEADER_BYTES + 7).0,
        Code::Length
    );
    assert_eq!(fetch(&mut guest, 1), Ok(data.to_vec()));
}

#[test]
fn memory_is_placed_and_the_answer_says_where() {
    let folder = folder();
    let process = Process::start(folder.path(), &["--place-max", "4M"]);
    let mut guest = Guest::connect(&process);
    let hello = guest.hello(false);
    let place = |guest: &mut Guest, empty, start, bytes| {
        let range = Range::new(start, bytes).expect("a range");
        let body = [&Place::encode_head(empty, 1)[..], &range.encode()].concat();
        let (code, body) = guest.ask(Kind::Place, &body);
        (code, PlaceAnswer::parse(&body))
    };
    let mark = GuestAddress(FREE + 5000);
    guest.memory.write_obj(7u8, mark).expect("memory");
    let (code, answer) = place(&mut guest, false, FREE, 2 << 20);
    let answer = answer.expect("an answer");
    assert_eq!((code, answer.pages, answer.fresh), (Code::Ok, 512, 0));
    assert_eq!(answer.present, 512, "{answer:?}");
    assert_ne!(answer.done & placed::PRESENT, 0);
    assert_ne!(answer.done & placed::UNMERGED, 0);
    let by_node: u64 = answer.domains.as_slice().iter().map(|d| d.pages).sum();
    assert_eq!(by_node, 512);
    // All of it has memory in the file now, and what was there is there.
    let blocks = rustix::fs::fstat(&guest.file).expect("a file").st_blocks;
    assert!(blocks * 512 >= 2 << 20, "{blocks}");
    assert_eq!(guest.memory.read_obj::<u8>(mark).expect("memory"), 7);

    // Empty ranges are made afresh.
    let (code, answer) = place(&mut guest, true, FREE, 2 << 20);
    let answer = answer.expect("an answer");
    assert_eq!((code, answer.present, answer.fresh), (Code::Ok, 512, 512));
    assert_eq!(guest.memory.read_obj::<u8>(mark).expect("memory"), 0);
    let nodes = hello.domains.as_slice().len();
    if nodes == 1 {
        // There is nowhere else to go, and that is said.
        assert_eq!(answer.done & (placed::BOUND | placed::APART), 0);
        assert_eq!(answer.apart, 0);
    }
    let lock = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    let may_lock = lock.current.is_none_or(|bytes| bytes >= 4 << 20);
    assert!(answer.done & placed::LOCKED != 0 || !may_lock, "{answer:?}");
    assert_eq!(status(&mut guest).placed, 512);

    // The same again costs nothing; more than the administrator allows is refused.
    assert_eq!(place(&mut guest, true, FREE, 4 << 20).0, Code::Ok);
    assert_eq!(
        place(&mut guest, true, FREE - (2 << 20), 2 << 20).0,
        Code::Full
    );
    // Part of it is no memory: nothing is done.
    guest
        .memory
        .write_obj(7u8, GuestAddress(RAM_BYTES - 1))
        .expect("memory");
    let outside = place(&mut guest, true, RAM_BYTES - 4096, 8192);
    assert_eq!(outside.0, Code::Memory);
    let last = guest.memory.read_obj::<u8>(GuestAddress(RAM_BYTES - 1));
    assert_eq!(last.expect("memory"), 7);
    assert_eq!(place(&mut guest, true, 0, 1 << 30).0, Code::Value);
    assert_eq!(status(&mut guest).placed, 1024);
}

#[test]
fn a_frame_is_healed_and_its_neighbours_are_untouched() {
    let folder = folder();
    let process = Process::start(folder.path(), &[]);
    let mut guest = Guest::connect(&process);
    guest.hello(false);
    let whole = vec![0xaa; 3 * 4096];
    guest
        .memory
        .write_slice(&whole, GuestAddress(FREE))
        .expect("memory");
    let fill = page(3);
    let heal = |guest: &mut Guest, address, fill: Option<&[u8; 4096]>| {
        let heal = Heal {
            address,
            idle: Frames::NONE,
            fill,
        };
        let body = [&heal.encode()[..], fill.map_or(&[], |f| f)].concat();
        let (code, body) = guest.ask(Kind::Heal, &body);
        (code, HealAnswer::parse(&body))
    };
    let (code, answer) = heal(&mut guest, FREE + 4096, Some(&fill));
    assert_eq!(
        (code, answer.expect("an answer").page_bytes),
        (Code::Ok, 4096)
    );
    let mut seen = vec![0; whole.len()];
    // Through the guest's mapping, which was there before.
    guest
        .memory
        .read_slice(&mut seen, GuestAddress(FREE))
        .expect("memory");
    assert_eq!(seen, [&whole[..4096], &fill, &whole[..4096]].concat());
    assert_eq!(heal(&mut guest, FREE + 4096, None).0, Code::Ok);
    guest
        .memory
        .read_slice(&mut seen, GuestAddress(FREE))
        .expect("memory");
    assert_eq!(seen, [&whole[..4096], &[0; 4096], &whole[..4096]].concat());
    assert_eq!(heal(&mut guest, RAM_BYTES, None).0, Code::Memory);
    assert_eq!(heal(&mut guest, FREE + 1, None).0, Code::Value);

    let rescue = |guest: &mut Guest, address| guest.ask(Kind::Rescue, &Rescue { address }.encode());
    assert_eq!(rescue(&mut guest, FREE), (Code::Ok, whole[..4096].to_vec()));
    assert_eq!(rescue(&mut guest, RAM_BYTES).0, Code::Memory);
    let status = status(&mut guest);
    assert_eq!((status.healed, status.unhealed, status.rescued), (2, 2, 1));
}

/// HEAL of a frame that holds 7s, in a guest whose memory is this file, after `change` was made to it:
/// how it ended, and what is in the frame then.
fn heal_in(file: File, change: impl Fn(&File)) -> (Code, Vec<u8>) {
    file.set_len(RAM_BYTES).expect("it grows");
    file.write_all_at(&[7; 4096], FREE).expect("a file");
    let kept = file.try_clone().expect("a descriptor");
    let folder = folder();
    let process = Process::start(folder.path(), &[]);
    let mut guest = Guest::connect_with(&process, file);
    guest.hello(false);
    change(&kept);
    let heal = Heal {
        address: FREE,
        idle: Frames::ALL,
        fill: None,
    };
    let code = guest.ask(Kind::Heal, &heal.encode()).0;
    let mut bytes = vec![0; 4096];
    kept.read_exact_at(&mut bytes, FREE).expect("memory");
    (code, bytes)
}

#[test]
fn no_hole_is_made_where_nothing_could_be_put_into_it() {
    use rustix::fs::{fallocate, fcntl_add_seals, memfd_create};
    use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
    const TMPFS: u64 = 0x0102_1994;
    // A file on a disk: its pages are not the service's to replace.
    let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).expect("a file");
    let kind = rustix::fs::fstatfs(&file).expect("a file").f_type as u64;
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if kind == TMPFS || fallocate(&file, hole, 0, 4096).is_err() {
        eprintln!("there is no disk whose files may have holes, so nothing is seen of them");
    } else {
        assert_eq!(heal_in(file, |_| ()), (Code::Unsupported, vec![7; 4096]));
    }
    // Memory of which the host allows no hole.
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(memfd_create(c"guest", flags).expect("a memfd"));
    let seal = |file: &File| fcntl_add_seals(file, SealFlags::FUTURE_WRITE).expect("it is sealed");
    assert_eq!(heal_in(file, seal), (Code::Denied, vec![7; 4096]));
}

#[test]
fn healing_can_be_forbidden() {
    let folder = folder();
    let process = Process::start(folder.path(), &["--heal", "false"]);
    let mut guest = Guest::connect(&process);
    assert_eq!(
        guest.hello(false).features & (features::HEAL | features::RESCUE),
        0
    );
    guest
        .memory
        .write_obj(7u8, GuestAddress(FREE))
        .expect("memory");
    let heal = Heal {
        address: FREE,
        idle: Frames::ALL,
        fill: None,
    };
    assert_eq!(guest.ask(Kind::Heal, &heal.encode()).0, Code::Unsupported);
    let mut byte = [0];
    guest.file.read_exact_at(&mut byte, FREE).expect("memory");
    assert_eq!(byte, [7]);
}

#[test]
fn metrics_are_served_on_a_socket() {
    let folder = folder();
    let path = folder.path().join("metrics.sock");
    let flag = format!("unix:{}", path.display());
    let process = Process::start(folder.path(), &["--metrics", &flag, "--pool", "64K"]);
    let mut guest = Guest::connect(&process);
    guest.hello(false);
    assert_eq!(store(&mut guest, 1, hash(&page(1)), &page(1)), Code::Ok);
    let ask = |what: &str| {
        let mut stream = UnixStream::connect(&path).expect("it listens");
        write!(
            stream,
            "{what} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it answers");
        text
    };
    let text = ask("GET /metrics");
    for line in [
        "kmirrord_requests_total{kind=\"store\",code=\"ok\"} 1",
        "kmirrord_pool_slots 16",
        "kmirrord_pool_used_slots 1",
        "kmirrord_connected 1",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line} not in\n{text}");
    }
    assert!(ask("GET /").starts_with("HTTP/1.1 404"));
    assert!(ask("POST /metrics").starts_with("HTTP/1.1 405"));
}
