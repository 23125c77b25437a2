// SPDX-License-Identifier: GPL-2.0

//! Programs that workloads start. They are in the workload's cgroup, and end with it.

use anyhow::{ensure, Context, Result};
use kmirror_selftests::wait;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// How long a server may take to start, in seconds of the guest.
const START: Duration = Duration::from_secs(600);

/// A command without input and output.
pub(super) fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Runs one to its end, which must be a good one. If it is not, what it has complained of is told.
pub(super) fn run(words: &[&str]) -> Result<()> {
    let output = command(words)
        .stderr(Stdio::piped())
        .output()
        .with_context(|| words.join(" "))?;
    ensure!(
        output.status.success(),
        "{}: {}: {}",
        words.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(())
}

/// Starts a server, and waits until `open` can reach it: it tells nobody when it is up.
pub(super) fn serve<T, E>(
    mut command: Command,
    mut open: impl FnMut() -> Result<T, E>,
) -> Result<T> {
    let mut child = command
        .spawn()
        .with_context(|| format!("{:?}", command.get_program()))?;
    let mut client = None;
    wait::until("a server that answers", START, || {
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("{:?} has ended: {status}", command.get_program());
        }
        client = open().ok();
        Ok(client.is_some())
    })?;
    client.context("no server")
}

/// A program that is told what to do through a pipe, and says when it has.
pub(super) struct Dialogue {
    // Held, so that it lives as long as this.
    _child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Dialogue {
    pub(super) fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{:?}", command.get_program()))?;
        let orders = child.stdin.take().context("no stdin")?;
        let answers = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self {
            _child: child,
            orders,
            answers,
        })
    }

    /// Sends `orders`, the last of which makes the program print `end` on a line of its own; returns
    /// what it has printed before.
    pub(super) fn ask(&mut self, orders: &str, end: &str) -> Result<String> {
        self.orders.write_all(orders.as_bytes())?;
        let mut said = String::new();
        loop {
            let start = said.len();
            ensure!(
                self.answers.read_line(&mut said)? > 0,
                "the program has ended"
            );
            if said[start..].trim_end() == end {
                said.truncate(start);
                return Ok(said);
            }
        }
    }
}
