// SPDX-License-Identifier: GPL-2.0

//! The cgroups of one run, and the processes in them.

use super::model::{FAMILIES, GROUPS};
use super::wire::{self, Order};
use crate::cgroup::Cgroup;
use crate::mirror::{Mirror, NEVER_MS};
use crate::{file, wait};
use anyhow::{bail, Context, Result};
use nix::poll::PollFlags;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The most memory that a family may have at first.
const MEMORY: u64 = 48 << 20;
/// What a batch may take. A fsync() or a compaction on a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(90);

/// One family: a cgroup with two below it.
pub(super) struct Family {
    pub(super) cgroup: Cgroup,
    pub(super) groups: Vec<Cgroup>,
}

/// All families. They go with the value.
pub(super) struct Sandbox {
    pub(super) cgroup: Cgroup,
    pub(super) families: Vec<Family>,
}

impl Sandbox {
    /// Makes them below `parent`: protected, with epochs on demand.
    pub(super) fn new(parent: &Cgroup) -> Result<Self> {
        let cgroup = parent.child("soak")?;
        let mut sandbox = Self {
            cgroup,
            families: Vec::new(),
        };
        let mut above = parent.dir();
        for dir in [above.clone(), sandbox.cgroup.dir()] {
            above = dir;
            file::write(above.join("cgroup.subtree_control"), "+memory")?;
        }
        for number in 0..FAMILIES {
            let family = sandbox.cgroup.child(&format!("f{number}"))?;
            file::write(family.file("memory.max"), &MEMORY.to_string())?;
            let groups = (0..GROUPS).map(|group| family.child(&format!("g{group}")));
            let groups = groups.collect::<Result<_>>()?;
            let mirror = Mirror::of(&family);
            mirror.set("interval_ms", NEVER_MS)?;
            mirror.set("mode", "tracked")?;
            sandbox.families.push(Family {
                cgroup: family,
                groups,
            });
        }
        Ok(sandbox)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Err(error) = self.cgroup.remove_tree() {
            eprintln!("soak: the cgroups cannot be removed: {error:#}");
        }
    }
}

/// Why a process does not answer.
pub(super) struct Obituary {
    /// It is still there.
    pub(super) is_stuck: bool,
    /// How it has ended, or what it is doing.
    pub(super) text: String,
}

/// A process, as the director holds it.
pub(super) struct Hand {
    pub(super) pid: i32,
    socket: UnixStream,
    child: Option<Child>,
    /// Where its areas are.
    pub(super) places: BTreeMap<u64, u64>,
    /// Steps that it will be told, and those that it is doing, with their numbers in the run.
    pub(super) queue: Vec<(usize, Order)>,
    pub(super) busy: Vec<(usize, Order)>,
}

/// Waits for a new process to come forward.
fn accept(listener: &UnixListener, id: u64) -> Result<UnixStream> {
    if !wait::ready(listener.as_fd(), PollFlags::POLLIN, wait::BOUND)? {
        bail!("process {id} does not come forward");
    }
    let (mut socket, _) = listener.accept()?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let said = wire::receive(&mut socket)?;
    if said != [id] {
        bail!("{said:?} came forward, not {id}");
    }
    Ok(socket)
}

impl Hand {
    /// Starts one in a cgroup.
    pub(super) fn start(listener: &UnixListener, cgroup: &Cgroup, id: u64) -> Result<Self> {
        let procs = OpenOptions::new()
            .write(true)
            .open(cgroup.file("cgroup.procs"))?;
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["--soak-actor", &id.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // SAFETY: Only system calls, on a descriptor that is open in the child too.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                nix::unistd::write(&procs, b"0")?;
                Ok(())
            });
        }
        let child = command.spawn().context("starting a process")?;
        Ok(Self {
            pid: i32::try_from(child.id())?,
            socket: accept(listener, id)?,
            child: Some(child),
            places: BTreeMap::new(),
            queue: Vec::new(),
            busy: Vec::new(),
        })
    }

    /// Takes over one that another has forked.
    pub(super) fn adopt(listener: &UnixListener, parent: &Self, id: u64, pid: i32) -> Result<Self> {
        Ok(Self {
            pid,
            socket: accept(listener, id)?,
            child: None,
            places: parent.places.clone(),
            queue: Vec::new(),
            busy: Vec::new(),
        })
    }

    /// Lets it begin with what is queued.
    pub(super) fn launch(&mut self) -> Result<()> {
        assert!(self.busy.is_empty());
        self.busy = std::mem::take(&mut self.queue);
        let orders: Vec<Order> = self.busy.iter().map(|(_, order)| order.clone()).collect();
        wire::send(&mut self.socket, &wire::encode_orders(&orders))
    }

    /// What it has found, and what went wrong.
    pub(super) fn answer(&mut self) -> Result<(Vec<wire::Finding>, String)> {
        wire::decode_answer(&wire::receive(&mut self.socket)?)
    }

    /// Waits until it has gone.
    pub(super) fn leave(mut self) -> Result<()> {
        if let Some(child) = &mut self.child {
            child.wait()?;
        } else {
            // It closes its end when it goes.
            let _ = wire::receive(&mut self.socket);
        }
        Ok(())
    }

    /// How it has ended, or what it is doing instead of answering.
    pub(super) fn obituary(&mut self, error: &anyhow::Error) -> Obituary {
        let kind = error
            .downcast_ref::<std::io::Error>()
            .map(std::io::Error::kind);
        let is_stuck = kind == Some(std::io::ErrorKind::WouldBlock);
        let text = match (&mut self.child, is_stuck) {
            (Some(child), false) => match child.wait() {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            },
            (None, false) => "it has gone".into(),
            _ => {
                let ask =
                    |what| file::read(format!("/proc/{}/{what}", self.pid)).unwrap_or_default();
                format!(
                    "it does not answer, and is at {} {} {}",
                    ask("syscall"),
                    ask("stack"),
                    ask("stat")
                )
            }
        };
        Obituary { is_stuck, text }
    }

    /// Kills it.
    pub(super) fn kill(self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(self.pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
        self.leave()
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
