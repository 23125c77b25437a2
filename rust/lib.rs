// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers for the C interfaces that the `kernel` crate lacks.
//!
//! One file for each C header, in the shape that it would have in `rust/kernel/`. This crate has
//! all of the module's `unsafe`; it knows nothing about what is done with it.

pub mod cgroup;
mod helpers;
pub mod kobject;
pub mod kthread;
pub mod kvm_para;
pub mod mce;
pub mod memory_hotplug;
pub mod memory_mirror;
pub mod mm;
pub mod notifier;
pub mod oom;
pub mod page_block;
pub mod scratch;
pub mod trace;
pub mod virtio;
pub mod xarray;
