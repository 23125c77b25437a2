// SPDX-License-Identifier: GPL-2.0

//! kmirrord-relay, which keeps QEMU's connection while kmirrord is started anew.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use kmirrord::config::{Confine, LogFormat};
use kmirrord::confine::confine;
use kmirrord::{journal, relay, socket};
use sd_notify::NotifyState;
use tracing::info;

/// Keeps QEMU's connection while kmirrord is started anew
///
/// QEMU connects to this program instead of kmirrord, and this to kmirrord. When kmirrord ends, for
/// whatever reason, and is started again, QEMU and the guest's device go on: without, the device
/// would be lost until the virtual machine is started anew. It passes messages of vhost-user on, and
/// sees nothing of the guest.
#[derive(Debug, Parser)]
#[command(name = "kmirrord-relay", version)]
struct Cli {
    /// Where QEMU connects to; not needed if systemd hands the socket over
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Where kmirrord listens
    #[arg(long, value_name = "PATH", required_unless_present = "manual")]
    service: Option<PathBuf>,

    /// Files, network and system calls that are not needed: taken away if the kernel can, or else refuse to start
    #[arg(long, value_enum, default_value = "auto")]
    confine: Confine,

    /// How to log, to stderr
    #[arg(long, value_enum, default_value = "auto")]
    log: LogFormat,

    /// What to log
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log_level: String,

    /// Print the manual page, as roff, and end
    #[arg(long)]
    manual: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kmirrord-relay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let cli = Cli::parse();
    if cli.manual {
        return clap_mangen::Man::new(Cli::command())
            .section("8")
            .render(&mut std::io::stdout())
            .context("cannot write the manual");
    }
    journal::start(cli.log, &cli.log_level)?;
    let service = cli.service.context("no service: give --service")?;
    let listener = socket::listen(cli.socket.as_deref())?;
    sd_notify::notify(false, &[NotifyState::Ready]).context("cannot tell systemd")?;
    confine(cli.confine, true)?;
    info!("ready");
    relay::serve(&listener, &service)
}
