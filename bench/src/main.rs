// SPDX-License-Identifier: GPL-2.0

//! What runs in the guest of `make bench`; see docs/bench.md.
//!
//! ```text
//! bench guest              measures what the kernel's command line names, and tells the host
//! bench work NAME CGROUP   a workload; started by the former, moves itself into that cgroup
//! ```

mod guest;
mod mode;
mod settings;
mod tenant;
mod window;
mod work;

use anyhow::{bail, Result};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["guest"] => guest::run(),
        ["work", name, cgroup] => work::run(name, cgroup.as_ref()),
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

fn usage() -> Result<()> {
    bail!("bench guest | work NAME CGROUP")
}
