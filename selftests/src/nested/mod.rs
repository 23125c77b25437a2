// SPDX-License-Identifier: GPL-2.0

//! A guest (L2) in a guest (L1): machine checks that are true ones, and a host that can be asked to
//! break memory. See `tools/nested/`, which starts both.
//!
//! - [`suite`], [`agent`]: in L1, one boot of L2, and what L2 asks for meanwhile;
//! - [`l2`], [`qmp`], [`backing`], [`kvm`]: L1's view of L2, and the memory behind a frame;
//! - [`service`]: kmirrord, and its end in the middle of what it does;
//! - [`port`]: how L2 asks;
//! - [`cases`], [`strike`]: in L2, what is tested there, as in [`crate::cases`].

pub mod agent;
pub mod backing;
pub mod cases;
pub mod kvm;
pub mod l2;
pub mod port;
pub mod qmp;
pub mod service;
pub mod strike;
pub mod suite;
