// SPDX-License-Identifier: GPL-2.0

//! A short soak, and that a longer one which fails would tell why. See `make soak`.

use crate::case::{Case, Context};
use crate::soak::{soak, Options};
use anyhow::{ensure, Result};
use std::time::Duration;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "soak_fixed",
        "all of kmirror, and the kernel under it",
        fixed,
    )
    .limit(400),
    Case::new(
        "soak_shortens",
        "a run that fails is made shorter (selftests/src/soak/shorten.rs)",
        shortens,
    )
    .limit(400),
];

/// Errors that there must be for it to show something.
const FEW: u64 = 50;

fn short(cx: &Context, seed: u64) -> Result<()> {
    println!("seed {seed}");
    let options = Options {
        seed,
        time: Duration::from_secs(25),
        errors: 600,
        ..Options::default()
    };
    let report = soak(&options, &cx.cgroup)?;
    let why = report.why.unwrap_or_default();
    ensure!(report.failed == 0, "make soak SEED={seed}: {why}");
    ensure!(
        report.errors >= FEW && report.restored > 0,
        "{} errors, {} restored: too few to show much",
        report.errors,
        report.restored
    );
    Ok(())
}

fn fixed(cx: &Context) -> Result<()> {
    short(cx, cx.seed)
}

fn shortens(cx: &Context) -> Result<()> {
    let planted = "read_into";
    let options = Options {
        seed: cx.seed,
        time: Duration::from_secs(60),
        strikes: 4,
        plant: Some(planted.into()),
        ..Options::default()
    };
    let report = soak(&options, &cx.cgroup)?;
    let why = report.why.unwrap_or_default();
    ensure!(
        why.contains("Wrong"),
        "the planted fault is not found: {why}"
    );
    let steps = report.shortened;
    ensure!((4..=8).contains(&steps.len()), "not short: {steps:?}");
    for needed in ["spawn", "map", planted] {
        let there = steps.iter().any(|step| step.starts_with(needed));
        ensure!(there, "no {needed}: {steps:?}");
    }
    // What is printed fails when it is read in again.
    let replay = Options {
        replay: Some(steps.join("\n")),
        plant: options.plant.clone(),
        ..Options::default()
    };
    let again = soak(&replay, &cx.cgroup)?;
    ensure!(again.failed == 1, "the shortened run does not fail");
    // And it is the planted fault that makes it fail.
    let without = Options {
        plant: None,
        ..replay
    };
    let clean = soak(&without, &cx.cgroup)?;
    ensure!(clean.failed == 0, "fails without the planted fault");
    Ok(())
}
