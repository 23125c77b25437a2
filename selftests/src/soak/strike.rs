// SPDX-License-Identifier: GPL-2.0

//! Breaking frames while processes are at work.

use super::director::Director;
use super::kind::KINDS;
use super::model::Object;
use super::step::Step;
use super::trace::Fate;
use super::verdict::fail;
use crate::inject::{self, Door};
use crate::pagemap::{self, Entry, Table, HWPOISON, KSM};
use crate::{file, mirror};
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// KPF_ZERO_PAGE: everybody's.
const ZERO_PAGE: u64 = 1 << 24;

/// Those by which nobody can copy the frame between its overwriting and the report.
const HELD: [&str; 2] = ["held_fail", "held_required"];

/// How many doors there are.
pub(super) const DOORS: u64 = Door::ALL.len() as u64 + HELD.len() as u64;

/// The door with a number; one of those that hold the page, if it must be.
fn door(number: u64, held: bool) -> &'static str {
    let number = number % DOORS;
    match Door::ALL.get(number as usize) {
        Some(door) if !held => door.as_str(),
        _ => HELD[number as usize % HELD.len()],
    }
}

/// A frame that was broken.
struct Hit {
    step: Step,
    object: Object,
    pfn: u64,
    flags: u64,
    after: Entry,
    report: Option<i32>,
    door: &'static str,
}

/// What kmirror has counted: restored, unrestorable, lost replicas.
fn events() -> Result<[u64; 3]> {
    let path = format!("{}/events", mirror::ROOT);
    let mut counts = [0; 3];
    for (count, key) in counts
        .iter_mut()
        .zip(["restored", "unrestorable", "replica_lost"])
    {
        *count = file::keyed(&path, key)?;
    }
    Ok(counts)
}

impl Director<'_> {
    /// Lets the errors come that were gathered, family by family.
    pub(super) fn break_frames(&mut self) -> Result<()> {
        let strikes = std::mem::take(&mut self.strikes);
        let family =
            |this: &Self, step: &Step| this.model.procs.get(&step.args[0]).map(|proc| proc.family);
        let mut families: BTreeMap<u64, Vec<Step>> = BTreeMap::new();
        for step in strikes {
            if let Some(family) = family(self, &step) {
                families.entry(family).or_default().push(step);
            }
        }
        for (family, steps) in families {
            self.launch()?;
            self.break_in(family, &steps)?;
        }
        Ok(())
    }

    fn break_in(&mut self, family: u64, steps: &[Step]) -> Result<()> {
        // Either the others go on working, and the doors hold the page, so that nobody who wants room
        // moves it elsewhere in the middle; or all stand still, and any door will do.
        let is_amid = steps.iter().map(|step| step.args[3]).sum::<u64>() % 3 == 0;
        let restless = &self.model.restless;
        let held = is_amid || restless.iter().any(|&(restless, _)| restless == family);
        let cgroup = match held {
            true => self.sandbox.families[family as usize].cgroup.clone(),
            false => self.sandbox.cgroup.clone(),
        };
        let start = Instant::now();
        let frozen = cgroup.freeze()?;
        self.tally.spend("freeze", start);
        let start = Instant::now();
        self.machine.trace.fates()?;
        let before = events()?;
        let mut tables: BTreeMap<u64, Table> = BTreeMap::new();
        let mut hits: Vec<Hit> = Vec::new();
        for step in steps {
            let [proc, area, page, number, ..] = step.args;
            let place = self
                .hands
                .get(&proc)
                .and_then(|hand| hand.places.get(&area));
            let (Some(place), Some(object)) = (place, self.model.object(proc, area)) else {
                continue;
            };
            let addr = place + page * crate::PAGE;
            let table = match tables.entry(proc) {
                std::collections::btree_map::Entry::Occupied(table) => table.into_mut(),
                std::collections::btree_map::Entry::Vacant(free) => {
                    free.insert(Table::of(self.hands[&proc].pid)?)
                }
            };
            let Entry::Present(pfn) = table.entry(addr)? else {
                self.tally.missed += 1;
                continue;
            };
            let flags = pagemap::flags(pfn)?;
            // A dirty large folio of a file cannot be split, and what breaks in one and is not restored
            // stays in the page cache: no hole and no write makes it good again. `file_large` breaks
            // those that are current.
            let kind = self.model.areas[&area].kind();
            let is_stuck = kind.is_on_disk() && flags & pagemap::LARGE != 0;
            if flags & (ZERO_PAGE | HWPOISON) != 0 || is_stuck {
                self.tally.missed += 1;
                continue;
            }
            // By the others the kernel takes the frame out of its own mapping, and does not survive
            // that when a pinned page is written later, with kmirror or without.
            let is_pinned = self.model.procs[&proc].pin == Some((area, page));
            let door = door(number, held || is_pinned);
            let at = Instant::now();
            // Others are at work, and whoever of them wants a huge page moves pages out of his way. So
            // the frame may be somebody else's since it was looked up.
            if inject::hold(pfn).is_err() || table.entry(addr)? != Entry::Present(pfn) {
                inject::release(pfn);
                self.tally.moved += 1;
                continue;
            }
            let result = inject::report(door, pfn);
            self.tally.spend(door, at);
            self.last = Some(pfn);
            hits.push(Hit {
                step: *step,
                object,
                pfn,
                flags,
                after: table.entry(addr)?,
                report: result.err().and_then(|error| error.raw_os_error()),
                door,
            });
        }
        let fates = self.machine.trace.fates()?;
        let after = events()?;
        for hit in &hits {
            let fate = fates.get(&hit.pfn).cloned().unwrap_or_default();
            self.settle(hit, &fate)?;
        }
        let is_hugetlb = |hit: &Hit| self.model.areas[&hit.object.0].kind().unit() > 1;
        if hits.iter().any(is_hugetlb) {
            self.machine.refill();
        }
        drop(frozen);
        self.tally.spend("frozen", start);
        let restored = fates
            .values()
            .filter(|fate| fate.restored.is_some())
            .count() as u64;
        let refused = fates.values().filter(|fate| fate.refused.is_some()).count() as u64;
        if after != [before[0] + restored, before[1] + refused, before[2]] {
            fail!("events were {before:?} and are {after:?}, after {restored} restored and {refused} refused");
        }
        Ok(())
    }

    /// Says what has become of a page, and who may miss it.
    fn settle(&mut self, hit: &Hit, fate: &Fate) -> Result<()> {
        let [_, area, page, ..] = hit.step.args;
        let kind = self.model.areas[&area].kind;
        let what = format!(
            "{}, frame {:#x} by {}: {fate:?}, {:?}",
            hit.step, hit.pfn, hit.door, hit.after
        );
        if self.verbose {
            println!("# round {}: {what}", self.round);
        }
        let figures = self.tally.of(kind);
        figures.errors += 1;
        if let Some(to) = fate.restored {
            figures.restored += 1;
            if hit.report.is_some() || hit.after == Entry::Present(hit.pfn) || to == hit.pfn {
                fail!(
                    "restored, and not in another frame: {what}, errno {:?}",
                    hit.report
                );
            }
            return Ok(());
        }
        let why = match (&fate.refused, &fate.kernel) {
            (Some(why), _) => why.clone(),
            (None, Some(kernel)) => format!("no replica, {kernel}"),
            (None, None) => format!("unreported, errno {:?}", hit.report),
        };
        *figures.refused.entry(why).or_default() += 1;
        // Still mapped, or moved while it was reported: then the injector's bytes can be seen, which
        // with broken hardware would be a machine check.
        let garbage = matches!(hit.after, Entry::Present(_));
        let unit = KINDS[kind].unit();
        let whole = fate
            .kernel
            .as_ref()
            .is_some_and(|kernel| kernel.starts_with("unsplit"));
        self.tally.unsplit += u64::from(whole);
        let (from, len) = if whole {
            (0, self.model.areas[&area].pages)
        } else {
            (page / unit * unit, unit)
        };
        let round = self.round;
        for object in self.sharers(hit) {
            for page in from..from + len {
                self.ledger.mark(object, page, round, garbage);
            }
        }
        if hit.flags & KSM != 0 {
            self.mark_merged(hit, garbage);
        }
        Ok(())
    }

    /// Whose page it may be besides: forked children and parents have the same areas.
    fn sharers(&self, hit: &Hit) -> Vec<Object> {
        let area = hit.object.0;
        let owners = self.model.procs.iter();
        let owners: BTreeSet<Object> = owners
            .filter_map(|(&proc, _)| self.model.object(proc, area))
            .chain([hit.object])
            .collect();
        owners.into_iter().collect()
    }

    /// A page that KSM has merged may be anybody's who lets it merge.
    fn mark_merged(&mut self, hit: &Hit, garbage: bool) {
        let family = self.model.procs[&hit.step.args[0]].family;
        let mut merged = Vec::new();
        for (&proc, who) in self
            .model
            .procs
            .iter()
            .filter(|(_, who)| who.family == family)
        {
            let views = who.views.iter().filter(|(_, view)| view.mergeable);
            merged.extend(views.filter_map(|(&area, _)| self.model.object(proc, area)));
        }
        for object in merged {
            for page in 0..self.model.areas[&object.0].pages {
                self.ledger.mark(object, page, self.round, garbage);
            }
        }
    }

    /// Reports the frame that broke last once more: nothing happens.
    pub(super) fn strike_again(&mut self, number: u64) -> Result<()> {
        let Some(pfn) = self.last else {
            return Ok(());
        };
        // Unless the frame was given up by the kernel it may be in use again.
        if pagemap::flags(pfn)? & HWPOISON == 0 {
            return Ok(());
        }
        self.machine.trace.fates()?;
        let before = events()?;
        let door = door(number, false);
        let _ = inject::report(&format!("keep_{door}"), pfn);
        self.tally.again += 1;
        let after = events()?;
        let fates = self.machine.trace.fates()?;
        if before != after {
            fail!("a second report of frame {pfn:#x} by {door} was counted: {before:?}, {after:?}, {fates:?}");
        }
        Ok(())
    }

    /// Breaks the frame of a replica.
    pub(super) fn strike_replica(&mut self, nth: u64, number: u64) -> Result<()> {
        let list = file::read("/sys/kernel/debug/kmirror/replicas")?;
        let lines: Vec<&str> = list.lines().filter(|line| !line.contains(':')).collect();
        if lines.is_empty() {
            return Ok(());
        }
        let line = lines[nth as usize % lines.len()];
        let pfn = line.split(' ').nth(1).context("a short line")?.parse()?;
        self.machine.trace.fates()?;
        let before = events()?;
        let _ = inject::report(door(number % Door::ALL.len() as u64, false), pfn);
        self.tally.replicas += 1;
        let after = events()?;
        let fates = self.machine.trace.fates()?;
        if before[..2] != after[..2] || pagemap::flags(pfn)? & HWPOISON == 0 {
            fail!("a replica's frame {pfn:#x} broke: {before:?}, {after:?}, {fates:?}");
        }
        Ok(())
    }
}
