// SPDX-License-Identifier: GPL-2.0

//! One boot of L2, and the cases that it runs; in L1.

use super::agent::Agent;
use super::l2::{place, L2};
use super::service::Service;
use crate::file;
use anyhow::{bail, Context, Result};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A kind of L2, and what is tested in it.
#[derive(Debug)]
pub struct Suite {
    /// What it is called.
    pub name: &'static str,
    /// The options of l2-start.
    pub options: &'static [&'static str],
    /// The flags of kmirrord, for one that has its device.
    pub service: Option<&'static [&'static str]>,
    /// Whether kmirrord-relay stands before it.
    pub relay: bool,
    /// Whether L1's KVM knows the doorbell.
    pub doorbell: bool,
    /// Names of cases.
    pub cases: &'static [&'static str],
    /// Seconds after which it has failed.
    pub limit: u64,
}

/// Has L2's kernel print each record of a machine check.
const RECORDS: &str = "tp_printk trace_event=mce:mce_record";

/// One that needs nothing special.
const PLAIN: Suite = Suite {
    name: "",
    options: &[],
    service: None,
    relay: false,
    doorbell: true,
    cases: &[],
    limit: 300,
};

/// All of them.
pub const ALL: &[Suite] = &[
    // A bit of everything, and the smallest guest, which boots fastest.
    Suite {
        name: "short",
        options: &["-s", "-f"],
        service: Some(POOL),
        relay: true,
        cases: &["mce_required", "doorbell", "heal_frame"],
        ..PLAIN
    },
    Suite {
        name: "small_pages",
        options: &["-c", "2", "-a", RECORDS],
        cases: &[
            "mce_required",
            "mce_optional",
            "mce_unprotected",
            "mce_stale",
            "mce_replica",
            "mce_hundred",
            "mce_save",
            "mce_system_call",
        ],
        limit: 400,
        ..PLAIN
    },
    Suite {
        name: "kernel_reads",
        options: &["-c", "2"],
        cases: &[
            "mce_system_calls",
            "mce_system_call_lost",
            "mce_copy_on_write",
            "mce_core_dump",
            "mce_read",
            "mce_read_dirty_file",
            "mce_read_lost",
            "mce_process_vm_readv",
        ],
        ..PLAIN
    },
    Suite {
        name: "huge_pages",
        options: &["-b", "huge", "-m", "640"],
        cases: &["mce_huge_backing"],
        ..PLAIN
    },
    Suite {
        name: "service",
        options: &["-c", "2", "-s", "-f"],
        service: Some(POOL),
        relay: true,
        cases: &[
            "doorbell",
            "host_replicas",
            "host_and_guest_replicas",
            "heal_frame",
            "heal_hundred",
            "killed_in_store",
            "killed_in_heal",
            "killed_again",
        ],
        limit: 600,
        ..PLAIN
    },
    Suite {
        name: "no_service",
        options: &["-c", "2", "-f", "-r", "192"],
        cases: &["service_absent", "heal_frame", "region_elsewhere"],
        ..PLAIN
    },
    Suite {
        name: "no_doorbell",
        options: &["-c", "2", "-s", "-f"],
        service: Some(POOL),
        doorbell: false,
        cases: &["doorbell_unknown", "host_replicas", "service_lost"],
        ..PLAIN
    },
    Suite {
        name: "huge_pages_service",
        options: &["-b", "huge", "-m", "640", "-s", "-f"],
        service: Some(POOL),
        cases: &[
            "huge_stale_readable",
            "heal_huge",
            "heal_huge_stale",
            "huge_stale_lost",
        ],
        limit: 420,
        ..PLAIN
    },
    Suite {
        name: "sleep",
        options: &["-c", "2", "-s", "-w"],
        service: Some(POOL),
        cases: &["mce_suspend"],
        limit: 150,
        ..PLAIN
    },
];

/// What kmirrord may hold.
const POOL: &[&str] = &["--pool", "64M"];

impl Suite {
    /// The cases that these names mean, be they names of suites or of cases; all of them if there are none.
    pub fn chosen(&self, names: &[String]) -> Vec<&'static str> {
        let named = |case: &str| names.iter().any(|name| name == case || name == self.name);
        let cases = self.cases.iter().copied();
        cases
            .filter(|case| names.is_empty() || named(case))
            .collect()
    }

    /// Runs `cases` of it, and copies what it says, as a subtest of KTAP. Whether nothing failed.
    pub fn run(&self, cases: &[&str]) -> Result<bool> {
        super::kvm::load(self.doorbell)?;
        super::kvm::count_hypercalls()?;
        let service = self
            .service
            .map(|flags| Service::start(flags, self.relay))
            .transpose()?;
        let l2 = L2::start(self.options)?;
        let pid = l2.qemu();
        let port = UnixStream::connect(place("L2_PORT")?).context("the port of L2")?;
        // Ends with QEMU, when it has shown everything.
        let mut tail = Command::new("tail")
            .args(["-n", "+1", "-f", &format!("--pid={pid}")])
            .arg(place("L2_LOG")?)
            .stdout(Stdio::piped())
            .spawn()
            .context("tail")?;
        let said = tail.stdout.take().context("tail says nothing")?;
        let copier = std::thread::spawn(move || {
            for line in BufReader::new(said).split(b'\n').map_while(Result::ok) {
                println!("  {}", String::from_utf8_lossy(&line).trim_end());
            }
        });
        let served = Agent::new(l2, cases, service).serve(port, Duration::from_secs(self.limit));
        let ended = matches!(served, Ok(true));
        if !ended {
            match served {
                Err(error) => println!("# {}: {error:#}", self.name),
                _ => println!("# {}: L2 has not ended after {} s", self.name, self.limit),
            }
            // It may have died by itself.
            let _ = L2::running()?.kill();
        }
        tail.wait()?;
        if copier.join().is_err() {
            bail!("what L2 says cannot be copied");
        }
        let status = file::read(place("L2_DIR")?.join("status"))?;
        let status = status.lines().find_map(|line| line.strip_prefix("ended "));
        if !ended || status.is_none() {
            let what = if ended { "has died" } else { "hangs" };
            println!("# {}: L2 {what}; the last lines of its console:", self.name);
            last_lines(&file::read(place("L2_CONSOLE")?)?);
            println!("# {}: what QEMU has said:", self.name);
            last_lines(&file::read(place("L2_DIR")?.join("qemu"))?);
            // Of the state of the processors at each reset, where they were; and why, if QEMU says so.
            let resets = file::read(place("L2_DIR")?.join("resets")).unwrap_or_default();
            let told = |line: &&str| !line.contains('=') || line.contains("IP=");
            println!("# {}: its resets:", self.name);
            last_lines(&resets.lines().filter(told).collect::<Vec<_>>().join("\n"));
        }
        // Skipped altogether is not failed.
        let passed = ended && matches!(status, Some("0" | "4"));
        if !passed && self.service.is_some() {
            println!("# {}: what kmirrord has said:", self.name);
            last_lines(&file::read(super::service::LOG)?);
        }
        Ok(passed)
    }
}

fn last_lines(text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(40)..] {
        println!("# {line}");
    }
}
