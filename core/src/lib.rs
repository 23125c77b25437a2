// SPDX-License-Identifier: GPL-2.0

//! What kmirror decides and remembers, without a kernel in it.
//!
//! The module asks this crate which page to copy now, into which slot of the mirror region its
//! replica goes, and what a line written to sysfs means; the crate never touches a page. So all of
//! it runs, and is tested, on the host.
//!
//! From a page to its replica:
//!
//! ```text
//! pfn --Map--> Slot --blocks[slot.block()]--> Block --entries[slot.index()]--> Record, hash
//! ```
//!
//! - [`slot`]: its name; [`block`]: the 512 slots of 2 MiB; [`record`]: what a slot remembers;
//! - [`region`]: which block has room;
//! - [`index`]: page to replica, and who pays for it; [`sweep`]: dropping what nobody uses;
//! - [`epoch`]: copy a page when it rests; [`interval`]: when the next epoch begins;
//! - [`fill`]: pages that take no memory;
//! - [`mode`], [`place`], [`size`], [`text`]: what users write; [`stat`]: what they read;
//! - [`wire`]: what is said to the host's service, and what it answers.
//!
//! Nothing here allocates, locks or sleeps, and no function panics, whatever it is given.

#![cfg_attr(not(any(test, MODULE)), no_std)]
#![forbid(unsafe_code)]

mod bitmap;
pub mod block;
pub mod epoch;
pub mod fill;
pub mod index;
pub mod interval;
pub mod mode;
pub mod place;
pub mod record;
pub mod region;
pub mod size;
pub mod slot;
pub mod stat;
pub mod sweep;
pub mod text;
pub mod wire;

pub use block::{Backing, Block, Entries, Entry};
pub use epoch::{on_dirty, on_dirty_huge, on_first_dirty, on_rest, Decision, Heat};
pub use fill::filling_word;
pub use index::{ClaimError, Map, NoMemory, Replica, Replicas, Usage};
pub use interval::{next_deadline, Deadline, Interval};
pub use mode::Mode;
pub use place::Place;
pub use record::{Owner, Record};
pub use region::{Region, Totals};
pub use size::{Limit, RegionSize, RegionSpec};
pub use slot::{Slot, SlotIndex, BLOCK_BYTES, SLOTS_PER_BLOCK};
pub use stat::{coverage_ppm, Refusal, Survey, Work};
pub use sweep::{slice, Cursor, Swept, Verdict};
pub use text::ParseError;
