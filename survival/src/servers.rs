// SPDX-License-Identifier: GPL-2.0

//! The servers, and whether they are still the same.

use anyhow::{Context, Result};
use kmirror_selftests::cgroup::Cgroup;
use kmirror_selftests::file;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Where their data and settings are.
pub(crate) const HOME: &str = "/srv";

/// The programs, with the user that each runs as. What they do is said in files on the disk, made
/// by tools/survival-disk.
const SERVERS: [(&str, &[&str]); 5] = [
    (
        "postgres",
        &["/usr/lib/postgresql/17/bin/postgres", "-D", "/srv/pg1"],
    ),
    (
        "postgres",
        &["/usr/lib/postgresql/17/bin/postgres", "-D", "/srv/pg2"],
    ),
    ("redis", &["/usr/bin/redis-server", "/srv/redis1.conf"]),
    ("redis", &["/usr/bin/redis-server", "/srv/redis2.conf"]),
    ("root", &["/usr/sbin/nginx", "-c", "/srv/nginx.conf"]),
];

/// A command that runs inside `cgroup` from its first page on.
pub(crate) fn inside(cgroup: &Cgroup, program: &str) -> Command {
    let procs = cgroup.file("cgroup.procs");
    let mut command = Command::new(program);
    // SAFETY: Writing to a file is allowed between fork and exec; nothing is shared that could be
    // locked, since this program has one thread.
    unsafe { command.pre_exec(move || fs::write(&procs, "0")) };
    command
}

/// Starts all of them.
pub(crate) fn start(cgroup: &Cgroup) -> Result<()> {
    for (user, words) in SERVERS {
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(format!("{HOME}/servers.log"))?;
        inside(cgroup, "/usr/bin/setpriv")
            .args(["--reuid", user, "--regid", user, "--init-groups"])
            .args(words)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| words[0].to_owned())?;
    }
    Ok(())
}

/// The processes that live as long as nothing is wrong, with what they are called.
///
/// A process that has this number later may be another, so the time of its start is part of it.
pub(crate) fn lasting(cgroup: &Cgroup) -> Result<BTreeMap<(i32, u64), String>> {
    let mut found = BTreeMap::new();
    for pid in file::read(cgroup.file("cgroup.procs"))?.lines() {
        let Ok(title) = fs::read(format!("/proc/{pid}/cmdline")) else {
            continue;
        };
        let title = String::from_utf8_lossy(&title).replace('\0', " ");
        // These come and go by themselves; so does a fork of redis that writes a file.
        let passing = [
            "autovacuum worker",
            "parallel worker",
            "redis-aof",
            "redis-rdb",
        ];
        if passing.iter().any(|name| title.contains(name)) {
            continue;
        }
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        // The fields after the name, which ends with the last parenthesis; the 22nd of all is the
        // start.
        let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let mut fields = fields.split(' ');
        let state = fields.next().unwrap_or("Z");
        let start = fields.nth(18).and_then(|text| text.parse().ok());
        if let (Ok(pid), Some(start), false) = (pid.parse(), start, state == "Z") {
            found.insert((pid, start), title.trim().to_owned());
        }
    }
    Ok(found)
}
