// SPDX-License-Identifier: GPL-2.0

//! What the guest's module and the host's service say to each other.
//!
//! Both speak through one virtio queue. A request is one chain of descriptors, first what the
//! device may read, then what it may write:
//!
//! ```text
//! readable   | request header, 32 |  body  | data, 4096 (STORE, HEAL with FILL) |
//! writable   | answer header, 32  |  body  | data, 4096 (FETCH, RESCUE)         |
//! ```
//!
//! Where one descriptor ends and the next begins means nothing. The readable part is exactly as
//! long as the header says; the writable part has room for at least the header of an answer, and
//! for the whole answer if the request is to succeed. What the device has used (`used.len`) is
//! what it has written: all of the answer, or 0 if there was not even room for a header.
//!
//! Many requests may be under way, and answers come in any order. All numbers are little-endian,
//! all offsets in bytes, every field that is called *reserved* is 0 and refused otherwise. A
//! request is parsed once, from a copy that nobody else can change, into a [`Request`]; its length
//! and values are checked there and nowhere later.
//!
//! | kind | request | answer | what |
//! |---|---|---|---|
//! | 1 `HELLO` | [`Hello`] | [`HelloAnswer`] | which version, what the service can and holds |
//! | 2 `PLACE` | [`Place`] | [`PlaceAnswer`] | keep memory on another node, locked; where is it? |
//! | 3 `HEAL` | [`Heal`] | [`HealAnswer`] | fresh backing for a broken frame |
//! | 4 `STORE` | [`Store`] | none | keep 4 KiB under a slot's number |
//! | 5 `FETCH` | [`Fetch`] | [`FetchAnswer`] | give them back |
//! | 6 `DROP` | [`Drop`] | [`DropAnswer`] | forget them |
//! | 7 `STATUS` | none | [`Status`] | counters |
//! | 8 `RESCUE` | [`Rescue`] | none, 4 KiB of data | bytes behind a frame that cannot be read |
//!
//! # Versions
//!
//! The header and the body of HELLO never change. HELLO carries the version 0 in its header; each
//! later request carries the one that was agreed on. Within a version nothing changes but by new
//! bits of [`features`], which both sides must have.
//!
//! # Instances
//!
//! A service that was started again has an empty pool. Each start has another random *instance*,
//! which is in every answer and in every request but HELLO, so a request that was meant for the
//! one before is refused with [`Code::Instance`] and has no effect. A guest that gets this says
//! HELLO again.
//!
//! # Trust
//!
//! The service believes nothing that a guest says. The guest believes an answer as far as it can
//! check it: it has a hash of its own for each replica, and reads a healed frame before it uses it.

mod bytes;
pub mod code;
pub mod config;
pub mod header;
pub mod heal;
pub mod hello;
pub mod kind;
pub mod place;
pub mod request;
pub mod status;
pub mod store;

pub use code::Code;
pub use config::Config;
pub use header::{AnswerHeader, RequestHeader, Rubbish, HEADER_BYTES};
pub use heal::{Frames, Heal, HealAnswer, Rescue};
pub use hello::{features, Domain, Domains, Hello, HelloAnswer, MAX_DOMAINS, NO_NODE};
pub use kind::Kind;
pub use place::{placed, Place, PlaceAnswer, Range, MAX_RANGES};
pub use request::{Request, MAX_ANSWER_BYTES, MAX_REQUEST_BYTES};
pub use status::Status;
pub use store::{Drop, DropAnswer, Fetch, FetchAnswer, Store};

/// The versions of the format that this code speaks: lowest and highest.
pub const VERSIONS: (u16, u16) = (1, 1);

/// Bytes of data that go with a STORE, a filling HEAL, a FETCH or a RESCUE: one page.
pub const DATA_BYTES: usize = 4096;

/// The number of a virtio device that is kmirror's host service. QEMU's generic vhost-user device
/// takes only numbers that have a name, so this is that of the parameter server
/// (`VIRTIO_ID_PARAM_SERV`), for which nobody has ever specified a device or written a driver. It is
/// not ours, so a driver looks at [`Config`] before it says anything.
pub const VIRTIO_ID: u32 = 38;

/// Index of the one queue, for requests.
pub const QUEUE: u16 = 0;
