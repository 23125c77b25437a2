// SPDX-License-Identifier: GPL-2.0

//! The soak: random mixes of everything that programs, the kernel and broken hardware do to memory,
//! for as long as one likes, with every byte known.
//!
//! - [`step`], [`generator`]: what is done, and who thinks of it;
//! - [`model`], [`content`], [`kind`]: what must be in which page, and the kinds of memory;
//! - [`director`], [`influence`], [`strike`]: who does it, to processes, to the kernel, to frames;
//! - [`sandbox`], [`machine`], [`trace`], [`ledger`]: cgroups and processes, disks, what the kernel
//!   says, what may be lost;
//! - [`actor`], [`view`], [`deed`], [`advice`], [`uring`], [`lost`], [`place`], [`wire`]: a process;
//! - [`shorten`]: a run that fails is made as short as can be.

mod actor;
mod advice;
mod content;
mod deed;
mod director;
mod generator;
mod influence;
mod kind;
mod ledger;
mod lost;
mod machine;
mod model;
pub(crate) mod place;
mod run;
mod sandbox;
mod shorten;
mod step;
mod strike;
mod trace;
mod uring;
mod verdict;
mod view;
mod wire;

pub use run::{soak, Options, Report};

use anyhow::{Context, Result};

/// The life of a process that the director has started with these arguments.
pub fn serve(args: &[String]) -> Result<()> {
    let id = args.first().context("an actor is not started by hand")?;
    actor::serve(id.parse()?)
}
