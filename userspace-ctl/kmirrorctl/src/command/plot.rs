// SPDX-License-Identifier: GPL-2.0

//! `kmirrorctl plot`.

use super::{json, Context};
use crate::chart;
use crate::cli::PlotArgs;
use crate::error::{Error, Result};
use crate::history::History;
use crate::snapshot::{Scope, Snapshot};
use crate::{tree, units};
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

pub(super) fn run(cx: &Context, args: &PlotArgs) -> Result<()> {
    chart::check_name(&args.output)?;
    let history = match (&args.from, &args.path) {
        (Some(file), _) => History::load(file)?,
        (None, Some(path)) => record(cx, args, path)?,
        (None, None) => {
            return Err(Error::usage(
                "say what to draw: a cgroup to be watched, or --from and a recording",
            ))
        }
    };
    if let Some(file) = &args.save {
        write(file, &format!("{}\n", json(&history, true)?))?;
    }
    chart::draw(&history, &args.output)?;
    cx.print(&history, |_| {
        format!(
            "{}: average coverage {}, worst {}, {} samples\n",
            args.output.display(),
            units::percent(history.average_ppm()),
            units::percent(history.worst_ppm()),
            history.samples.len()
        )
    })
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| Error::file(path, &error))
}

/// Watches a cgroup, with its progress on a terminal.
fn record(cx: &Context, args: &PlotArgs, path: &str) -> Result<History> {
    let path = cx.resolve(Some(path))?;
    let group = tree::group(&cx.system, &path)?;
    if !group.is_protected() {
        return Err(Error::failed(format!(
            "{path} is not protected, so there is nothing to draw; `kmirrorctl on {path}` protects it"
        )));
    }
    let mut history = History::new(&path, group.interval_ms);
    let shown = std::io::stderr().is_terminal();
    let (start, every) = (Instant::now(), Duration::from_millis(args.every));
    let end = Duration::from_secs(args.time);
    let mut before = Snapshot::take(&cx.system, &path, Scope::Set)?;
    history.add(0.0, &before, &before)?;
    for turn in 1u32.. {
        let at = every.saturating_mul(turn);
        if at > end {
            break;
        }
        // Samples come at their times, not after each other's reading.
        std::thread::sleep(at.saturating_sub(start.elapsed()));
        let now = Snapshot::take(&cx.system, &path, Scope::Set)?;
        history.add(start.elapsed().as_secs_f64(), &before, &now)?;
        before = now;
        if shown {
            let percent = history
                .samples
                .last()
                .map_or(0, |sample| sample.coverage_ppm);
            eprint!(
                "\rrecording {path}: {} of {} s, coverage {} ",
                start.elapsed().as_secs(),
                args.time,
                units::percent(percent)
            );
            let _ = std::io::stderr().flush();
        }
    }
    if shown {
        eprintln!();
    }
    Ok(history)
}
