// SPDX-License-Identifier: GPL-2.0

//! A real kmirrord, and a front end that stands for QEMU and the guest. No machine is needed, nor
//! any privilege; what takes a second NUMA node or memory that breaks is in selftests/.

mod abuse;
mod front_end;
mod queue;
mod relay;
mod requests;
