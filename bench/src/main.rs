// SPDX-License-Identifier: GPL-2.0

//! What runs in the guest of `make bench`; see docs/bench.md.
//!
//! ```text
//! bench guest                  measures what the kernel's command line names, and tells the host
//! bench work NAME CGROUP       a workload; started by the former, moves itself into that cgroup
//! bench track KIND CGROUP MS   a tracker of another kind, to compare with
//! bench native                 on the host itself: how fast pages are copied and hashed
//! ```

mod guest;
mod mode;
mod native;
mod peer;
mod probe;
mod sample;
mod settings;
mod tenant;
mod window;
mod work;

use anyhow::{bail, Result};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["guest"] => guest::run(),
        ["work", name, cgroup] => work::run(name, cgroup.as_ref()),
        ["track", kind, cgroup, ms] => track(kind, cgroup, ms),
        ["native"] => native::run(),
        ["--victim", ..] => kmirror_selftests::victim::serve(&args[1..]),
        _ => usage(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn track(kind: &str, cgroup: &str, ms: &str) -> Result<()> {
    let interval = Duration::from_millis(ms.parse()?);
    peer::run(peer::Kind::parse(kind)?, cgroup, interval)
}

fn usage() -> Result<()> {
    bail!("bench guest | work NAME CGROUP | track KIND CGROUP MS | native")
}
