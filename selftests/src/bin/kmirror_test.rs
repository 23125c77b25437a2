// SPDX-License-Identifier: GPL-2.0

//! Runs the tests of kmirror. Started by `run`; see docs/testing.md.

use anyhow::{bail, Context, Result};
use kmirror_selftests::case::Case;
use kmirror_selftests::{cases, nested, runner, soak, victim};
use std::process::ExitCode;

fn main() -> ExitCode {
    match real_main() {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("kmirror_test: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn real_main() -> Result<u8> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let all: Vec<&Case> = cases::all().collect();
    match args.first().map(String::as_str) {
        Some("--victim") => return victim::serve(&args[1..]).map(|()| 0),
        Some("--soak-actor") => return soak::serve(&args[1..]).map(|()| 0),
        Some("--director") => {
            let all: Vec<&Case> = all.into_iter().chain(nested::cases::all()).collect();
            return runner::director(&all, &args[1..]);
        }
        // In L2 of `make test-nested`.
        Some("--nested") => return Ok(runner::run(&nested::cases::wanted()?, 1)),
        Some("--list") => {
            all.iter().for_each(|case| println!("{}", case.name));
            return Ok(0);
        }
        // The table of docs/testing.md.
        Some("--guards") => {
            println!("| test | it fails without |\n|---|---|");
            for case in all.into_iter().chain(nested::cases::all()) {
                println!("| `{}` | {} |", case.name, case.guard);
            }
            return Ok(0);
        }
        _ => {}
    }

    let mut seed = match std::env::var("SEED") {
        Ok(text) => text.parse().context("SEED is no number")?,
        Err(_) => 1,
    };
    let mut names = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        if arg == "--seed" {
            let number = args.next().context("--seed needs a number")?;
            seed = number.parse().context("--seed needs a number")?;
        } else if all.iter().any(|case| case.name == arg) {
            names.push(arg);
        } else {
            bail!("there is no test {arg}; see --list");
        }
    }
    let chosen: Vec<&Case> = all
        .into_iter()
        .filter(|case| names.is_empty() || names.iter().any(|name| name == case.name))
        .collect();
    Ok(runner::run(&chosen, seed))
}
