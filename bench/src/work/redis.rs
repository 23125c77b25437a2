// SPDX-License-Identifier: GPL-2.0

//! Redis with 10,000 values of 1,000 bytes, or more of them, under redis-benchmark.

use super::program::{command, run, serve};
use super::Work;
use anyhow::{ensure, Result};
use kmirror_selftests::wait;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const KEYS: u64 = 10_000;
/// Of a value.
const BYTES: &str = "1000";

/// How long a snapshot may take, in seconds of the guest.
const SNAPSHOT: Duration = Duration::from_secs(600);

/// What is asked of it in a unit.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mix {
    /// As many values read as written.
    Even,
    /// Nineteen reads for a write.
    ReadMostly,
    /// As many read as written, and a snapshot to a file (BGSAVE), which forks.
    Snapshot,
}

pub(super) struct Redis {
    mix: Mix,
    /// How many there may be.
    keys: String,
    stream: BufReader<TcpStream>,
}

/// Requests at random keys, from ten connections, `at_once` from each before it waits for an answer.
fn requests(test: &str, count: &str, keys: &str, at_once: &str) -> Result<()> {
    run(&[
        "redis-benchmark",
        "-q",
        "-t",
        test,
        "-n",
        count,
        "-c",
        "10",
        "-r",
        keys,
        "-d",
        BYTES,
        "-P",
        at_once,
    ])
}

impl Redis {
    pub(super) fn new(mix: Mix) -> Result<Self> {
        Self::with(mix, KEYS, "1")
    }

    /// Nineteen reads for a write, with so many MiB of values.
    pub(super) fn read_from(mib: u64) -> Result<Self> {
        Self::with(Mix::ReadMostly, mib * 1024, "32")
    }

    /// Filled with so many requests at once.
    fn with(mix: Mix, keys: u64, at_once: &str) -> Result<Self> {
        // The snapshot of the mode before, which a server would load first.
        match fs::remove_file("/tmp/dump.rdb") {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            done => done?,
        }
        let server = command(&[
            "redis-server",
            "--port",
            "6379",
            "--save",
            "",
            "--dir",
            "/tmp",
            // What compresses is the snapshot's process, not what is measured.
            "--rdbcompression",
            "no",
            // How often a second it looks whether a snapshot is done: a unit is not to end with a tick.
            "--hz",
            "500",
        ]);
        let stream = serve(server, || TcpStream::connect(("127.0.0.1", 6379)))?;
        // At random: of three for each key, one key in twenty has had none.
        let (count, keys) = ((3 * keys).to_string(), keys.to_string());
        requests("set", &count, &keys, at_once)?;
        Ok(Self {
            mix,
            keys,
            stream: BufReader::new(stream),
        })
    }

    fn requests(&self, test: &str, count: &str) -> Result<()> {
        requests(test, count, &self.keys, "1")
    }

    /// What redis answers to a command, in one piece.
    fn ask(&mut self, command: &str) -> Result<String> {
        write!(self.stream.get_mut(), "{command}\r\n")?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if let Some(length) = line.strip_prefix('$') {
            let mut text = vec![0; length.trim().parse::<usize>()? + 2];
            self.stream.read_exact(&mut text)?;
            line = String::from_utf8(text)?;
        }
        Ok(line)
    }

    /// Requests while a snapshot is made, and all of it.
    fn snapshot(&mut self) -> Result<()> {
        let said = self.ask("BGSAVE")?;
        ensure!(said.starts_with("+Background saving"), "BGSAVE: {said:?}");
        self.requests("set,get", "500")?;
        wait::until("a snapshot", SNAPSHOT, || {
            let said = self.ask("INFO persistence")?;
            if said.contains("rdb_bgsave_in_progress:1") {
                return Ok(false);
            }
            ensure!(said.contains("rdb_last_bgsave_status:ok"), "{said}");
            Ok(true)
        })
    }
}

impl Work for Redis {
    fn unit(&mut self) -> Result<()> {
        match self.mix {
            Mix::Even => self.requests("set,get", "500"),
            Mix::ReadMostly => {
                self.requests("get", "1900")?;
                self.requests("set", "100")
            }
            Mix::Snapshot => self.snapshot(),
        }
    }
}
