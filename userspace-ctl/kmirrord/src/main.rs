// SPDX-License-Identifier: GPL-2.0

//! kmirrord, the host's service for kmirror. See the library for how it works.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result};
use clap::Parser;
use kmirrord::cli::{manual, Cli};
use kmirrord::config::{Confine, LogFormat, Settings};
use kmirrord::confine::confine;
use kmirrord::metrics::{self, Metrics};
use kmirrord::nodes::Nodes;
use kmirrord::server::{self, Endpoint};
use kmirrord::service::Service;
use kmirrord::sys::sigbus;
use kmirrord::{journal, socket};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{error, info};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kmirrord: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let cli = Cli::parse();
    if cli.manual {
        return manual(&mut std::io::stdout()).context("cannot write the manual");
    }
    let file = match &cli.config {
        Some(path) => Settings::read(path)?,
        None => Settings::default(),
    };
    let settings = cli.settings.or(file);
    let limits = settings.limits()?;
    if cli.check {
        return Ok(());
    }
    journal::start(
        settings.log.unwrap_or(LogFormat::Auto),
        settings.log_level.as_deref().unwrap_or("info"),
    )?;

    // Everything that takes a file or a right, while both are there.
    let nodes = Nodes::of_this_host();
    let metrics = Metrics::new();
    let service = Service::new(limits, nodes, metrics.clone()).context("cannot make the pool")?;
    let endpoint = match settings.connect.clone() {
        Some(path) => Endpoint::Connect(path),
        None => Endpoint::Listen(socket::listen(settings.socket.as_deref())?),
    };
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot handle signals")?;
    sigbus::install().context("cannot handle SIGBUS")?;
    // Without systemd nobody listens, which is fine.
    let notify = |state| sd_notify::notify(false, &[state]);
    let confined = settings.confine.unwrap_or(Confine::Auto);
    let http = settings.metrics.as_ref().map(metrics::listen).transpose()?;
    notify(NotifyState::Ready).context("cannot tell systemd")?;

    confine(confined, matches!(endpoint, Endpoint::Connect(_)))?;
    // The first threads, which are confined like this one.
    if let Some(http) = http {
        metrics::start(http, metrics.clone())?;
    }
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if let Some(signal) = signals.forever().next() {
                // Guest memory and pool need no farewell.
                info!(signal, "the service ends");
                std::process::exit(0);
            }
        })
        .context("cannot start a thread")?;
    info!(instance = service.instance(), "ready");
    let served = server::serve(&endpoint, Arc::new(Mutex::new(service)), &metrics);
    if let Err(error) = &served {
        error!("{error:#}");
    }
    served
}
