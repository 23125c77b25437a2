// SPDX-License-Identifier: GPL-2.0

//! kmirrorctl shows and controls kmirror. See docs/ctl.md.

#![forbid(unsafe_code)]

use clap::Parser;
use kmirrorctl::cli::Cli;
use kmirrorctl::command;
use std::process::ExitCode;

fn main() -> ExitCode {
    match command::run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.text.is_empty() {
                eprintln!("kmirrorctl: {error}");
            }
            ExitCode::from(error.kind as u8)
        }
    }
}
