// SPDX-License-Identifier: GPL-2.0

//! What runs in the guest of `make survival`; see docs/survival.md.
//!
//! ```text
//! survival guest       starts the servers, and does what the host says through a port
//! survival load        the servers' clients; started by the former, inside the protected cgroup
//! survival files DIR   writes the files that nginx serves; when the disk is made
//! ```

mod census;
mod guest;
mod load;
mod servers;

use anyhow::{bail, Result};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["guest"] => guest::run(),
        ["load"] => load::run(),
        ["files", dir] => load::http::write_files(dir.as_ref()),
        _ => usage(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("survival: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> Result<()> {
    bail!("survival guest | load | files DIR")
}
