// SPDX-License-Identifier: GPL-2.0

//! A protected victim, and what must hold when it is hit.

use crate::case::Context;
use crate::cgroup::Cgroup;
use crate::inject::{self, Door, Struck};
use crate::memory::{Mapping, Seen, WORDS};
use crate::mirror::Mirror;
use crate::pagemap;
use crate::victim::{Scene, Victim};
use crate::{file, mirror};
use anyhow::{bail, ensure, Context as _, Result};

/// A victim alone in a mirrored cgroup. Its pages begin in version 1.
#[derive(Debug)]
pub struct Rig {
    /// Where it is.
    pub cgroup: Cgroup,
    /// The files of that cgroup.
    pub mirror: Mirror,
    /// Who it is.
    pub victim: Victim,
}

/// What is counted when memory is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Of the cgroup.
    pub restored: u64,
    /// Of the cgroup.
    pub unrestorable: u64,
    /// Of the cgroup.
    pub replica_lost: u64,
    /// Of the machine, in kB.
    pub corrupted: u64,
}

impl Rig {
    /// Starts one in a cgroup called `a`.
    pub fn new(cx: &Context, pages: u64) -> Result<Self> {
        Self::named(cx, "a", pages)
    }

    /// Starts one in a cgroup of this name.
    pub fn named(cx: &Context, name: &str, pages: u64) -> Result<Self> {
        let (cgroup, mirror) = cx.tracked(name)?;
        let victim = Victim::start(&cgroup, pages, 1)?;
        Ok(Self {
            cgroup,
            mirror,
            victim,
        })
    }

    /// Starts one whose pages are all current.
    pub fn synced(cx: &Context, pages: u64) -> Result<Self> {
        let rig = Self::new(cx, pages)?;
        rig.sync()?;
        for page in 0..pages {
            rig.must_be_mirrored(page)?;
        }
        Ok(rig)
    }

    /// Runs an epoch.
    pub fn sync(&self) -> Result<()> {
        self.mirror.sync()
    }

    /// The victim's memory.
    pub fn mem(&self) -> Mapping {
        self.victim.mem
    }

    /// The frame of a page.
    pub fn frame(&self, page: u64) -> Result<u64> {
        pagemap::frame(self.victim.pid, self.mem().addr(page))
    }

    /// Whether a page has the flag.
    pub fn is_mirrored(&self, page: u64) -> Result<bool> {
        Ok(pagemap::flags(self.frame(page)?)? & pagemap::MIRRORED != 0)
    }

    /// Fails if it has not.
    pub fn must_be_mirrored(&self, page: u64) -> Result<()> {
        let mirrored = self.is_mirrored(page)?;
        ensure!(
            mirrored,
            "page {page} is not mirrored after an epoch:\n{}",
            self.mirror.get("stat")?
        );
        Ok(())
    }

    /// Fails if it has.
    pub fn must_not_be_mirrored(&self, page: u64) -> Result<()> {
        ensure!(!self.is_mirrored(page)?, "page {page} is mirrored");
        Ok(())
    }

    /// Lets the victim write a page.
    pub fn fill(&mut self, page: u64, version: u64) -> Result<()> {
        self.victim.call(
            |scene, page, version| {
                scene.mem.fill(page, version);
                Ok(0)
            },
            page,
            version,
        )?;
        Ok(())
    }

    /// What the victim finds in a page that should be in `version`.
    pub fn seen(&mut self, page: u64, version: u64) -> Result<Seen> {
        seen(&mut self.victim, page, version)
    }

    /// Fails unless a page is in `version`.
    pub fn must_be(&mut self, page: u64, version: u64) -> Result<()> {
        let seen = self.seen(page, version)?;
        ensure!(
            seen == Seen::Right,
            "page {page} should be in version {version}: {seen:?}"
        );
        Ok(())
    }

    /// The counters as they are.
    pub fn counters(&self) -> Result<Counters> {
        Ok(Counters {
            restored: self.mirror.event("restored")?,
            unrestorable: self.mirror.event("unrestorable")?,
            replica_lost: self.mirror.event("replica_lost")?,
            corrupted: pagemap::corrupted_kb()?,
        })
    }

    /// Breaks the frame of a page.
    pub fn strike(&self, door: Door, page: u64) -> Result<Struck> {
        let addr = self.mem().addr(page);
        inject::strike_at(&self.cgroup, door.as_str(), self.victim.pid, addr)
    }

    /// Breaks the frame of a page, which must come back in `version`. Returns the new frame.
    pub fn must_restore(&mut self, door: Door, page: u64, version: u64) -> Result<u64> {
        let before = self.counters()?;
        let struck = self.strike(door, page)?;
        let what = format!("page {page}, frame {:#x}, by {door}", struck.old);
        ensure!(struck.result.is_ok(), "{what}: {:?}", struck.result);
        // Reading it also maps it, if it is shared: the kernel leaves that to the next fault.
        self.must_be(page, version).context(what.clone())?;
        let new = self.frame(page)?;
        ensure!(new != struck.old, "{what}: still the broken frame");
        ensure!(
            pagemap::flags(struck.old)? & pagemap::HWPOISON != 0,
            "{what}: the broken frame is not retired"
        );
        let after = self.counters()?;
        let want = Counters {
            restored: before.restored + 1,
            corrupted: before.corrupted + 4,
            ..before
        };
        ensure!(after == want, "{what}: {after:?}, not {want:?}");
        Ok(new)
    }

    /// Breaks the frame of a page that has a replica, which must not be used: the page is lost, as
    /// without kmirror, and that is counted.
    pub fn must_refuse(&mut self, door: Door, page: u64) -> Result<()> {
        let before = self.counters()?;
        self.must_lose(door, page)?;
        let after = self.counters()?;
        let want = Counters {
            unrestorable: before.unrestorable + 1,
            corrupted: before.corrupted + 4,
            ..before
        };
        ensure!(
            after == want,
            "page {page} by {door}: {after:?}, not {want:?}"
        );
        Ok(())
    }

    /// Breaks the frame of a page, which must be lost.
    pub fn must_lose(&mut self, door: Door, page: u64) -> Result<()> {
        let restored = self.mirror.event("restored")?;
        let struck = self.strike(door, page)?;
        let what = format!("page {page} by {door}, {struck:x?}");
        must_be_lost(&mut self.victim, page).context(what.clone())?;
        ensure!(
            self.mirror.event("restored")? == restored,
            "{what}: counted as restored"
        );
        Ok(())
    }

    /// Breaks the frame of a page, which is lost or comes back in `version`. Which of the two.
    pub fn must_not_lie(&mut self, door: Door, page: u64, version: u64) -> Result<Seen> {
        let struck = self.strike(door, page)?;
        let seen = self.seen(page, version)?;
        ensure!(
            !matches!(seen, Seen::Wrong(_)),
            "page {page}, frame {:#x}, by {door}: wrong bytes, {seen:?}",
            struck.old
        );
        Ok(seen)
    }
}

/// What a victim finds in a page that should be in `version`.
pub fn seen(victim: &mut Victim, page: u64, version: u64) -> Result<Seen> {
    let raw = victim.call(
        |scene, page, version| Ok(scene.mem.check(page, version).to_raw()),
        page,
        version,
    )?;
    Ok(Seen::from_raw(raw))
}

/// Fails unless a page of `victim` is in `version`.
pub fn must_be(victim: &mut Victim, page: u64, version: u64) -> Result<()> {
    let seen = seen(victim, page, version)?;
    ensure!(
        seen == Seen::Right,
        "process {}, page {page}, version {version}: {seen:?}",
        victim.pid
    );
    Ok(())
}

/// Fails unless a page of `victim` is lost.
pub fn must_be_lost(victim: &mut Victim, page: u64) -> Result<()> {
    // No version is right: none is ever this high.
    if seen(victim, page, u64::MAX)? != Seen::Lost {
        let found = contents(victim, page)?;
        bail!("process {}, page {page}: not lost but {found}", victim.pid);
    }
    Ok(())
}

/// What is in a page, for a message.
fn contents(victim: &mut Victim, page: u64) -> Result<String> {
    for version in 1..9 {
        match seen(victim, page, version)? {
            Seen::Right => return Ok(format!("version {version}")),
            Seen::Lost => return Ok("lost".into()),
            Seen::Wrong(_) => {}
        }
    }
    let load = |scene: &mut Scene, page, index| Ok(scene.mem.load(page, index));
    let (first, last) = (
        victim.call(load, page, 0)?,
        victim.call(load, page, WORDS - 1)?,
    );
    Ok(format!("{first:#x} at its start and {last:#x} at its end"))
}

/// Fails unless the whole region is free.
pub fn must_be_empty() -> Result<()> {
    let (total, free) = (mirror::region("total")?, mirror::region("free")?);
    let retired = file::keyed("/sys/kernel/kmirror/stat", "retired")? * crate::PAGE;
    ensure!(
        total == free + retired,
        "{} bytes of the region are still in use",
        total - free - retired
    );
    Ok(())
}
