// SPDX-License-Identifier: GPL-2.0

//! Memory of the kernel that nobody knows of any more, as `CONFIG_DEBUG_KMEMLEAK` finds it.

use crate::file;
use anyhow::{Context as _, Result};
use std::path::Path;
use std::time::{Duration, Instant};

const FILE: &str = "/sys/kernel/debug/kmemleak";

/// The kernel does not call an object lost that is younger (`MSECS_MIN_AGE` in mm/kmemleak.c).
const MIN_AGE: Duration = Duration::from_millis(5000);

/// The search, from a moment on.
#[derive(Debug)]
pub struct Search(());

impl Search {
    /// Forgets what is lost now. `None` if the kernel does not look for such memory.
    pub fn from_now() -> Result<Option<Self>> {
        if !Path::new(FILE).exists() {
            return Ok(None);
        }
        file::write(FILE, "scan")?;
        file::write(FILE, "clear").context("kmemleak has given up, says the log")?;
        Ok(Some(Self(())))
    }

    /// What has been lost since, as the kernel describes it, and is old enough by now.
    pub fn lost(&self) -> Result<String> {
        let start = Instant::now();
        while start.elapsed() <= MIN_AGE {
            file::write(FILE, "scan")?;
        }
        // An object is only reported by a scan that finds it as the one before has.
        for _ in 0..2 {
            file::write(FILE, "scan")?;
        }
        file::read(FILE)
    }
}
