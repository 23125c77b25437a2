// SPDX-License-Identifier: GPL-2.0

//! Whether what came of the steps may be: what processes find in their pages, frames that the kernel gives out,
//! and a process that does not answer. What may not be is told with its circumstances.

use super::director::Director;
use super::kind::KINDS;
use super::step::Step;
use super::wire::{Finding, What};
use crate::pagemap::{self, Entry, Table};
use crate::PAGE;
use anyhow::{Context, Result};
use std::fmt;

/// Lines of the kernel's log that are shown with a failure.
const LAST_WORDS: usize = 12;

/// What must not be has happened.
#[derive(Debug)]
pub(super) struct Failure(pub(super) String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// The kernel has killed a process, as it may: the run cannot go on, and is no failure.
#[derive(Debug)]
pub(super) struct Died(pub(super) String);

impl fmt::Display for Died {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Died {}

/// Ends the run: this must not be.
macro_rules! fail {
    ($($arg:tt)*) => {
        return Err($crate::soak::verdict::Failure(format!($($arg)*)).into())
    };
}
pub(super) use fail;

impl Director<'_> {
    /// Looks whether the kernel has given out frames again that it knows to be broken. Nobody notices at
    /// once: what is mapped is not looked at, until it is mapped again.
    pub(super) fn must_be_whole(&self, id: u64, area: u64, place: u64) -> Result<()> {
        let (Some(object), Some(hand)) = (self.model.object(id, area), self.hands.get(&id)) else {
            return Ok(());
        };
        let table = Table::of(hand.pid)?;
        for page in 0..self.model.areas[&area].pages {
            let Entry::Present(pfn) = table.entry(place + page * PAGE)? else {
                continue;
            };
            let is_broken = pagemap::flags(pfn)? & pagemap::HWPOISON != 0;
            if is_broken && !self.ledger.may_be_lost(object, page) {
                fail!(
                    "frame {pfn:#x} has broken before, and is page {page} of the new area {area}"
                );
            }
        }
        Ok(())
    }

    /// Looks whether what a process has found may be, and remembers it.
    pub(super) fn judge(&mut self, number: usize, step: &Step, finding: &Finding) -> Result<()> {
        let area = step.args[1];
        let (page, what) = (finding.page, finding.what);
        let kind = self.model.areas.get(&area).context("no such area")?.kind;
        let owner = if KINDS[kind].is_shared() {
            0
        } else {
            step.owner()
        };
        let object = (area, owner);
        let lost = self.ledger.may_be_lost(object, page);
        let garbage = self.ledger.may_be_garbage(object, page);
        if self.verbose {
            println!("# round {}: page {page}: {what:x?} by {step}", self.round);
        }
        let figures = self.tally.of(kind);
        let allowed = match what {
            What::Faulted | What::Lazy | What::At(_) | What::Child(_) => true,
            What::Lost | What::Missed(_) => {
                figures.met += 1;
                lost
            }
            What::Older => {
                figures.older += 1;
                lost
            }
            What::Garbage => {
                figures.garbage += 1;
                garbage
            }
            What::Wrong(..) => false,
        };
        if allowed {
            if matches!(what, What::Lost | What::Garbage) {
                self.ledger.found(object, page);
            }
            return Ok(());
        }
        figures.wrong += 1;
        self.circumstances(step.owner(), area, page);
        fail!(
            "{} page {page} of area {area}, process {owner}: {what:x?}{}, found by step {number}: {step}",
            KINDS[kind].name(),
            if lost { ", after an error" } else { " without an error" },
        )
    }

    /// Prints where a page is now that is not as it should be, and what the kernel has said last.
    fn circumstances(&mut self, proc: u64, area: u64, page: u64) {
        if let Some((pid, place)) = self.hands.get(&proc).and_then(|hand| {
            let place = hand.places.get(&area)?;
            Some((hand.pid, place + page * PAGE))
        }) {
            let entry = Table::of(pid).and_then(|table| table.entry(place));
            let flags = match entry {
                Ok(Entry::Present(pfn)) => pagemap::flags(pfn).unwrap_or_default(),
                _ => 0,
            };
            println!("# the page is at {place:#x} of process {pid}: {entry:x?}, flags {flags:#x}");
        }
        match self.machine.listen() {
            Ok(lines) => {
                let last = lines.len().saturating_sub(LAST_WORDS);
                lines[last..]
                    .iter()
                    .for_each(|line| println!("# kernel: {line}"));
            }
            Err(complaint) => println!("# {complaint:#}"),
        }
    }

    /// Why a process does not answer: a failure, unless the kernel says that it has killed it.
    pub(super) fn death(&mut self, id: u64, error: &anyhow::Error) -> anyhow::Error {
        let Some(mut hand) = self.hands.remove(&id) else {
            return Failure(format!("process {id} is gone")).into();
        };
        let (pid, obituary) = (hand.pid, hand.obituary(error));
        let said = self.machine.listen();
        let orders = hand.busy.iter().map(|(_, order)| order.step.to_string());
        let told = format!(
            "process {id} ({pid}): {error:#}: {}; its areas are at {:x?}, it was told to {}",
            obituary.text,
            hand.places,
            orders.collect::<Vec<_>>().join(", ")
        );
        // At once: one whom the kernel does not let go is waited for at the end, for ever.
        println!("# {told}");
        if obituary.is_stuck {
            for line in self.machine.backtraces() {
                println!("# kernel: {line}");
            }
        }
        match said {
            Err(complaint) => Failure(format!("{complaint:#}; {told}")).into(),
            Ok(lines) => {
                let killed = lines.iter().find(|line| {
                    line.contains(&format!("forcibly killing exe:{pid} "))
                        || line.contains(&format!("Killed process {pid}"))
                });
                match killed {
                    Some(line) => {
                        self.tally.died += 1;
                        Died(format!("{told}: {line}")).into()
                    }
                    None => {
                        for line in lines.iter().rev().take(4).rev() {
                            println!("# kernel: {line}");
                        }
                        Failure(told).into()
                    }
                }
            }
        }
    }
}
