// SPDX-License-Identifier: GPL-2.0

//! A cgroup, as the mirror shows it.

use crate::error::Result;
use crate::keyed::Keyed;
use crate::system::{self, System};
use crate::units::PAGE;
use kmirror_core::coverage_ppm;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// Files that are known here, and so not among [`Group::other`].
const KNOWN: [&str; 8] = [
    "mode",
    "interval_ms",
    "max",
    "current",
    "coverage",
    "stat",
    "events",
    "sync",
];

/// The word for a mode that is the parent's.
pub const INHERIT: &str = "inherit";
/// The word for no protection.
pub const OFF: &str = "off";
/// The word for protection by way of the page tables.
pub const TRACKED: &str = "tracked";

/// A cgroup's settings and state.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// Its path below the root of cgroup v2; `/` for the root's own.
    pub path: String,
    /// Its number, the inode of its directory; 0 if that is not there.
    pub id: u64,
    /// `mirror.mode`, as it was set.
    pub mode: String,
    /// The mode in force, its own or that of a parent.
    pub mode_in_force: String,
    /// `mirror.interval_ms`, in force.
    pub interval_ms: u64,
    /// `mirror.max` in bytes; `None` for no limit.
    pub max_bytes: Option<u64>,
    /// `mirror.current`.
    pub replica_bytes: u64,
    /// `mirror.events`.
    pub events: Keyed,
    /// `mirror.stat`, which is dear to read; `None` if nobody asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stat: Option<Keyed>,
    /// `mirror.coverage`, as it follows from [`stat`](Self::stat).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coverage_ppm: Option<u32>,
    /// What other files `mirror.NAME` there are, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub other: BTreeMap<String, String>,
}

impl Group {
    /// Reads a cgroup below a parent whose mode in force is `inherited`; `None` if it has gone.
    pub fn read(system: &System, path: &str, inherited: &str) -> Result<Option<Self>> {
        let dir = system.mirror_of(path);
        let Some(mode) = system::read_if_there(&dir.join("mirror.mode"))? else {
            return Ok(None);
        };
        match Self::read_rest(system, path, inherited, mode) {
            Ok(group) => Ok(Some(group)),
            // It has gone in the middle.
            Err(_) if !dir.join("mirror.mode").exists() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read_rest(system: &System, path: &str, inherited: &str, mode: String) -> Result<Self> {
        let dir = system.mirror_of(path);
        let file = |name: &str| dir.join(format!("mirror.{name}"));
        let max = system::read(&file("max"))?;
        let max_bytes = match max.as_str() {
            "max" => None,
            number => Some(
                number
                    .parse()
                    .map_err(|_| system::strange(&file("max"), &max, "a number or max"))?,
            ),
        };
        let mode_in_force = match mode.as_str() {
            INHERIT => inherited.to_owned(),
            _ => mode.clone(),
        };
        Ok(Self {
            path: path.to_owned(),
            id: fs::metadata(system.cgroup(path)).map_or(0, |meta| meta.ino()),
            mode,
            mode_in_force,
            interval_ms: system::number(&file("interval_ms"))?,
            max_bytes,
            replica_bytes: system::number(&file("current"))?,
            events: Keyed::read(&file("events"))?,
            stat: None,
            coverage_ppm: None,
            other: BTreeMap::new(),
        })
    }

    /// Reads `mirror.stat` too. This walks the page tables of all protected processes in the cgroup
    /// and below.
    pub fn with_stat(mut self, system: &System) -> Result<Self> {
        let stat = Keyed::read(&system.mirror_of(&self.path).join("mirror.stat"))?;
        let (current, protected) = (stat.get("current"), stat.get("protected"));
        // As the module has it: nothing would survive of a cgroup that nobody mirrors.
        self.coverage_ppm = Some(if protected == 0 && !self.is_protected() {
            0
        } else {
            coverage_ppm(current, protected)
        });
        self.stat = Some(stat);
        Ok(self)
    }

    /// Reads the files that are not known here.
    pub fn with_other(mut self, system: &System) -> Self {
        let entries = fs::read_dir(system.mirror_of(&self.path));
        for entry in entries.into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(name) = name.strip_prefix("mirror.") else {
                continue;
            };
            // Those that are only written, or that cannot be read now, have nothing to show.
            if !KNOWN.contains(&name) {
                if let Ok(text) = system::read(&entry.path()) {
                    self.other.insert(name.to_owned(), text);
                }
            }
        }
        self
    }

    /// Whether its memory is mirrored, by its own word or a parent's.
    pub fn is_protected(&self) -> bool {
        self.mode_in_force != OFF
    }

    /// Whether its own word switches protection on, so that it has a thread and epochs.
    pub fn is_governor(&self) -> bool {
        self.mode != INHERIT && self.mode != OFF
    }

    /// A number of `mirror.stat`, 0 if that was not read.
    pub fn stat(&self, key: &str) -> u64 {
        self.stat.as_ref().map_or(0, |stat| stat.get(key))
    }

    /// Bytes of memory that are protected, if `mirror.stat` was read.
    pub fn protected_bytes(&self) -> u64 {
        self.stat("protected").saturating_mul(PAGE)
    }

    /// How many levels below the root it is.
    pub fn depth(&self) -> usize {
        self.path.split('/').filter(|name| !name.is_empty()).count()
    }

    /// The last part of its path.
    pub fn name(&self) -> &str {
        match self.path.rsplit('/').next() {
            Some(name) if !name.is_empty() => name,
            _ => "/",
        }
    }
}
