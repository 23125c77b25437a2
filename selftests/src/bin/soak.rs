// SPDX-License-Identifier: GPL-2.0

//! Random errors under random work, for as long as one likes; see docs/testing.md.
//!
//! ```text
//! soak [--seconds N] [--seed N] [--errors N] [--rounds N] [--strikes N] [--replay FILE] [--plant STEP]
//! ```
//!
//! Prints its figures as `figure KIND NAME NUMBER`, and at the end `N passed, M failed` over its runs.

use anyhow::{bail, Context, Result};
use kmirror_selftests::cgroup::Cgroup;
use kmirror_selftests::soak::{self, Options};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    match real_main() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn real_main() -> Result<bool> {
    let mut options = Options::default();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--soak-actor") {
        return soak::serve(&args[1..]).map(|()| true);
    }
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let value = args
            .next()
            .with_context(|| format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--seconds" => options.time = Duration::from_secs(value.parse()?),
            "--seed" => options.seed = value.parse()?,
            "--errors" => options.errors = value.parse()?,
            "--rounds" => options.rounds = value.parse()?,
            "--strikes" => options.strikes = value.parse()?,
            "--replay" => options.replay = Some(std::fs::read_to_string(value)?),
            "--plant" => options.plant = Some(value),
            _ => bail!("{arg} is not known"),
        }
    }
    println!("# seed {}", options.seed);
    let parent = Cgroup::at("").child("kmirror-soak")?;
    let report = soak::soak(&options, &parent);
    // What is left of a run that has failed goes with it.
    let _ = parent.remove_tree();
    let report = report?;
    println!("{} passed, {} failed", report.passed, report.failed);
    Ok(report.failed == 0)
}
