// SPDX-License-Identifier: GPL-2.0

//! The kernel threads that look after tracked cgroups, and the CPU time they have had.

use crate::system::System;
use std::collections::BTreeMap;
use std::fs;

/// What the name of such a thread begins with; the number of its cgroup follows.
const PREFIX: &str = "kmirror/";

/// CPU time in ns of each such thread, by the number of its cgroup. Threads that come and go
/// meanwhile are left out, and all of them where `/proc` does not show them.
pub fn times(system: &System) -> BTreeMap<u64, u64> {
    let entries = fs::read_dir(system.path("/proc"));
    let pids = entries.into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.parse().ok()
    });
    pids.filter_map(|pid: u32| {
        let comm = fs::read_to_string(system.process(pid, "comm")).ok()?;
        let id = id_in(&comm)?;
        let stat = fs::read_to_string(system.process(pid, "schedstat"));
        let ns = match stat {
            Ok(text) => on_cpu_ns(&text)?,
            // Without CONFIG_SCHED_INFO.
            Err(_) => ticks(&fs::read_to_string(system.process(pid, "stat")).ok()?)? * TICK_NS,
        };
        Some((id, ns))
    })
    .collect()
}

/// Length of a tick in `/proc/PID/stat` (USER_HZ, 100 on x86), in ns.
const TICK_NS: u64 = 10_000_000;

/// The number of the cgroup in the name of a thread.
fn id_in(comm: &str) -> Option<u64> {
    comm.trim_end().strip_prefix(PREFIX)?.parse().ok()
}

/// The first number of `/proc/PID/schedstat`.
fn on_cpu_ns(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// `utime` and `stime` of `/proc/PID/stat`, fields 14 and 15. The name in field 2 may have blanks and
/// parentheses in it.
fn ticks(text: &str) -> Option<u64> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let utime: u64 = fields.next()?.parse().ok()?;
    let stime: u64 = fields.next()?.parse().ok()?;
    utime.checked_add(stime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_number() {
        assert_eq!(id_in("kmirror/123\n"), Some(123));
        for other in ["kmirror/", "kmirror/x", "kmirror", "bash", "xkmirror/1", ""] {
            assert_eq!(id_in(other), None);
        }
    }

    #[test]
    fn times_are_found() {
        assert_eq!(on_cpu_ns("123456 789 10\n"), Some(123456));
        assert_eq!(on_cpu_ns(""), None);
        let stat = "12 (a) b (c)) S 2 0 0 0 -1 1 0 0 0 0 5 7 0 0 20 0 1";
        assert_eq!(ticks(stat), Some(12));
        assert_eq!(ticks("12 (a) S"), None);
        assert_eq!(ticks("nonsense"), None);
    }
}
