// SPDX-License-Identifier: GPL-2.0

//! What is measured apart from any workload: restoring a page, copying pages, and memory for accounts.

mod copy;
mod metadata;
mod restore;

use anyhow::Result;
use kmirror_selftests::cgroup::Cgroup;
use kmirror_selftests::mirror::Mirror;
use kmirror_selftests::module;
use nix::time::{clock_gettime, ClockId};
use serde::Serialize;
use serde_json::json;
use std::time::{Duration, Instant};

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Restore,
    Copy,
    Metadata,
}

impl Kind {
    /// By the name in settings and results.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "restore" => Self::Restore,
            "copy" => Self::Copy,
            "metadata" => Self::Metadata,
            _ => return None,
        })
    }

    /// Measures it; the line for the host.
    pub(crate) fn measure(self) -> Result<String> {
        let (name, found) = match self {
            Self::Restore => ("restore", json!(restore::measure()?)),
            Self::Copy => ("copy", json!(copy::measure()?)),
            Self::Metadata => ("metadata", json!(metadata::measure()?)),
        };
        Ok(json!({ "probe": name, "found": found }).to_string())
    }
}

/// A cgroup that is protected, with kmirror loaded; epochs only run when asked for.
fn protected(name: &str, region: u64) -> Result<(Cgroup, Mirror)> {
    if !module::is_loaded("kmirror") {
        module::load_kmirror(&format!("region={region}"))?;
    }
    let cgroup = Cgroup::at("/").child(name)?;
    let mirror = Mirror::of(&cgroup);
    mirror.track()?;
    Ok((cgroup, mirror))
}

/// How long something took, several times over.
#[derive(Debug, Default, Serialize)]
struct Times {
    /// By the clock.
    elapsed_ns: Vec<u64>,
    /// CPU time of whoever did it: less, if others worked for it.
    cpu_ns: Vec<u64>,
}

impl Times {
    fn take<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let cpu =
            || -> Result<Duration> { Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into()) };
        let (start, before) = (Instant::now(), cpu()?);
        let result = work()?;
        let (after, elapsed) = (cpu()?, start.elapsed());
        self.elapsed_ns.push(u64::try_from(elapsed.as_nanos())?);
        self.cpu_ns
            .push(u64::try_from((after - before).as_nanos())?);
        Ok(result)
    }
}
