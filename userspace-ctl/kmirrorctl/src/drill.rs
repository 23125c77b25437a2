// SPDX-License-Identifier: GPL-2.0

//! A fire drill: a page of a process is reported as broken, and looked at afterwards.

use crate::error::{Error, Kind, Result};
use crate::keyed::Keyed;
use crate::pageflags::{self, Entry, PageFlags};
use crate::process;
use crate::replica_list;
use crate::system::{self, System};
use crate::tree;
use crate::units::PAGE;
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A page to be broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Its process.
    pub pid: u32,
    /// Its address.
    pub address: u64,
    /// Its frame.
    pub frame: u64,
    /// The cgroup of the process.
    pub cgroup: String,
    /// How often the frame is mapped.
    pub mapped: Option<u64>,
    /// Whether it has PG_mirrored.
    pub mirrored: bool,
}

/// Where the kernel takes reports of broken memory from an administrator. Neither destroys what is in
/// the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// debugfs, with the module hwpoison-inject; takes a frame number.
    CorruptPfn,
    /// sysfs, with CONFIG_MEMORY_HOTPLUG; takes an address.
    HardOffline,
}

/// What became of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It has its contents, in this frame; `None` if it is shared and mapped again only when touched.
    Restored(Option<u64>),
    /// It is gone: the next one to touch it is killed.
    Lost,
    /// The kernel has dropped it; what was in it is read again, from a file.
    Dropped,
    /// It is where it was: the report was not accepted.
    Unharmed,
}

impl Target {
    /// The page at an address of a process.
    pub fn at(system: &System, pid: u32, addr: u64) -> Result<Self> {
        let cgroup = process::cgroup(system, pid)?;
        match Entry::read(system, pid, addr)? {
            Entry::Present(frame) => Ok(Self {
                pid,
                address: addr / PAGE * PAGE,
                frame,
                cgroup,
                mapped: pageflags::map_count(system, frame),
                mirrored: PageFlags::read(system, frame)?.has("mirrored"),
            }),
            Entry::Swapped | Entry::None => Err(Error::missing(format!(
                "there is no page in memory at {addr:#x} of process {pid}; choose an address that it uses, from /proc/{pid}/maps"
            ))),
        }
    }

    /// A page of a protected cgroup that has a replica and is flagged, chosen by `random`.
    pub fn random(system: &System, path: &str, random: u64) -> Result<Self> {
        let mut ids = BTreeSet::new();
        for group in tree::walk(system, path)? {
            ids.insert(group.id);
        }
        let replicas = replica_list::read(system)?;
        let frames: BTreeSet<u64> = replicas
            .iter()
            .filter(|replica| ids.contains(&replica.cgroup))
            .map(|replica| replica.primary)
            .collect();
        let mut found = Vec::new();
        for pid in process::members(system, path)? {
            // A process that ends meanwhile has no pages to break.
            let _ = mapped_frames(system, pid, &frames, &mut found);
        }
        // Those that are not flagged would be lost. From a random one on, the first that is.
        let start = random as usize % found.len().max(1);
        let in_turn = found[start..].iter().chain(&found[..start]);
        for &(pid, address, frame) in in_turn {
            if PageFlags::read(system, frame)?.has("mirrored") {
                return Self::at(system, pid, address);
            }
        }
        Err(Error::missing(format!(
            "no process of {path} has a page with a replica; `kmirrorctl sync {path}` copies them, and `kmirrorctl doctor {path}` says why not"
        )))
    }
}

/// Adds the pages of a process whose frame is among `frames`.
fn mapped_frames(
    system: &System,
    pid: u32,
    frames: &BTreeSet<u64>,
    found: &mut Vec<(u32, u64, u64)>,
) -> Result<()> {
    const CHUNK: u64 = 1 << 16;
    for vma in process::mappings(system, pid)? {
        // The fixed page of vsyscall has no entry in pagemap.
        if vma.name == "[vsyscall]" {
            continue;
        }
        let mut at = vma.start;
        while at < vma.end {
            let pages = ((vma.end - at) / PAGE).min(CHUNK);
            let entries = pageflags::entries(system, pid, at, pages as usize)?;
            for (address, entry) in (at..).step_by(PAGE as usize).zip(entries) {
                if let Entry::Present(frame) = entry {
                    if frames.contains(&frame) {
                        found.push((pid, address, frame));
                    }
                }
            }
            at += pages * PAGE;
        }
    }
    Ok(())
}

impl Door {
    /// The first that this kernel has.
    pub fn find(system: &System) -> Result<Self> {
        let doors = [Self::CorruptPfn, Self::HardOffline];
        let open = doors.into_iter().find(|door| door.path(system).exists());
        open.ok_or_else(|| {
            Error::new(
                Kind::Setup,
                "the kernel takes no reports of broken memory; `modprobe hwpoison-inject` (CONFIG_HWPOISON_INJECT) with debugfs mounted opens a door",
            )
        })
    }

    /// Its file.
    pub fn path(self, system: &System) -> PathBuf {
        system.path(match self {
            Self::CorruptPfn => "/sys/kernel/debug/hwpoison/corrupt-pfn",
            Self::HardOffline => "/sys/devices/system/memory/hard_offline_page",
        })
    }

    fn report(self, system: &System, frame: u64) -> std::io::Result<()> {
        let text = match self {
            Self::CorruptPfn => format!("{frame:#x}"),
            Self::HardOffline => format!("{:#x}", frame * PAGE),
        };
        fs::write(self.path(system), text)
    }
}

/// Reports the frame of `target` as broken, if it still is the page's. Its cgroup stands still from
/// the look at the page tables to the report, so that the process does not give the frame back
/// meanwhile and another one gets it.
pub fn strike(system: &System, door: Door, target: &Target) -> Result<Outcome> {
    let _frozen = Frozen::freeze(system, target)?;
    let now = Target::at(system, target.pid, target.address)?;
    if now.frame != target.frame {
        return Err(Error::failed(format!(
            "the page has moved from frame {:#x} to {:#x} meanwhile, and nothing was broken; try again",
            target.frame, now.frame
        )));
    }
    let restored = || Keyed::read(&system.mirror("events")).map(|events| events.get("restored"));
    let before = restored()?;
    let reported = door.report(system, target.frame);
    match (Entry::read(system, target.pid, target.address)?, reported) {
        (Entry::Present(frame), _) if frame != target.frame => Ok(Outcome::Restored(Some(frame))),
        (Entry::Present(_), Ok(())) => Ok(Outcome::Unharmed),
        (Entry::Present(_), Err(error)) => Err(Error::failed(format!(
            "the kernel did not take the report: {error}; `dmesg` says why"
        ))),
        (Entry::None, _) if restored()? > before => Ok(Outcome::Restored(None)),
        (Entry::Swapped, _) => Ok(Outcome::Lost),
        (Entry::None, _) => Ok(Outcome::Dropped),
    }
}

/// A cgroup whose processes stand still, until this is dropped.
struct Frozen(PathBuf);

impl Frozen {
    /// Stops them, unless that would stop this program too, or somebody has stopped them already.
    fn freeze(system: &System, target: &Target) -> Result<Option<Self>> {
        let dir = system.cgroup(&target.cgroup);
        let file = dir.join("cgroup.freeze");
        let own = process::cgroup(system, std::process::id()).unwrap_or_default();
        let inside = format!("{own}/").starts_with(&format!("{}/", target.cgroup));
        match system::read_if_there(&file)? {
            Some(text) if text == "0" && !inside => {}
            _ => return Ok(None),
        }
        fs::write(&file, "1").map_err(|error| Error::file(&file, &error))?;
        let frozen = Self(file);
        wait_frozen(&dir.join("cgroup.events"))?;
        Ok(Some(frozen))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // Nothing is to be done if the cgroup has gone.
        let _ = fs::write(&self.0, "0");
    }
}

/// Waits for "frozen 1" in cgroup.events, which wakes those who poll it.
fn wait_frozen(path: &std::path::Path) -> Result<()> {
    const BOUND: Duration = Duration::from_secs(10);
    let failed = |error: &std::io::Error| Error::file(path, error);
    let mut file = File::open(path).map_err(|error| failed(&error))?;
    let end = Instant::now() + BOUND;
    loop {
        let mut text = String::new();
        file.rewind().map_err(|error| failed(&error))?;
        file.read_to_string(&mut text)
            .map_err(|error| failed(&error))?;
        if text.lines().any(|line| line == "frozen 1") {
            return Ok(());
        }
        let left = end.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
        match poll(&mut fds, left) {
            Ok(0) => {
                return Err(Error::failed(
                    "the processes do not stand still within ten seconds, and nothing was broken; try again when they are less busy",
                ))
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(failed(&error.into())),
        }
    }
}
