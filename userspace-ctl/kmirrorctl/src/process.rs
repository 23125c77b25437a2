// SPDX-License-Identifier: GPL-2.0

//! Processes: which cgroup they are in, and what their memory is.

use crate::error::{Error, Result};
use crate::system::{self, System};
use serde::Serialize;
use std::collections::BTreeSet;

/// A mapping of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vma {
    /// Its first address.
    pub start: u64,
    /// The first address after it.
    pub end: u64,
    /// `rw-p` and the like.
    pub rights: String,
    /// What is mapped: a file, `[heap]`, or nothing.
    pub name: String,
    /// `VmFlags` of smaps: `ss` shadow stack, `ht` hugetlb, `io` and `pf` no pages of memory.
    pub flags: BTreeSet<String>,
}

impl Vma {
    /// Reads the first line about a mapping, in maps and smaps.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let rights = words.next()?.to_owned();
        // Offset, device and inode.
        let name: Vec<&str> = words.skip(3).collect();
        let vma = Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            rights,
            name: name.join(" "),
            flags: BTreeSet::new(),
        };
        (vma.start < vma.end && vma.rights.len() == 4).then_some(vma)
    }

    /// Reads smaps, or maps.
    pub fn parse_all(text: &str) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for line in text.lines() {
            if let Some(vma) = Self::parse(line) {
                all.push(vma);
            } else if let (Some(vma), Some(flags)) = (all.last_mut(), line.strip_prefix("VmFlags:"))
            {
                vma.flags = flags.split_whitespace().map(str::to_owned).collect();
            }
        }
        all
    }

    /// Whether it is written by this process alone, and is no file.
    pub fn is_anonymous(&self) -> bool {
        !self.name.starts_with('/')
    }
}

/// The mappings of a process, with their flags.
pub fn mappings(system: &System, pid: u32) -> Result<Vec<Vma>> {
    match system::read_if_there(&system.process(pid, "smaps"))? {
        Some(text) => Ok(Vma::parse_all(&text)),
        None => Err(no_such(pid)),
    }
}

/// The cgroup of a process, as a path below the root.
pub fn cgroup(system: &System, pid: u32) -> Result<String> {
    let Some(text) = system::read_if_there(&system.process(pid, "cgroup"))? else {
        return Err(no_such(pid));
    };
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    path.map(str::to_owned).ok_or_else(|| {
        Error::failed(format!(
            "process {pid} is in no cgroup of version 2; boot with systemd.unified_cgroup_hierarchy=1"
        ))
    })
}

/// The processes of a cgroup and all below it.
pub fn members(system: &System, path: &str) -> Result<Vec<u32>> {
    let dir = system.cgroup(path);
    let mut pids: Vec<u32> = system::read_if_there(&dir.join("cgroup.procs"))?
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    for name in system::directories(&dir)? {
        pids.extend(members(
            system,
            &format!("{}/{name}", path.trim_end_matches('/')),
        )?);
    }
    Ok(pids)
}

fn no_such(pid: u32) -> Error {
    Error::missing(format!("there is no process {pid}; `ps -e` lists them"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMAPS: &str = "\
55d0a000-55d0c000 rw-p 00000000 00:00 0                          [heap]
Size:                  8 kB
VmFlags: rd wr mr mw me ac sd
7f00a000-7f00b000 r-xp 00001000 fd:01 42     /usr/lib/a b.so
VmFlags: rd ex ss
";

    #[test]
    fn smaps_are_read() {
        let all = Vma::parse_all(SMAPS);
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].start, all[0].end), (0x55d0_a000, 0x55d0_c000));
        assert_eq!(all[0].name, "[heap]");
        assert!(all[0].is_anonymous() && all[0].flags.contains("wr"));
        assert_eq!(all[1].name, "/usr/lib/a b.so");
        assert!(!all[1].is_anonymous() && all[1].flags.contains("ss"));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text: String) {
            let _ = Vma::parse_all(&text);
        }
    }
}
