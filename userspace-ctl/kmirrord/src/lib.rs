// SPDX-License-Identifier: GPL-2.0

//! kmirrord is the host's half of kmirror: one process for one virtual machine.
//!
//! From a request to its answer:
//!
//! ```text
//! QEMU --socket--> server --> device --> chain --> service --> pool | place | heal
//! ```
//!
//! - [`server`] accepts QEMU's connection, again and again; [`device`] is what it then speaks to;
//! - [`chain`] copies a request out of guest memory, once, and its answer into it;
//! - [`service`] decides: which session, which request, which answer;
//! - [`pool`] holds replicas, [`place`] puts memory on a node, [`heal`] replaces broken pages;
//! - [`ram`] is the guest's memory, [`nodes`] the host's;
//! - [`cli`] and [`config`] are what the administrator says, [`metrics`] and [`journal`] what is
//!   said to them;
//! - [`relay`] is the other program, kmirrord-relay, which keeps QEMU's connection meanwhile when this one
//!   is started anew;
//! - [`confine`] takes away from the process what it does not need;
//! - [`sys`] has the system calls, and all of the crate's `unsafe`.
//!
//! # Trust
//!
//! The guest is believed nothing. Its memory is only ever reached by volatile copies (`vm-memory`),
//! never by a reference, because it changes whenever the guest likes; each descriptor is read once.
//! QEMU is believed in what memory it shares; it could do nothing to the service but leave.

#![deny(unsafe_code)]

pub mod chain;
pub mod cli;
pub mod config;
pub mod confine;
pub mod device;
pub mod heal;
pub mod journal;
pub mod metrics;
pub mod nodes;
pub mod place;
pub mod pool;
pub mod ram;
pub mod relay;
pub mod server;
pub mod service;
pub mod socket;
pub mod sys;
