// SPDX-License-Identifier: GPL-2.0

//! QEMU's monitor, by its machine protocol.

use crate::wait;
use anyhow::{bail, Context, Result};
use serde_json::{json, Value};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A connection. There can be one at a time.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects to the socket at `path`.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| path.display().to_string())?;
        stream.set_read_timeout(Some(wait::BOUND))?;
        let mut qmp = Self {
            stream: BufReader::new(stream),
        };
        let greeting = qmp.read()?;
        if greeting.get("QMP").is_none() {
            bail!("this is no QEMU: {greeting}");
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Executes a command and returns what it returns.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{request}")?;
        loop {
            let mut answer = self.read().context(command.to_owned())?;
            if let Some(error) = answer.get("error") {
                bail!("{command}: {}", error["desc"].as_str().unwrap_or("?"));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            // An event, which nobody waits for.
        }
    }

    /// Executes a command of the monitor for humans and returns its text.
    pub fn human(&mut self, command: &str) -> Result<String> {
        let value = self.execute("human-monitor-command", json!({ "command-line": command }))?;
        Ok(value.as_str().unwrap_or_default().to_owned())
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("QEMU has gone");
        }
        Ok(serde_json::from_str(&line)?)
    }
}
