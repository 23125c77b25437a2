// SPDX-License-Identifier: GPL-2.0

//! Everything at one moment.

use crate::error::Result;
use crate::group::Group;
use crate::keyed::Keyed;
use crate::region::Region;
use crate::system::{self, System};
use crate::tree;
use crate::worker;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The state of the mirror.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// Seconds since 1970.
    pub time: f64,
    /// When, on a clock that only goes forward.
    #[serde(skip)]
    pub at: Instant,
    /// Version of the interface.
    pub version: u64,
    /// The region.
    pub region: Region,
    /// `stat` of the whole system.
    pub stat: Keyed,
    /// `events` of the whole system.
    pub events: Keyed,
    /// The cgroups that were asked for, parents first.
    pub groups: Vec<Group>,
    /// CPU time of the threads of tracked cgroups, in ns, by the cgroup's number.
    pub worker_ns: BTreeMap<u64, u64>,
}

/// Which cgroups a snapshot has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those whose own word is not `inherit`.
    Set,
    /// All.
    All,
}

impl Snapshot {
    /// Takes one of `path` and what is below. `mirror.stat` is read of the protected ones.
    pub fn take(system: &System, path: &str, scope: Scope) -> Result<Self> {
        let mut groups = Vec::new();
        for group in tree::walk(system, path)? {
            let wanted = match scope {
                Scope::All => true,
                // The root is `off` unless somebody said otherwise, which is no news.
                Scope::Set => group.is_governor() || (group.mode == "off" && group.path != "/"),
            };
            if !wanted && group.path != path {
                continue;
            }
            let protected = group.is_protected();
            match if protected {
                group.clone().with_stat(system)
            } else {
                Ok(group.clone())
            } {
                Ok(group) => groups.push(group),
                Err(_) if !system.mirror_of(&group.path).exists() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            time: now(),
            at: Instant::now(),
            version: system::number(&system.mirror("version"))?,
            region: Region::read(system)?,
            stat: Keyed::read(&system.mirror("stat"))?,
            events: Keyed::read(&system.mirror("events"))?,
            groups,
            worker_ns: worker::times(system),
        })
    }

    /// A cgroup of it, by path.
    pub fn group(&self, path: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.path == path)
    }
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64())
}
