// SPDX-License-Identifier: GPL-2.0

//! What the tests need on the other side of the socket: kmirrord as a process, and a front end that
//! stands for QEMU and the guest, with a queue built by hand.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::time::{Duration, Instant};

use kmirror_core::wire::{
    AnswerHeader, Code, Hello, HelloAnswer, Kind, RequestHeader, HEADER_BYTES, QUEUE, VERSIONS,
};
use rustix::event::{poll, PollFd, PollFlags};
use rustix::fs::MemfdFlags;
use tempfile::TempDir;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

/// Longer than anything takes, also on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// kmirrord, running. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    log: Receiver<String>,
    pub(crate) socket: PathBuf,
}

impl Process {
    /// Starts it with `flags`, listening in `folder`, and waits until it is ready.
    pub(crate) fn start(folder: &Path, flags: &[&str]) -> Self {
        let socket = folder.join("kmirrord.sock");
        let flag = socket.to_str().expect("a path");
        Self::spawn(&socket, &[&["--socket", flag], flags].concat())
    }

    /// Starts it with `flags` and nothing else; its socket is at `socket`.
    pub(crate) fn spawn(socket: &Path, flags: &[&str]) -> Self {
        Self::program(env!("CARGO_BIN_EXE_kmirrord"), socket, flags)
    }

    /// A relay before the service that listens at `service`.
    pub(crate) fn relay(folder: &Path, service: &Path) -> Self {
        let socket = folder.join("relay.sock");
        let flags = [&socket, service].map(|path| path.to_str().expect("a path"));
        let flags = ["--socket", flags[0], "--service", flags[1]];
        Self::program(env!("CARGO_BIN_EXE_kmirrord-relay"), &socket, &flags)
    }

    fn program(program: &str, socket: &Path, flags: &[&str]) -> Self {
        let socket = socket.to_path_buf();
        let mut child = Command::new(program)
            .args(["--log", "json", "--log-level", "debug"])
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .expect("kmirrord starts");
        let stderr = child.stderr.take().expect("it is piped");
        let (sender, log) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("kmirrord: {line}");
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let process = Self { child, log, socket };
        process.wait_for("ready");
        process
    }

    /// Waits for a line of the log with this message.
    pub(crate) fn wait_for(&self, message: &str) -> serde_json::Value {
        let end = Instant::now() + LONG;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self
                .log
                .recv_timeout(left)
                .unwrap_or_else(|e| panic!("kmirrord has not said '{message}': {e}"));
            let Ok(line) = serde_json::from_str::<serde_json::Value>(&line) else {
                panic!("a line of the log that is no JSON: {line}");
            };
            if line["fields"]["message"] == message {
                return line;
            }
        }
    }

    /// Is it still there?
    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().expect("it is ours").is_none()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One descriptor of a chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) address: u64,
    pub(crate) bytes: u32,
    pub(crate) writable: bool,
}

/// Bytes of guest memory, from guest-physical 0 on.
pub(crate) const RAM_BYTES: u64 = 16 << 20;
/// Where the tests may do what they like.
pub(crate) const FREE: u64 = 8 << 20;
const ENTRIES: u16 = 16;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const REQUEST: u64 = 0x1_0000;
const ANSWER: u64 = 0x2_0000;

/// A guest whose memory is a memfd, and the QEMU around it.
pub(crate) struct Guest {
    front_end: Frontend,
    pub(crate) memory: GuestMemoryMmap,
    pub(crate) file: File,
    kick: EventFd,
    call: EventFd,
    available: u16,
    seen: u16,
    ids: u64,
    pub(crate) version: u16,
    pub(crate) instance: u64,
}

impl Guest {
    /// Connects to `process` and starts the queue.
    pub(crate) fn connect(process: &Process) -> Self {
        let file =
            File::from(rustix::fs::memfd_create(c"guest", MemfdFlags::CLOEXEC).expect("a memfd"));
        file.set_len(RAM_BYTES).expect("it grows");
        Self::connect_with(process, file)
    }

    /// The same for a connection that is there.
    pub(crate) fn connect_to(stream: UnixStream) -> Self {
        let file =
            File::from(rustix::fs::memfd_create(c"guest", MemfdFlags::CLOEXEC).expect("a memfd"));
        file.set_len(RAM_BYTES).expect("it grows");
        Self::start(Frontend::from_stream(stream, 1), file)
    }

    /// The same with memory that is there already.
    pub(crate) fn connect_with(process: &Process, file: File) -> Self {
        let front_end = Frontend::connect(&process.socket, 1).expect("it listens");
        Self::start(front_end, file)
    }

    fn start(mut front_end: Frontend, file: File) -> Self {
        let kept = file.try_clone().expect("a descriptor");
        let region = MmapRegionBuilder::new(RAM_BYTES as usize)
            .with_file_offset(FileOffset::new(file, 0))
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED)
            .build()
            .expect("a mapping");
        let region = GuestRegionMmap::new(region, GuestAddress(0)).expect("a region");
        let info = VhostUserMemoryRegionInfo::from_guest_region(&region).expect("it has a file");
        let base = info.userspace_addr;
        let bytes = region.len();
        let memory = GuestMemoryMmap::from_regions(vec![region]).expect("one region");
        assert_eq!(bytes, RAM_BYTES);
        // The rings of whoever used the memory before.
        for ring in [AVAILABLE, USED] {
            memory
                .write_slice(&[0; 4096], GuestAddress(ring))
                .expect("it is memory");
        }

        front_end.set_owner().expect("SET_OWNER");
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let features = front_end.get_features().expect("GET_FEATURES");
        assert_ne!(features & protocol, 0);
        // VIRTIO_F_VERSION_1, and the protocol's.
        front_end
            .set_features(1 << 32 | protocol)
            .expect("SET_FEATURES");
        let offered = front_end.get_protocol_features().expect("features");
        assert!(offered.contains(VhostUserProtocolFeatures::CONFIG));
        front_end
            .set_protocol_features(VhostUserProtocolFeatures::CONFIG)
            .expect("features");
        front_end.set_mem_table(&[info]).expect("SET_MEM_TABLE");
        let queue = usize::from(QUEUE);
        let kick = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        let call = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        front_end
            .set_vring_num(queue, ENTRIES)
            .expect("SET_VRING_NUM");
        let config = VringConfigData {
            queue_max_size: ENTRIES,
            queue_size: ENTRIES,
            flags: 0,
            desc_table_addr: base + DESCRIPTORS,
            used_ring_addr: base + USED,
            avail_ring_addr: base + AVAILABLE,
            log_addr: None,
        };
        front_end
            .set_vring_addr(queue, &config)
            .expect("SET_VRING_ADDR");
        front_end.set_vring_base(queue, 0).expect("SET_VRING_BASE");
        front_end
            .set_vring_call(queue, &call)
            .expect("SET_VRING_CALL");
        front_end
            .set_vring_kick(queue, &kick)
            .expect("SET_VRING_KICK");
        front_end
            .set_vring_enable(queue, true)
            .expect("SET_VRING_ENABLE");
        // The last message has no answer; this one has, so all before it have been worked off.
        front_end.get_features().expect("GET_FEATURES");
        Self {
            front_end,
            memory,
            file: kept,
            kick,
            call,
            available: 0,
            seen: 0,
            ids: 0,
            version: 0,
            instance: 0,
        }
    }

    /// The device's configuration space.
    pub(crate) fn config(&mut self) -> Vec<u8> {
        let flags = vhost::vhost_user::message::VhostUserConfigFlags::empty();
        let config = self.front_end.get_config(0, 16, flags, &[0; 16]);
        config.expect("GET_CONFIG").1
    }

    /// Stops the queue, as QEMU does when the guest resets the device; where it has come to.
    pub(crate) fn stop(&mut self) -> u32 {
        let stopped = self.front_end.get_vring_base(usize::from(QUEUE));
        stopped.expect("GET_VRING_BASE")
    }

    fn put(&self, bytes: &[u8], address: u64) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .expect("it is memory");
    }

    fn get<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .expect("it is memory");
        bytes
    }

    /// Writes a descriptor; `next` 0 ends the chain.
    pub(crate) fn descriptor(&self, at: u16, address: u64, bytes: u32, flags: u16, next: u16) {
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&address.to_le_bytes());
        descriptor[8..12].copy_from_slice(&bytes.to_le_bytes());
        descriptor[12..14].copy_from_slice(&flags.to_le_bytes());
        descriptor[14..].copy_from_slice(&next.to_le_bytes());
        self.put(&descriptor, DESCRIPTORS + u64::from(at) * 16);
    }

    /// Makes the chain that begins at descriptor `head` available, and kicks.
    pub(crate) fn submit(&mut self, head: u16) {
        let slot = u64::from(self.available % ENTRIES);
        self.put(&head.to_le_bytes(), AVAILABLE + 4 + 2 * slot);
        self.available = self.available.wrapping_add(1);
        self.publish(self.available);
    }

    /// Says that the ring has come to `index`, and kicks.
    pub(crate) fn publish(&self, index: u16) {
        self.put(&index.to_le_bytes(), AVAILABLE + 2);
        self.kick.write(1).expect("an eventfd");
    }

    /// Takes the kick away, as a service does that dies before it looks at the queue.
    pub(crate) fn take_kick(&self) {
        self.kick.read().expect("somebody has kicked");
    }

    /// Submits a chain of `pieces` and waits: bytes that the device says it has written.
    pub(crate) fn send(&mut self, pieces: &[Piece]) -> u32 {
        for (at, piece) in pieces.iter().enumerate() {
            let next = u16::from(at + 1 < pieces.len());
            let flags = next | u16::from(piece.writable) << 1;
            self.descriptor(
                at as u16,
                piece.address,
                piece.bytes,
                flags,
                next * (at as u16 + 1),
            );
        }
        self.submit(0);
        self.wait().expect("an answer")
    }

    /// Waits for the next used chain; `None` when the connection ends before.
    pub(crate) fn wait(&mut self) -> Option<u32> {
        let end = Instant::now() + LONG;
        loop {
            let used = u16::from_le_bytes(self.get(USED + 2));
            if used != self.seen {
                let slot = u64::from(self.seen % ENTRIES);
                self.seen = self.seen.wrapping_add(1);
                return Some(u32::from_le_bytes(self.get(USED + 4 + 8 * slot + 4)));
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no answer");
            let mut ready = [
                PollFd::from_borrowed_fd(borrow(&self.call), PollFlags::IN),
                PollFd::from_borrowed_fd(borrow(&self.front_end), PollFlags::RDHUP),
            ];
            poll(&mut ready, left.as_millis() as i32).expect("poll");
            if ready[0].revents().contains(PollFlags::IN) {
                let _ = self.call.read();
            } else if !ready[1].revents().is_empty() {
                return None;
            }
        }
    }

    /// Is a chain used within so short a time that one is only hoped for?
    pub(crate) fn used(&self) -> bool {
        u16::from_le_bytes(self.get(USED + 2)) != self.seen
    }

    /// The header of a request with the next number.
    pub(crate) fn header(&mut self, kind: Kind, length: usize) -> RequestHeader {
        self.ids += 1;
        let hello = kind == Kind::Hello;
        RequestHeader {
            version: if hello { 0 } else { self.version },
            kind: kind.number(),
            id: self.ids,
            length: length as u32,
            instance: if hello { 0 } else { self.instance },
        }
    }

    /// Asks, with room for the right answer: its code and what follows its header.
    pub(crate) fn ask(&mut self, kind: Kind, body: &[u8]) -> (Code, Vec<u8>) {
        let header = self.header(kind, body.len());
        self.ask_as(&header, body, HEADER_BYTES + kind.answer_bytes())
    }

    /// The same with another header, and another room.
    pub(crate) fn ask_as(
        &mut self,
        header: &RequestHeader,
        body: &[u8],
        room: usize,
    ) -> (Code, Vec<u8>) {
        self.put(&header.encode(), REQUEST);
        self.put(body, REQUEST + HEADER_BYTES as u64);
        // What is not written must not look like an answer.
        self.put(&vec![0xee; room], ANSWER);
        let split = room.min(HEADER_BYTES) as u32;
        let mut pieces = vec![Piece {
            address: REQUEST,
            bytes: HEADER_BYTES as u32,
            writable: false,
        }];
        if !body.is_empty() {
            pieces.push(Piece {
                address: REQUEST + HEADER_BYTES as u64,
                bytes: body.len() as u32,
                writable: false,
            });
        }
        pieces.push(Piece {
            address: ANSWER,
            bytes: split,
            writable: true,
        });
        if room > HEADER_BYTES {
            pieces.push(Piece {
                address: ANSWER + HEADER_BYTES as u64,
                bytes: (room - HEADER_BYTES) as u32,
                writable: true,
            });
        }
        let used = self.send(&pieces) as usize;
        let answer = AnswerHeader::parse(&self.get(ANSWER), used, header).expect("an answer");
        assert!(
            answer.instance == self.instance
                || header.kind == Kind::Hello.number()
                || answer.code == Code::Instance
        );
        self.instance = answer.instance;
        let mut rest = vec![0; answer.length as usize];
        self.memory
            .read_slice(&mut rest, GuestAddress(ANSWER + HEADER_BYTES as u64))
            .expect("it is memory");
        (answer.code, rest)
    }

    /// HELLO, as a guest that has just booted, or that knows what is in the pool.
    pub(crate) fn hello(&mut self, keep: bool) -> HelloAnswer {
        let hello = Hello {
            lowest: VERSIONS.0,
            highest: VERSIONS.1,
            keep,
            features: u64::MAX,
        };
        let (code, body) = self.ask(Kind::Hello, &hello.encode());
        assert_eq!(code, Code::Ok);
        let answer = HelloAnswer::parse(&body).expect("an answer to HELLO");
        self.version = answer.version;
        answer
    }
}

fn borrow<T: AsRawFd>(owner: &T) -> rustix::fd::BorrowedFd<'_> {
    // SAFETY: Both types that are passed here keep their descriptor open as long as they live, and
    // are borrowed.
    unsafe { rustix::fd::BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}

/// A folder for the sockets of one test.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}
