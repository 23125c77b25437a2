// SPDX-License-Identifier: GPL-2.0

//! System calls that no crate at hand wraps, or not safely. All `unsafe` of kmirrord is here.

#![allow(unsafe_code)]

pub mod landlock;
pub mod mapping;
pub mod numa;
pub mod sigbus;
pub mod socket;
