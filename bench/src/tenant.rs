// SPDX-License-Identifier: GPL-2.0

//! A workload as the driver sees it: a process in a cgroup of its own that works when told to.

use anyhow::{bail, ensure, Context, Result};
use kmirror_selftests::cgroup::Cgroup;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Set in the environment of a workload that should register its memory with userfaultfd.
pub(crate) const REGISTER: &str = "BENCH_REGISTER";

/// What was done in a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    /// Units of work, all of them whole.
    pub(crate) units: u64,
    /// Time that they took.
    pub(crate) time: Duration,
}

/// A running workload.
#[derive(Debug)]
pub(crate) struct Tenant {
    cgroup: Cgroup,
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Tenant {
    /// Starts it and waits until it is ready for orders.
    pub(crate) fn start(name: &str, cgroup: Cgroup, register: bool) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        if register {
            command.env(REGISTER, "1");
        }
        let mut child = command
            .args(["work", name])
            .arg(cgroup.file("cgroup.procs"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().context("no stdin")?;
        let answers = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut tenant = Self {
            cgroup,
            child,
            orders,
            answers,
        };
        let line = tenant.line()?;
        ensure!(line == "ready", "{name} says {line:?}");
        Ok(tenant)
    }

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Has it work for so long, and waits until it has.
    pub(crate) fn work(&mut self, time: Duration) -> Result<Done> {
        self.begin(time)?;
        self.end()
    }

    /// Has it work for so long.
    pub(crate) fn begin(&mut self, time: Duration) -> Result<()> {
        writeln!(self.orders, "{}", time.as_nanos())?;
        Ok(())
    }

    /// Waits until it has.
    pub(crate) fn end(&mut self) -> Result<Done> {
        let line = self.line()?;
        let mut words = line.split(' ').map(str::parse::<u64>);
        match (words.next(), words.next()) {
            (Some(Ok(units)), Some(Ok(ns))) => Ok(Done {
                units,
                time: Duration::from_nanos(ns),
            }),
            _ => bail!("the workload says {line:?}"),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the workload has ended");
        Ok(line.trim_end().to_owned())
    }

    /// Ends it with all that it has started, and removes its cgroup.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.cgroup.kill()?;
        self.child.wait()?;
        self.cgroup.remove_tree()
    }
}
