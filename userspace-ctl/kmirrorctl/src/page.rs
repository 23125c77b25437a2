// SPDX-License-Identifier: GPL-2.0

//! One page: would it survive, and why not?

use crate::error::{Error, Result};
use crate::finding::Finding;
use crate::pageflags::{Entry, PageFlags};
use crate::process::{self, Vma};
use crate::replica_list::{self, Replica};
use crate::system::System;
use crate::tree;
use crate::units::PAGE;
use serde::Serialize;

/// What can be seen of a page from outside. The dirty bit of its page-table entry cannot: only the
/// kernel sees that.
#[derive(Clone, Debug, Serialize)]
pub struct Evidence {
    /// Its process.
    pub pid: u32,
    /// Its address.
    pub address: u64,
    /// The cgroup of the process.
    pub cgroup: String,
    /// Whether the mode in force there protects it.
    pub protected: bool,
    /// The mapping that it is in.
    pub vma: Option<Vma>,
    /// What the page tables have.
    pub entry: Entry,
    /// What the kernel says about the frame.
    pub flags: PageFlags,
    /// Its replica; `None` if there is none, or the list cannot be read.
    pub replica: Option<Replica>,
    /// Whether the list of replicas could be read.
    pub replicas_known: bool,
    /// Pages of the cgroup that are stale now.
    pub stale: u64,
    /// Pages of the cgroup in processes with a secondary MMU.
    pub notifier: u64,
}

/// Whether it would survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It would.
    Current,
    /// It would, unless it has been written since its last epoch.
    CurrentUnlessWritten,
    /// It would not.
    NotCurrent,
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Whether it would survive.
    pub state: State,
    /// Why, and what to do.
    #[serde(flatten)]
    pub finding: Finding,
}

impl Evidence {
    /// Collects it.
    pub fn collect(system: &System, pid: u32, addr: u64) -> Result<Self> {
        let cgroup = process::cgroup(system, pid)?;
        let group = tree::group(system, &cgroup)?.with_stat(system)?;
        let vma = process::mappings(system, pid)?
            .into_iter()
            .find(|vma| (vma.start..vma.end).contains(&addr));
        let entry = match vma {
            Some(_) => Entry::read(system, pid, addr)?,
            None => Entry::None,
        };
        let (mut flags, mut replica, mut replicas_known) = (PageFlags::default(), None, false);
        if let Entry::Present(pfn) = entry {
            flags = PageFlags::read(system, pfn)?;
            if let Ok(all) = replica_list::read(system) {
                replicas_known = true;
                replica = all.into_iter().find(|replica| replica.primary == pfn);
            }
        }
        Ok(Self {
            pid,
            address: addr / PAGE * PAGE,
            protected: group.is_protected(),
            stale: group.stat("stale"),
            notifier: group.stat("notifier"),
            cgroup,
            vma,
            entry,
            flags,
            replica,
            replicas_known,
        })
    }

    /// Draws the conclusion.
    pub fn verdict(&self) -> Verdict {
        let (state, finding) = match self.obstacle() {
            Some((what, next)) => (State::NotCurrent, Finding::note(what, next)),
            None if self.stale == 0 && self.notifier == 0 => (
                State::Current,
                Finding::good("the page is current: it has a replica, and no page of its cgroup has been written since it was copied"),
            ),
            None => (
                State::CurrentUnlessWritten,
                Finding::note(
                    "the page has a replica, and nothing has got hold of it that could write past the page tables; it is current unless it was written since its last epoch, which only the dirty bit in its page-table entry knows",
                    format!("run `kmirrorctl sync {}` and look again: with no stale page left the answer is certain", self.cgroup),
                ),
            ),
        };
        Verdict { state, finding }
    }

    /// Why it is not current, and what helps; `None` if nothing speaks against it.
    fn obstacle(&self) -> Option<(String, String)> {
        let has = |name| self.flags.has(name);
        let vma_has = |flag| {
            self.vma
                .as_ref()
                .is_some_and(|vma| vma.flags.contains(flag))
        };
        let say = |what: &str, next: &str| Some((what.to_owned(), next.to_owned()));
        if self.vma.is_none() {
            return say(
                "nothing is mapped at this address",
                "choose an address from /proc/PID/maps",
            );
        }
        match self.entry {
            Entry::None => {
                return say(
                    "there is no page at this address yet: the process has not touched it, or has given it back",
                    "nothing can be lost here",
                )
            }
            Entry::Swapped => {
                return say(
                    "the page is swapped out, under migration, or was lost to a memory error already",
                    "when the process touches it, it is either read from swap, and mirrored again, or the process gets SIGBUS",
                )
            }
            Entry::Present(_) => {}
        }
        if has("zero_page") {
            return say(
                "this is the kernel's page of zeros, which all processes share and nobody has written",
                "it becomes memory of the process, and is mirrored, when it is first written",
            );
        }
        if has("hwpoison") {
            return say(
                "the frame is broken and was not restored",
                "restart the program; the frame stays out of use",
            );
        }
        if !self.protected {
            return Some((
                format!("the cgroup {} is not protected", self.cgroup),
                format!("`kmirrorctl on {}` protects it", self.cgroup),
            ));
        }
        if vma_has("ss") {
            return say(
                "the page is of a shadow stack, whose dirty bits mean something else",
                "nothing helps; these are few pages",
            );
        }
        if vma_has("io") || vma_has("pf") {
            return say(
                "this is memory of a device, not of the system",
                "nothing helps",
            );
        }
        let file = self.vma.as_ref().is_some_and(|vma| !vma.is_anonymous());
        if !has("anon") && !has("swapbacked") && !has("huge") && !has("mirrored") {
            if file && !has("dirty") {
                return say(
                    "this is a clean page of a file, which the kernel reads again from the disk when it is lost",
                    "it needs no replica",
                );
            }
            if !file {
                return say(
                    "the page is no memory that can be mirrored (the kernel's own, or a device's)",
                    "nothing helps",
                );
            }
        }
        if has("anon") && !has("swapbacked") {
            return say(
                "the page was given away with MADV_FREE and may vanish at any time",
                "nothing helps, but an allocator can be told to use MADV_DONTNEED",
            );
        }
        if has("mirrored") && self.replicas_known && self.replica.is_none() {
            return say(
                "the page is flagged as mirrored, but its replica has been dropped just now",
                "look again",
            );
        }
        if has("mirrored") {
            return None;
        }
        if self.replica.is_some() {
            return say(
                "the page has a replica, but was written or taken for writing since it was copied, so the replica is stale",
                "it is copied again when it rests; `kmirrorctl sync` copies it now, unless something holds it for writing (direct I/O, io_uring, RDMA)",
            );
        }
        if self.notifier > 0 {
            return say(
                "the page has no replica; its process may have a secondary MMU (KVM, a GPU, shared virtual addresses), as some in this cgroup have",
                "run that part as another process, then `kmirrorctl doctor` the cgroup",
            );
        }
        if has("writeback") || has("locked") {
            return say(
                "the page was locked or being written back when it was looked at",
                "it is copied with the next epoch",
            );
        }
        if !self.replicas_known {
            return say(
                "the page is not flagged as mirrored: not copied yet, or taken for writing since",
                "run `kmirrorctl sync` for its cgroup and look again; mount debugfs to be told which of them",
            );
        }
        Some((
            "the page has no replica yet: it was not there in the last epoch, is written in every epoch, is held for writing, or found no room".into(),
            format!("run `kmirrorctl sync {0}`, and `kmirrorctl doctor {0}` if that does not help", self.cgroup),
        ))
    }
}

/// An address, decimal or with 0x.
pub fn address(text: &str) -> Result<u64> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.map_err(|_| {
        Error::usage(format!(
            "{text:?} is no address; write it as in /proc/PID/maps, with 0x before it"
        ))
    })
}
