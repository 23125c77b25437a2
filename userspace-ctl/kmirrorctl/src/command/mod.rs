// SPDX-License-Identifier: GPL-2.0

//! The commands. Each reads, prints and ends; what they know is in the rest of the library.

use crate::cli::{Cli, Command};
use crate::error::{Error, Result};
use crate::group::Group;
use crate::paint::Paint;
use crate::system::System;
use crate::{table, tree};
use serde::Serialize;
use std::io::{self, Write};

mod doctor;
mod events;
mod exporter;
mod inject;
mod manual;
mod plot;
mod region;
mod settings;
mod status;
mod top;
mod unit;

pub(crate) use events::sentence;

/// What all commands are given.
#[derive(Debug)]
pub struct Context {
    system: System,
    json: bool,
    paint: Paint,
}

/// Does what the command line says.
pub fn run(cli: &Cli) -> Result<()> {
    let cx = Context {
        system: System::at(&cli.root),
        json: cli.json,
        paint: Paint::stdout(cli.color),
    };
    match &cli.command {
        Command::Status(args) => status::run(&cx, args),
        Command::Top(args) => top::run(&cx, args),
        Command::On(args) => settings::on(&cx, args),
        Command::Off(args) => settings::off(&cx, args),
        Command::Set(args) => settings::set(&cx, args),
        Command::Sync(args) => settings::sync(&cx, args),
        Command::Region(args) => region::run(&cx, args),
        Command::Events(args) => events::run(&cx, args),
        Command::Doctor(args) => doctor::run(&cx, args),
        Command::Inject(args) => inject::run(&cx, args),
        Command::Exporter(args) => exporter::run(&cx, args),
        Command::Unit(args) => unit::run(&cx, args),
        Command::Plot(args) => plot::run(&cx, args),
        Command::Completions(args) => manual::completions(args),
        Command::Man(args) => manual::pages(args),
    }
}

impl Context {
    /// The path of the cgroup that is meant; the root's if none is.
    fn resolve(&self, path: Option<&str>) -> Result<String> {
        match path {
            Some(path) => tree::resolve(&self.system, path),
            None => {
                self.system.require_mirror()?;
                Ok("/".into())
            }
        }
    }

    /// Prints one value as JSON, or what `text` makes of it.
    fn print<T: Serialize>(&self, value: &T, text: impl FnOnce(Paint) -> String) -> Result<()> {
        if self.json {
            print(&format!("{}\n", json(value, true)?))
        } else {
            print(&text(self.paint))
        }
    }

    /// Prints a cgroup as it is now.
    fn print_group(&self, path: &str) -> Result<()> {
        let group = self.group(path)?;
        self.print(&group, |paint| table::detail(&group, paint))
    }

    /// A cgroup with all its numbers.
    fn group(&self, path: &str) -> Result<Group> {
        let group = tree::group(&self.system, path)?;
        Ok(group.with_stat(&self.system)?.with_other(&self.system))
    }
}

/// A value as JSON, over several lines or in one.
fn json<T: Serialize>(value: &T, pretty: bool) -> Result<String> {
    let text = if pretty {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    text.map_err(|error| Error::failed(format!("this cannot be said in JSON: {error}")))
}

/// Writes to standard output. A reader that has seen enough, such as head, is no error.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Error::failed(format!(
            "standard output cannot be written: {error}; is the disk full?"
        ))),
    }
}
