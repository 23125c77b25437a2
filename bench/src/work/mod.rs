// SPDX-License-Identifier: GPL-2.0

//! The workloads.
//!
//! Each does the same again and again, in units that are short against an epoch, for as long as it
//! is told to. So the work of a window is proportional to its length, and a window of whole epochs
//! has its full share of what protection costs, wherever it begins.

mod http;
mod memory;
mod postgres;
mod program;
mod redis;
mod shell;
mod sqlite;
mod tool;

use anyhow::{bail, Context, Result};
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Something that is done again and again.
trait Work {
    /// Does it once more.
    fn unit(&mut self) -> Result<()>;
}

/// Sets a workload up.
fn make(name: &str) -> Result<Box<dyn Work>> {
    Ok(match name {
        "seq-read" => Box::new(memory::SequentialRead::new()?),
        "seq-write" => Box::new(memory::SequentialWrite::new()?),
        "stress-write" => Box::new(memory::StressWrite::new()?),
        "moving-write" => Box::new(memory::MovingWrite::new()?),
        "suite" => Box::new(shell::Suite::new()?),
        "commands" => Box::new(shell::Commands::new()?),
        "sqlite-create" => Box::new(sqlite::Sqlite::new(sqlite::Kind::Create)?),
        "sqlite-insert" => Box::new(sqlite::Sqlite::new(sqlite::Kind::Insert)?),
        "sqlite-select" => Box::new(sqlite::Sqlite::new(sqlite::Kind::Select)?),
        "sqlite-update" => Box::new(sqlite::Sqlite::new(sqlite::Kind::Update)?),
        "sqlite-delete" => Box::new(sqlite::Sqlite::new(sqlite::Kind::Delete)?),
        "nginx" => Box::new(http::Http::nginx()?),
        "caddy" => Box::new(http::Http::caddy()?),
        "redis" => Box::new(redis::Redis::new(redis::Mix::Even)?),
        "redis-read" => Box::new(redis::Redis::new(redis::Mix::ReadMostly)?),
        "redis-bgsave" => Box::new(redis::Redis::new(redis::Mix::Snapshot)?),
        "pgbench" => Box::new(postgres::Pgbench::new()?),
        "compile" => Box::new(tool::Tool::compile()),
        "stress-ng" => Box::new(tool::Tool::stress()),
        "small-write" => Box::new(memory::SequentialWrite::small()?),
        "same-filled" => Box::new(memory::Reread::same_filled()?),
        _ => match sizes(name)[..] {
            ["scale", mib] => Box::new(memory::SequentialWrite::among(mib.parse()?)?),
            ["shared", mib] => Box::new(memory::SequentialWrite::among_shared(mib.parse()?)?),
            ["reread", touched, mib] => {
                Box::new(memory::Reread::new(touched.parse()?, mib.parse()?)?)
            }
            ["nginx", mib] => Box::new(http::Http::nginx_with(mib.parse()?)?),
            ["sqlite", "select", mib] => Box::new(sqlite::Sqlite::select_from(mib.parse()?)?),
            ["redis", "read", mib] => Box::new(redis::Redis::read_from(mib.parse()?)?),
            _ => bail!("there is no workload {name}"),
        },
    })
}

/// The parts of the name of a workload that comes in sizes: its kind, and numbers of MiB.
fn sizes(name: &str) -> Vec<&str> {
    name.split('-').collect()
}

/// Moves into a cgroup, sets `name` up, says `ready`, and then, for each line with a number of
/// nanoseconds, works so long and says how many units it has done in how many nanoseconds.
pub(crate) fn run(name: &str, procs: &Path) -> Result<()> {
    std::fs::write(procs, "0").with_context(|| procs.display().to_string())?;
    let mut work = make(name)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready")?;
    out.flush()?;
    let mut line = String::new();
    loop {
        line.clear();
        if std::io::stdin().lock().read_line(&mut line)? == 0 {
            return Ok(());
        }
        let wanted = Duration::from_nanos(line.trim().parse()?);
        let start = Instant::now();
        let mut units = 0;
        let time = loop {
            work.unit()?;
            units += 1;
            let time = start.elapsed();
            if time >= wanted {
                break time;
            }
        };
        writeln!(out, "{units} {}", time.as_nanos())?;
        out.flush()?;
    }
}
