// SPDX-License-Identifier: GPL-2.0

//! Breaking a page of a victim by a true machine check, and what must come of it. In L2.

use super::port::Host;
use crate::file::{self, Setting};
use crate::kmsg::Log;
use crate::memory::Seen;
use crate::pagemap::{self, HWPOISON};
use crate::rig::{Counters, Rig};
use crate::rng::Rng;
use crate::wait::{self, BOUND};
use anyhow::{ensure, Context as _, Result};
use std::time::Instant;

/// What the kernel says when a process has run into lost memory.
const REQUIRED: &str = "Uncorrected hardware memory error in user-access";

/// How often the processors have had a machine check.
pub fn machine_checks() -> Result<u64> {
    let text = file::read("/proc/interrupts")?;
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("MCE:"));
    let words = line.context("no MCE in /proc/interrupts")?;
    Ok(words
        .split_whitespace()
        .map_while(|word| word.parse::<u64>().ok())
        .sum())
}

/// Sees to it that an error is met by a program or a system call first: for as long as this lives
/// nobody looks for those that none has met.
pub fn keep_quiet() -> Result<Setting> {
    Setting::change(
        "/sys/devices/system/machinecheck/machinecheck0/check_interval",
        "3600",
    )
}

/// Who has met the error first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// The program, when it read the page: action required.
    Program,
    /// Nobody: the host has told of it, action optional.
    Nobody,
}

/// What became of a page.
#[derive(Debug)]
pub struct Hit {
    /// The frame that broke.
    pub old: u64,
    /// What the program has found.
    pub seen: Seen,
    /// Who has met it.
    pub met: Met,
}

/// Breaks the frame of a page while the victim reads it again and again, until another frame is there
/// or the page is lost.
pub fn under_reader(rig: &mut Rig, host: &mut Host, page: u64, version: u64) -> Result<Hit> {
    let old = rig.frame(page)?;
    let mut log = Log::from_now()?;
    let poisoned = std::thread::scope(|scope| {
        let poisoner = scope.spawn(|| host.poison(old));
        let seen = read_until_moved(rig, page, version);
        let poisoned = poisoner.join().unwrap_or_else(|_| {
            Err(anyhow::anyhow!(
                "the thread that breaks the page has panicked"
            ))
        });
        poisoned.and(seen)
    });
    let seen = poisoned?;
    let required = log.lines()?.iter().any(|line| line.contains(REQUIRED));
    let met = if required { Met::Program } else { Met::Nobody };
    Ok(Hit { old, seen, met })
}

/// Lets the victim read a page until it is not where it was.
fn read_until_moved(rig: &mut Rig, page: u64, version: u64) -> Result<Seen> {
    let raw = rig.victim.call(
        |scene, page, version| {
            let addr = scene.mem.addr(page);
            let table = pagemap::Table::of(i32::try_from(std::process::id())?)?;
            let first = table.entry(addr)?;
            let end = Instant::now() + BOUND / 2;
            loop {
                let seen = scene.mem.check(page, version);
                if seen != Seen::Right || table.entry(addr)? != first {
                    // Once more: it may have moved during the last look.
                    return Ok(match seen {
                        Seen::Right => scene.mem.check(page, version).to_raw(),
                        other => other.to_raw(),
                    });
                }
                ensure!(Instant::now() < end, "page {page} has not broken");
            }
        },
        page,
        version,
    )?;
    Ok(Seen::from_raw(raw))
}

/// Breaks the frame of a page that nobody is reading, and waits until the kernel has dealt with it.
pub fn unseen(rig: &mut Rig, host: &mut Host, page: u64) -> Result<u64> {
    let old = rig.frame(page)?;
    host.poison(old)?;
    wait::until("the error has been reported", BOUND, || {
        Ok(pagemap::flags(old)? & HWPOISON != 0)
    })?;
    Ok(old)
}

/// Fails unless the frame is retired, and what is counted is one restore more than `before`.
pub fn must_be_restored(rig: &mut Rig, before: Counters, old: u64, page: u64) -> Result<()> {
    let new = rig.frame(page)?;
    ensure!(new != old, "page {page} is still in frame {old:#x}");
    // The page is there a moment before that is counted.
    wait::until("the restore is counted", BOUND, || {
        Ok(rig.counters()?.restored > before.restored)
    })?;
    let want = Counters {
        restored: before.restored + 1,
        corrupted: before.corrupted + 4,
        ..before
    };
    let after = rig.counters()?;
    ensure!(after == want, "page {page}: {after:?}, not {want:?}");
    ensure!(
        pagemap::flags(old)? & HWPOISON != 0,
        "frame {old:#x} is not retired"
    );
    Ok(())
}

/// A true machine check, which must cost nothing: frame and moment of the restore are like any
/// other's. When the frame is healed `HardwareCorrupted` falls again, so that is not looked at here.
pub fn must_survive(rig: &mut Rig, host: &mut Host, page: u64, version: u64) -> Result<Hit> {
    let before = rig.counters()?;
    let hit = under_reader(rig, host, page, version)?;
    ensure!(hit.seen == Seen::Right, "page {page}: {hit:?}");
    wait::until("the restore is counted", BOUND, || {
        Ok(rig.counters()?.restored == before.restored + 1)
    })?;
    let after = rig.counters()?;
    ensure!(
        after.unrestorable == before.unrestorable,
        "page {page}: {after:?}"
    );
    Ok(hit)
}

/// Picks one of the victim's pages, which are in `version`, and sees to it that it is current. In each
/// tenth round the victim has written it since it was hit last.
pub fn pick(rig: &mut Rig, rng: &mut Rng, version: &mut [u64], round: u64) -> Result<u64> {
    let page = rng.below(version.len() as u64);
    if round % 10 == 9 {
        version[page as usize] += 1;
        rig.fill(page, version[page as usize])?;
        rig.sync()?;
    }
    if !rig.is_mirrored(page)? {
        // Hit before, and in a new frame since.
        rig.sync()?;
        rig.must_be_mirrored(page)?;
    }
    Ok(page)
}
