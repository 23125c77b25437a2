// SPDX-License-Identifier: GPL-2.0

//! Breaking memory. See `inject/main.rs` for the module that does it.

use crate::cgroup::Cgroup;
use crate::file;
use crate::pagemap::{self, Entry};
use anyhow::Result;
use std::fmt;
use std::io;

/// How an error is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// `memory_failure()`, found by the hardware itself.
    Fail,
    /// The same, in the context of one who has run into it.
    FailRequired,
    /// The same, with a reference handed over.
    FailCounted,
    /// A record on the decode chain, action optional.
    Mce,
    /// A record on the decode chain, deferred.
    MceDeferred,
}

impl Door {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Fail,
        Self::FailRequired,
        Self::FailCounted,
        Self::Mce,
        Self::MceDeferred,
    ];

    /// As the injector calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::FailRequired => "fail_required",
            Self::FailCounted => "fail_counted",
            Self::Mce => "mce",
            Self::MceDeferred => "mce_deferred",
        }
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Breaks a frame by the door of this name, which may begin with `keep_`; with the error that the
/// report returned. Nobody who maps the frame may be running.
pub fn report(door: &str, pfn: u64) -> io::Result<()> {
    file::try_write(
        "/sys/kernel/debug/kmirror_inject/inject",
        &format!("{door} {pfn}"),
    )
}

/// Keeps the page in a frame where it is, until anything else here is called. Whoever finds it in its
/// place after this knows whom he hits.
pub fn hold(pfn: u64) -> io::Result<()> {
    report("hold", pfn)
}

/// Gives up what [`hold`] has held.
pub fn release(pfn: u64) {
    // Nothing that could go wrong.
    let _ = report("release", pfn);
}

/// Breaks a frame while the processes of `cgroup` stand still.
pub fn strike(cgroup: &Cgroup, door: &str, pfn: u64) -> Result<io::Result<()>> {
    let _frozen = cgroup.freeze()?;
    Ok(report(door, pfn))
}

/// What became of a page that was hit.
#[derive(Debug)]
pub struct Struck {
    /// The frame that broke.
    pub old: u64,
    /// What is at the address now.
    pub new: Entry,
    /// What the report returned.
    pub result: io::Result<()>,
}

/// Breaks the frame that is at an address of a process while its cgroup stands still.
pub fn strike_at(cgroup: &Cgroup, door: &str, pid: i32, addr: u64) -> Result<Struck> {
    let _frozen = cgroup.freeze()?;
    let old = pagemap::frame(pid, addr)?;
    let result = report(door, old);
    let new = pagemap::entry(pid, addr)?;
    Ok(Struck { old, new, result })
}
