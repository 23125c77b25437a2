// SPDX-License-Identifier: GPL-2.0

//! `kmirrorctl completions` and `man`, for packages.

use super::print;
use crate::cli::{Cli, CompletionsArgs, ManArgs};
use crate::error::{Error, Result};
use clap::CommandFactory;
use std::fs;

pub(super) fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kmirrorctl", &mut text);
    print(&String::from_utf8_lossy(&text))
}

pub(super) fn pages(args: &ManArgs) -> Result<()> {
    fs::create_dir_all(&args.dir).map_err(|error| Error::file(&args.dir, &error))?;
    // clap_mangen takes section 1 for granted; this is a command of the administrator, section 8.
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    page(args, command.clone(), "kmirrorctl")?;
    for sub in command.get_subcommands() {
        let name = format!("kmirrorctl-{}", sub.get_name());
        page(args, sub.clone(), &name)?;
    }
    Ok(())
}

fn page(args: &ManArgs, command: clap::Command, name: &str) -> Result<()> {
    let command = command
        .name(name.to_owned())
        .display_name(name.to_owned())
        .bin_name(name.replacen('-', " ", 1));
    let man = clap_mangen::Man::new(command)
        .section("8")
        .manual("kmirror")
        .source(concat!("kmirror ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    let path = args.dir.join(format!("{name}.8"));
    man.render(&mut text)
        .and_then(|()| fs::write(&path, text))
        .map_err(|error| Error::file(&path, &error))
}
