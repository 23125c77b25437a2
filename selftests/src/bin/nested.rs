// SPDX-License-Identifier: GPL-2.0

//! `make test-nested`, in L1: one L2 after the other, and the cases that they run. Prints KTAP.
//!
//! ```text
//! nested [--list | --suite SUITE] [NAME]...
//! ```
//!
//! A NAME is that of a suite or of a case; without, all are run. With `--list` the names of the suites
//! are printed of which anything would be run, and with `--suite` only what is of that one is.

use anyhow::{bail, Result};
use kmirror_selftests::ktap::{Outcome, Stream};
use kmirror_selftests::nested::suite::{self, Suite};
use kmirror_selftests::sigbus;
use std::process::ExitCode;

fn main() -> ExitCode {
    match real_main() {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("nested: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn real_main() -> Result<u8> {
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    let list = names.first().is_some_and(|name| name == "--list");
    let only = match names.first() {
        Some(name) if name == "--suite" => names.get(1).cloned(),
        _ => None,
    };
    names.drain(..usize::from(list) + 2 * usize::from(only.is_some()));
    for name in &names {
        let known = |suite: &Suite| suite.name == name || suite.cases.contains(&name.as_str());
        if !suite::ALL.iter().any(known) {
            bail!("there is no suite and no case {name}");
        }
    }
    let chosen: Vec<(&Suite, Vec<&str>)> = suite::ALL
        .iter()
        .filter(|suite| only.as_ref().is_none_or(|only| suite.name == only))
        .map(|suite| (suite, suite.chosen(&names)))
        .filter(|(_, cases)| !cases.is_empty())
        .collect();
    if list {
        chosen
            .iter()
            .for_each(|(suite, _)| println!("{}", suite.name));
        return Ok(0);
    }
    sigbus::ignore()?;
    let mut stream = Stream::start(chosen.len());
    for (suite, cases) in chosen {
        let outcome = match suite.run(&cases) {
            Ok(true) => Outcome::Pass,
            Ok(false) => Outcome::Fail,
            Err(error) => {
                Stream::note(&format!("{error:#}"));
                Outcome::Fail
            }
        };
        stream.result(suite.name, &outcome);
    }
    Ok(stream.finish())
}
