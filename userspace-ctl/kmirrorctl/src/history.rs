// SPDX-License-Identifier: GPL-2.0

//! Coverage and cost of a cgroup over time: recorded from snapshots, kept as JSON.

use crate::error::{Error, Result};
use crate::rate::Rate;
use crate::snapshot::Snapshot;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What was seen at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the recording began.
    pub seconds: f64,
    /// Coverage in parts per million.
    pub coverage_ppm: u32,
    /// Bytes that are protected.
    pub protected_bytes: u64,
    /// Bytes that the replicas use.
    pub replica_bytes: u64,
    /// Pages copied a second, since the sample before.
    pub copied: f64,
    /// Share of a CPU that the thread had, since the sample before.
    pub cpu: f64,
}

/// A recording.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The cgroup.
    pub cgroup: String,
    /// Its interval in ms.
    pub interval_ms: u64,
    /// The samples, by time.
    pub samples: Vec<Sample>,
}

impl History {
    /// One of the cgroup at `path`, with nothing in it.
    pub fn new(path: &str, interval_ms: u64) -> Self {
        Self {
            cgroup: path.to_owned(),
            interval_ms,
            samples: Vec::new(),
        }
    }

    /// Adds what a snapshot shows, and what happened since the one before.
    pub fn add(&mut self, seconds: f64, before: &Snapshot, now: &Snapshot) -> Result<()> {
        let Some(group) = now.group(&self.cgroup) else {
            return Err(Error::missing(format!(
                "the cgroup {} has gone while it was watched; start again when it is back",
                self.cgroup
            )));
        };
        let rate = Rate::between(before, now, &self.cgroup).unwrap_or_default();
        self.samples.push(Sample {
            seconds,
            coverage_ppm: group.coverage_ppm.unwrap_or(0),
            protected_bytes: group.protected_bytes(),
            replica_bytes: group.replica_bytes,
            copied: rate.copied,
            cpu: rate.cpu,
        });
        Ok(())
    }

    /// Reads a recording.
    pub fn load(path: &Path) -> Result<Self> {
        let text = crate::system::read(path)?;
        let history: Self = serde_json::from_str(&text).map_err(|error| {
            Error::usage(format!(
                "{} is no recording: {error}; `kmirrorctl plot PATH --save FILE` makes one",
                path.display()
            ))
        })?;
        let ordered = history
            .samples
            .windows(2)
            .all(|pair| pair[0].seconds <= pair[1].seconds);
        let finite = |sample: &Sample| {
            [sample.seconds, sample.copied, sample.cpu]
                .iter()
                .all(|n| n.is_finite() && *n >= 0.0)
        };
        if !ordered || !history.samples.iter().all(finite) {
            return Err(Error::usage(format!(
                "{} is no recording: its samples are not in order; `kmirrorctl plot PATH --save FILE` makes one",
                path.display()
            )));
        }
        Ok(history)
    }

    /// Average coverage over the samples, in parts per million.
    pub fn average_ppm(&self) -> u32 {
        let sum: u64 = self.samples.iter().map(|s| u64::from(s.coverage_ppm)).sum();
        let count = self.samples.len().max(1) as u64;
        u32::try_from(sum / count).unwrap_or(0)
    }

    /// The worst coverage, in parts per million.
    pub fn worst_ppm(&self) -> u32 {
        let worst = self.samples.iter().map(|sample| sample.coverage_ppm).min();
        worst.unwrap_or(0)
    }
}
