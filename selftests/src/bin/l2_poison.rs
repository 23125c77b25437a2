// SPDX-License-Identifier: GPL-2.0

//! l2-poison FRAME...: breaks the memory behind frames of L2, by their numbers there (decimal, or with
//! 0x). Runs in L1, after l2-start; prints nothing. Exit status 0 if all were broken.

use anyhow::{ensure, Context, Result};
use kmirror_selftests::nested::l2::L2;
use kmirror_selftests::{number, sigbus};
use std::process::ExitCode;

fn main() -> ExitCode {
    match real_main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("l2-poison: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn real_main() -> Result<()> {
    let frames = std::env::args().skip(1).map(|text| number(&text));
    let frames = frames.collect::<Result<Vec<u64>>>()?;
    ensure!(!frames.is_empty(), "which frames?");
    sigbus::ignore()?;
    let l2 = L2::running()?;
    for frame in frames {
        l2.backing(frame)
            .and_then(|backing| backing.poison())
            .with_context(|| format!("frame {frame:#x}"))?;
    }
    Ok(())
}
