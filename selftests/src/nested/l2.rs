// SPDX-License-Identifier: GPL-2.0

//! L2, as L1 sees it: starting it, breaking its memory, listening to it.

use super::backing::Backing;
use super::qmp::Qmp;
use crate::file;
use anyhow::{ensure, Context, Result};
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
    pub fn start(options: &[&str]) -> Result<Self> {
        let status = Command::new("l2-start").args(options).status();
        let status = status.context("l2-start")?;
        ensure!(status.success(), "L2 does not start");
        Self::running()
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
