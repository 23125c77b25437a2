// SPDX-License-Identifier: GPL-2.0

//! L1's end of the port: does what L2 asks for (see [`port`](super::port)).

use super::l2::L2;
use super::service::Service;
use crate::{file, wait};
use anyhow::{bail, Context, Result};
use serde_json::json;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// One that serves one L2.
#[derive(Debug)]
pub struct Agent<'a> {
    l2: L2,
    cases: &'a [&'a str],
    service: Option<Service>,
}

impl<'a> Agent<'a> {
    /// One for this L2, which shall run `cases`, and may have kmirrord.
    pub fn new(l2: L2, cases: &'a [&'a str], service: Option<Service>) -> Self {
        Self { l2, cases, service }
    }

    /// Serves until L2 is gone. Whether that was before `bound` had passed.
    pub fn serve(&mut self, port: UnixStream, bound: Duration) -> Result<bool> {
        let end = Instant::now() + bound;
        let mut port = BufReader::new(port);
        let mut line = String::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            port.get_ref().set_read_timeout(Some(left))?;
            match port.read_line(&mut line) {
                Ok(0) => return Ok(true),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(true),
                Err(error) => return Err(error).context("the port of L2"),
            }
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            if let [number, order, arguments @ ..] = &words[..] {
                let answer = match self.order(order, arguments) {
                    Ok(value) => format!("{number} ok {value}"),
                    Err(error) => format!("{number} error {error:#}"),
                };
                // One line, whatever a monitor has said.
                let answer = answer.replace(['\r', '\n'], " ");
                writeln!(port.get_mut(), "{}", answer.trim_end())?;
            }
            line.clear();
        }
    }

    fn order(&mut self, order: &str, arguments: &[&str]) -> Result<String> {
        match (order, arguments) {
            ("cases", []) => Ok(self.cases.join(" ")),
            ("poison", [frame]) => {
                self.l2.backing(frame.parse()?)?.poison()?;
                Ok(String::new())
            }
            // Bytes of the pages behind a frame.
            ("page", [frame]) => Ok(self.l2.backing(frame.parse()?)?.page().to_string()),
            // How often the doorbell was rung by hypercall.
            ("kicks", []) => Ok(super::kvm::kicks()?.to_string()),
            ("save", []) => self.save(),
            ("corrupted", []) => Ok(file::meminfo("HardwareCorrupted")?.to_string()),
            ("kmirrord", arguments) => {
                let service = self.service.as_mut().context("there is no kmirrord")?;
                match arguments {
                    ["start"] => service.start_again()?,
                    ["kill"] => service.kill()?,
                    // Not now, but when it has come back from this system call.
                    ["kill-after", call] => service.kill_after(call.parse()?)?,
                    ["killed"] => service.killed()?,
                    _ => bail!("kmirrord does not {}", arguments.join(" ")),
                }
                Ok(String::new())
            }
            _ => bail!("{order}: no such order"),
        }
    }

    /// Saves L2 as for a migration, to nowhere, and lets it go on. What QEMU says.
    fn save(&mut self) -> Result<String> {
        let mut monitor = self.l2.monitor()?;
        let to = json!({ "uri": "exec:cat >/dev/null" });
        if let Err(error) = monitor.execute("migrate", to) {
            return Ok(format!("refused: {error:#}"));
        }
        let mut state = String::new();
        wait::until("the guest is saved", wait::BOUND * 2, || {
            let info = monitor.execute("query-migrate", json!({}))?;
            state = info["status"].as_str().unwrap_or("?").to_owned();
            Ok(matches!(&*state, "completed" | "failed" | "cancelled"))
        })?;
        monitor.execute("cont", json!({}))?;
        Ok(state)
    }
}
