// SPDX-License-Identifier: GPL-2.0

//! L2, as L1 sees it: starting it, breaking its memory, listening to it.

use super::backing::Backing;
use super::qmp::Qmp;
use crate::file;
use anyhow::{bail, Context, Result};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::process::Command;

/// A running L2.
#[derive(Debug)]
pub struct L2 {
    qemu: u32,
}

/// A place that tools/nested/host has chosen.
pub fn place(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os(name).with_context(|| format!("{name} is not set"))?;
    Ok(path.into())
}

impl L2 {
    /// Starts one, with the options of l2-start.
    ///
    /// A virtual machine in an emulated one sometimes stands still in the middle of its kernel's boot,
    /// long before there is anything of ours in it. So it has a second chance.
    pub fn start(options: &[&str]) -> Result<Self> {
        for _ in 0..2 {
            let status = Command::new("l2-start").args(options).status();
            if status.context("l2-start")?.success() {
                return Self::running();
            }
            println!("# L2 has not started");
            // It would go on taking a processor from those that come after it.
            if let Ok(l2) = Self::running() {
                let _ = l2.kill();
            }
        }
        bail!("L2 does not start")
    }

    /// Ends it at once.
    pub fn kill(&self) -> Result<()> {
        Ok(kill(
            Pid::from_raw(i32::try_from(self.qemu)?),
            Signal::SIGKILL,
        )?)
    }

    /// The one that is running.
    pub fn running() -> Result<Self> {
        let qemu = file::number(place("L2_DIR")?.join("pid"))?;
        Ok(Self {
            qemu: u32::try_from(qemu)?,
        })
    }

    /// The process of QEMU.
    pub fn qemu(&self) -> u32 {
        self.qemu
    }

    /// QEMU's monitor.
    pub fn monitor(&self) -> Result<Qmp> {
        Qmp::connect(&place("L2_QMP")?)
    }

    /// What is behind a frame.
    pub fn backing(&self, frame: u64) -> Result<Backing> {
        Backing::of(&mut self.monitor()?, self.qemu, frame)
    }
}
