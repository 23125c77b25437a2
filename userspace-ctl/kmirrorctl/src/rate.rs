// SPDX-License-Identifier: GPL-2.0

//! What happened between two snapshots, per second.

use crate::group::Group;
use crate::snapshot::Snapshot;
use serde::Serialize;

/// The work done for a cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rate {
    /// Pages copied.
    pub copied: f64,
    /// Page-table entries looked at.
    pub scanned: f64,
    /// Share of one CPU that the cgroup's thread had, 1.0 being all of it.
    pub cpu: f64,
}

impl Rate {
    /// From `before` to `after`. Where a counter was set to 0 meanwhile, what it has counted since.
    pub fn between(before: &Snapshot, after: &Snapshot, path: &str) -> Option<Self> {
        let seconds = after.at.saturating_duration_since(before.at).as_secs_f64();
        let (old, new) = (before.group(path)?, after.group(path)?);
        if seconds <= 0.0 {
            return None;
        }
        let grown = |key: &str| grown(old.stat(key), new.stat(key)) as f64;
        let worked = match (before.worker_ns.get(&new.id), after.worker_ns.get(&new.id)) {
            (Some(&old), Some(&new)) => grown_ns(old, new),
            // Not its own thread, or none to be seen: what the epochs took, which is more if the
            // thread had to wait for a CPU.
            _ => grown("scan_ns") + grown("copy_ns"),
        };
        Some(Self {
            copied: grown("copied") / seconds,
            scanned: grown("scanned") / seconds,
            cpu: worked / 1e9 / seconds,
        })
    }
}

fn grown_ns(old: u64, new: u64) -> f64 {
    grown(old, new) as f64
}

/// How much a counter has grown that may have been set to 0.
pub fn grown(old: u64, new: u64) -> u64 {
    if new >= old {
        new - old
    } else {
        new
    }
}

/// Something that has happened to a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// The cgroup's path.
    pub cgroup: String,
    /// The key in `mirror.events`.
    pub event: String,
    /// How many of them are new.
    pub new: u64,
    /// How many there are in all.
    pub total: u64,
}

/// What the events of a cgroup tell that those of `before` do not.
pub fn events(before: &Group, after: &Group) -> Vec<Event> {
    let pairs = after.events.iter();
    pairs
        .filter_map(|(key, total)| {
            let new = grown(before.events.get(key), total);
            (new > 0).then(|| Event {
                cgroup: after.path.clone(),
                event: key.to_owned(),
                new,
                total,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_set_back_is_no_huge_number() {
        assert_eq!(grown(5, 9), 4);
        assert_eq!(grown(9, 9), 0);
        assert_eq!(grown(9, 3), 3);
    }
}
