// SPDX-License-Identifier: GPL-2.0

//! One window of a workload's work, and what kmirror did meanwhile.

use crate::tenant::{Done, Tenant};
use anyhow::{bail, Context, Result};
use kmirror_selftests::file;
use kmirror_selftests::mirror::Mirror;
use nix::time::{clock_gettime, ClockId};
use nix::unistd::Pid;
use serde::Serialize;
use std::time::Duration;

/// What all first copies together may take, at least.
const FIRST: Duration = Duration::from_secs(30);

/// The counters of `mirror.stat` that grow with work.
const COUNTERS: [&str; 7] = [
    "epochs", "late", "scanned", "copied", "deferred", "scan_ns", "copy_ns",
];

/// What kmirror did in a window.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Effort {
    /// Epochs that ended in the window.
    pub(crate) epochs: u64,
    pub(crate) late: u64,
    pub(crate) scanned: u64,
    pub(crate) copied: u64,
    pub(crate) deferred: u64,
    pub(crate) scan_ns: u64,
    pub(crate) copy_ns: u64,
    /// CPU time of its thread, all in all.
    pub(crate) worker_ns: u64,
}

/// The counters at one moment.
#[derive(Clone, Debug, Default)]
struct Reading {
    counters: [u64; COUNTERS.len()],
    worker_ns: u64,
}

impl Reading {
    fn since(&self, before: &Self) -> Effort {
        let grown = |index: usize| self.counters[index] - before.counters[index];
        Effort {
            epochs: grown(0),
            late: grown(1),
            scanned: grown(2),
            copied: grown(3),
            deferred: grown(4),
            scan_ns: grown(5),
            copy_ns: grown(6),
            worker_ns: self.worker_ns - before.worker_ns,
        }
    }
}

/// Reads them for one cgroup.
#[derive(Debug)]
pub(crate) struct Meter {
    mirror: Mirror,
    worker: Pid,
}

impl Meter {
    /// For a cgroup that is tracked.
    pub(crate) fn of(tenant: &Tenant) -> Result<Self> {
        let name = format!("kmirror/{}", tenant.cgroup().id()?);
        Ok(Self {
            mirror: Mirror::of(tenant.cgroup()),
            worker: thread(&name)?,
        })
    }

    pub(crate) fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    fn read(&self) -> Result<Reading> {
        let text = file::read(self.mirror.file("stat"))?;
        let mut counters = [0; COUNTERS.len()];
        for (counter, key) in counters.iter_mut().zip(COUNTERS) {
            *counter = text
                .lines()
                .filter_map(|line| line.split_once(' '))
                .find_map(|(name, number)| (name == key).then(|| number.parse()))
                .with_context(|| format!("no {key} in mirror.stat"))??;
        }
        let clock = ClockId::pid_cpu_clock_id(self.worker)?;
        let time = Duration::from(clock_gettime(clock)?);
        Ok(Reading {
            counters,
            worker_ns: u64::try_from(time.as_nanos())?,
        })
    }

    /// A window with what kmirror did in it.
    pub(crate) fn work(&self, tenant: &mut Tenant, time: Duration) -> Result<(Done, Effort)> {
        let before = self.read()?;
        let done = tenant.work(time)?;
        Ok((done, self.read()?.since(&before)))
    }

    /// Lets everything take its usual course, which needs some `epochs`: the first copies all there
    /// is, and may take much longer than an interval. Says what was done.
    pub(crate) fn settle(
        &self,
        tenant: &mut Tenant,
        interval: Duration,
        epochs: u64,
    ) -> Result<Effort> {
        // The thread was started just now, so that these are the first.
        let nothing = Reading::default();
        // However short the interval is, the first copies take as long as they do.
        let least = FIRST.as_nanos() / interval.as_nanos().max(1);
        let least = u64::try_from(least)?;
        for _ in 0..(epochs * 50).max(least) {
            tenant.work(interval)?;
            let now = self.read()?.since(&nothing);
            if now.epochs >= epochs {
                return Ok(now);
            }
        }
        bail!("no {epochs} epochs in so many times {interval:?}");
    }

    /// The mirror's thread.
    pub(crate) fn worker(&self) -> Pid {
        self.worker
    }
}

/// The kernel thread of this name.
fn thread(name: &str) -> Result<Pid> {
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|s| s.parse().ok()) else {
            continue;
        };
        // One that has ended meanwhile is not it.
        let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm.trim_end() == name {
            return Ok(Pid::from_raw(pid));
        }
    }
    bail!("no thread {name}")
}

/// Coverage over time.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Coverage {
    /// Shares of the protected pages that were current, in parts per million.
    pub(crate) mean: f64,
    pub(crate) worst: u64,
    /// Moments at which was looked.
    pub(crate) samples: u64,
}

/// Looks `samples` times, `every` so often, while the workload works. Looking costs time, so this
/// is no part of any window.
pub(crate) fn cover(
    tenant: &mut Tenant,
    mirror: &Mirror,
    every: Duration,
    samples: u32,
) -> Result<Coverage> {
    tenant.begin(every * samples)?;
    let mut seen = Vec::new();
    for _ in 0..samples {
        // A sample at each moment of an epoch, which nothing announces.
        std::thread::sleep(every);
        seen.push(mirror.number("coverage")?);
    }
    tenant.end()?;
    Ok(Coverage {
        mean: seen.iter().sum::<u64>() as f64 / seen.len() as f64,
        worst: seen.iter().copied().min().context("no sample")?,
        samples: samples.into(),
    })
}
