// SPDX-License-Identifier: GPL-2.0

//! What kmirrorctl knows: how to read `/sys/kernel/kmirror`, and how to show it.
//!
//! Reading goes one way, and everything below one root directory, so that tests have systems of their
//! own making:
//!
//! ```text
//! system -> keyed, group, region -> tree -> snapshot -> rate -> table, JSON
//! ```
//!
//! - [`system`]: where things are; [`keyed`]: lines of "key number"; [`group`], [`region`], [`tree`],
//!   [`worker`]: what sysfs and procfs say;
//! - [`snapshot`], [`rate`], [`event_watch`]: at one moment, between two, and whatever comes;
//! - [`setting`]: what is changed;
//! - [`finding`], [`setup`], [`shortfall`], [`page`]: what is wrong with the system, a cgroup, a page,
//!   from [`process`], [`pageflags`], [`replica_list`];
//! - [`drill`]: breaking a page on purpose;
//! - live: [`top`];
//! - [`history`], [`chart`]: over time, as a picture;
//! - [`metrics`]: for Prometheus; [`unit_file`]: from systemd;
//! - [`table`], [`units`], [`paint`]: for people;
//! - [`cli`], [`command`], [`error`]: the program.

#![forbid(unsafe_code)]

pub mod chart;
pub mod cli;
pub mod command;
pub mod drill;
pub mod error;
pub mod event_watch;
pub mod finding;
pub mod group;
pub mod history;
pub mod keyed;
pub mod metrics;
pub mod page;
pub mod pageflags;
pub mod paint;
pub mod process;
pub mod rate;
pub mod region;
pub mod replica_list;
pub mod service;
pub mod setting;
pub mod setup;
pub mod shortfall;
pub mod snapshot;
pub mod system;
pub mod table;
pub mod top;
pub mod tree;
pub mod unit_file;
pub mod units;
pub mod worker;
