// SPDX-License-Identifier: GPL-2.0

//! Thinks of steps. What it thinks of follows from the seed and the model alone.

use super::kind::KINDS;
use super::model::{Model, FAMILIES, GROUPS};
use super::step::{Step, Verb};
use super::strike::DOORS;
use crate::memory::WORDS;
use crate::rng::Rng;
use std::collections::{BTreeSet, VecDeque};

/// How much there may be of everything.
const PROCS: u64 = 4;
const AREAS: usize = 5;
/// Pages that a family may have, all processes counted.
const PAGES: u64 = 3000;
/// Strokes on a page before it is written whole again, and versions of it on disk.
const DEPTH: usize = 6;

/// Steps of a round that are about one page, and how often each is chosen.
const DEEDS: &[(Verb, u64)] = &[
    (Verb::Store, 40),
    (Verb::KernelRead, 8),
    (Verb::KernelWrite, 5),
    (Verb::DirectRead, 5),
    (Verb::DirectWrite, 5),
    (Verb::VmWrite, 4),
    (Verb::ProcMem, 4),
    (Verb::Pin, 3),
    (Verb::PinRead, 6),
    (Verb::Unpin, 2),
    (Verb::FileWrite, 10),
    (Verb::FileRead, 5),
    (Verb::Fsync, 3),
    (Verb::Punch, 4),
    (Verb::Truncate, 2),
    (Verb::DontNeed, 3),
    (Verb::Free, 3),
    (Verb::PageOut, 4),
    (Verb::Cold, 2),
    (Verb::Populate, 2),
    (Verb::Collapse, 2),
    (Verb::Merge, 2),
    (Verb::Unmerge, 1),
    (Verb::Lock, 2),
    (Verb::Protect, 2),
    (Verb::Mremap, 2),
    (Verb::MovePages, 2),
];

/// Thinks of steps.
pub(super) struct Generator {
    rng: Rng,
    kinds: Vec<usize>,
    strikes: u64,
    next_proc: u64,
    next_area: u64,
    rounds: u64,
    struck: BTreeSet<u64>,
    queue: VecDeque<Step>,
    /// Pages that were written in this round: process, area, page.
    fresh: Vec<(u64, u64, u64)>,
}

impl Generator {
    /// With kinds that can be had, and so many errors in a round at most.
    pub(super) fn new(seed: u64, kinds: &[usize], strikes: u64) -> Self {
        let mut this = Self {
            rng: Rng::new(seed),
            kinds: kinds.to_vec(),
            strikes,
            next_proc: 1,
            next_area: 1,
            rounds: 0,
            struck: BTreeSet::new(),
            queue: VecDeque::new(),
            fresh: Vec::new(),
        };
        for family in 0..FAMILIES {
            for _ in 0..2 {
                this.spawn(family);
            }
        }
        this.push(Verb::Round, &[]);
        this
    }

    /// The next step.
    pub(super) fn next(&mut self, model: &Model) -> Step {
        while self.queue.is_empty() {
            self.round(model);
        }
        self.queue
            .pop_front()
            .unwrap_or(Step::new(Verb::Round, &[]))
    }

    fn push(&mut self, verb: Verb, numbers: &[u64]) {
        self.queue.push_back(Step::new(verb, numbers));
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.rng.below(100) < percent
    }

    fn spawn(&mut self, family: u64) {
        let proc = self.next_proc;
        self.next_proc += 1;
        self.push(Verb::Spawn, &[proc, family]);
        for _ in 0..2 {
            self.map_new(proc);
        }
    }

    fn map_new(&mut self, proc: u64) {
        let all: u64 = self.kinds.iter().map(|&kind| KINDS[kind].weight()).sum();
        let mut at = self.rng.below(all);
        let mut chosen = self.kinds[0];
        for &kind in &self.kinds {
            chosen = kind;
            match at.checked_sub(KINDS[kind].weight()) {
                Some(left) => at = left,
                None => break,
            }
        }
        let sizes = KINDS[chosen].sizes();
        let pages = sizes[self.rng.below(sizes.len() as u64) as usize];
        let area = self.next_area;
        self.next_area += 1;
        self.push(Verb::Map, &[proc, area, chosen as u64, pages]);
    }

    fn round(&mut self, model: &Model) {
        self.rounds += 1;
        self.fresh.clear();
        // What was hit is looked at whole; everything, every few rounds.
        let all = self.rounds % 4 == 0;
        for (&proc, who) in &model.procs {
            if all || self.struck.contains(&who.family) {
                for &area in who.views.keys() {
                    let pages = model.areas[&area].pages;
                    self.push(Verb::Check, &[proc, area, 0, pages]);
                }
            }
        }
        self.push(Verb::Round, &[]);
        self.deeds(model);
        if self.chance(30) {
            self.life(model);
        }
        self.influences(model);
        self.errors(model);
        self.deeds(model);
        self.push(Verb::Round, &[]);
    }

    fn deeds(&mut self, model: &Model) {
        for (&proc, who) in &model.procs {
            for _ in 0..self.rng.below(10) {
                let nth = self.rng.below(who.views.len().max(1) as u64) as usize;
                if let Some(&area) = who.views.keys().nth(nth) {
                    self.deed(model, proc, area);
                }
            }
        }
    }

    fn verb(&mut self) -> Verb {
        let all: u64 = DEEDS.iter().map(|(_, weight)| weight).sum();
        let mut at = self.rng.below(all);
        for &(verb, weight) in DEEDS {
            match at.checked_sub(weight) {
                Some(left) => at = left,
                None => return verb,
            }
        }
        Verb::Store
    }

    fn deed(&mut self, model: &Model, proc: u64, area: u64) {
        let (kind, pages) = (model.areas[&area].kind(), model.areas[&area].pages);
        let unit = kind.unit();
        let page = self.rng.below(pages);
        let who = &model.procs[&proc];
        // A run of pages, most of them short.
        let first = page / unit * unit;
        let count = (1 + self.rng.below(8))
            .next_multiple_of(unit)
            .min(pages - first);
        let mut key = self.rng.next_u64() | 1;
        let (mut off, mut len) = match self.rng.below(3) {
            0 => (0, WORDS),
            1 => (self.rng.below(WORDS), 1),
            _ => (self.rng.below(WORDS), 1 + self.rng.below(200)),
        };
        len = len.min(WORDS - off);
        let mut verb = self.verb();
        if let Some(object) = model.object(proc, area) {
            let content = &model.objects[&object][page as usize];
            if content.older.len() > DEPTH {
                verb = Verb::Fsync;
            } else if content.now.depth() > DEPTH || !content.lazy.is_empty() && verb == Verb::Store
            {
                (verb, off, len) = (Verb::Store, 0, WORDS);
            }
        }
        // A page that others may have alike, for KSM; in one family only, whose bytes nobody else has.
        if who.views[&area].mergeable && verb == Verb::Store && self.chance(50) {
            (off, len, key) = (0, WORDS, 1000 + self.rng.below(4));
        }
        let on = self.rng.below(2);
        let node = self.rng.below(2);
        let numbers: &[u64] = match verb {
            Verb::Store | Verb::KernelRead | Verb::FileWrite => &[proc, area, page, off, len, key],
            Verb::DirectRead => &[proc, area, page, key],
            Verb::KernelWrite | Verb::DirectWrite | Verb::FileRead | Verb::Pin => {
                &[proc, area, page]
            }
            Verb::VmWrite | Verb::ProcMem => {
                // The page of another who has the area, or of some other area of another.
                let peers = model
                    .procs
                    .iter()
                    .filter(|(_, peer)| peer.family == who.family);
                let peers: Vec<_> = peers.collect();
                let (&peer, theirs) = peers[self.rng.below(peers.len() as u64) as usize];
                let nth = self.rng.below(theirs.views.len().max(1) as u64) as usize;
                let Some(&area) = theirs.views.keys().nth(nth) else {
                    return;
                };
                let page = self.rng.below(model.areas[&area].pages);
                self.push(verb, &[proc, area, page, off, len, key, peer]);
                self.fresh.push((peer, area, page));
                return;
            }
            Verb::PinRead => match who.pin {
                Some((area, page)) => &[proc, area, page, key],
                None => return,
            },
            Verb::Unpin => &[proc],
            Verb::Fsync | Verb::Mremap => &[proc, area],
            Verb::Punch => {
                let from = page * WORDS + if kind.has_file() { off } else { 0 };
                let words = match on {
                    0 => len,
                    _ => self.rng.below(3 * WORDS),
                };
                let words = if kind.has_file() { words } else { WORDS };
                self.push(verb, &[proc, area, from, words.min(pages * WORDS - from)]);
                return;
            }
            Verb::Truncate => &[proc, area, page],
            Verb::Lock | Verb::Protect => &[proc, area, on],
            Verb::MovePages => &[proc, area, first, count, node],
            Verb::Merge if who.family != 0 => return,
            Verb::Merge | Verb::Unmerge => &[proc, area, 0, pages],
            Verb::Collapse => &[proc, area, 0, pages],
            _ => &[proc, area, first, count],
        };
        self.push(verb, numbers);
        self.fresh.push((proc, area, page));
    }

    /// Processes and areas come and go.
    fn life(&mut self, model: &Model) {
        let family = self.rng.below(FAMILIES);
        let members: Vec<u64> = model
            .procs
            .iter()
            .filter(|(_, who)| who.family == family)
            .map(|(&proc, _)| proc)
            .collect();
        let count = members.len() as u64;
        if count == 0 {
            return self.spawn(family);
        }
        let proc = members[self.rng.below(count) as usize];
        let views = &model.procs[&proc].views;
        let pages_of = |proc: &u64| -> u64 {
            let views = model.procs[proc].views.keys();
            views.map(|area| model.areas[area].pages).sum()
        };
        let pages: u64 = members.iter().map(pages_of).sum();
        match self.rng.below(9) {
            0 if count < PROCS && pages < PAGES => self.spawn(family),
            1 if count < PROCS && pages + pages_of(&proc) < PAGES => {
                let child = self.next_proc;
                self.next_proc += 1;
                self.push(Verb::Fork, &[proc, child]);
            }
            2 if count > 1 => self.push(Verb::Exit, &[proc]),
            3 if count > 1 => self.push(Verb::Kill, &[proc]),
            4 => {
                let group = self.rng.below(GROUPS);
                self.push(Verb::Move, &[proc, group]);
            }
            5 | 6 if views.len() < AREAS && pages < PAGES => self.map_new(proc),
            7 if views.len() < AREAS => {
                // One that a relative has.
                let areas = model.areas.iter().filter(|(area, it)| {
                    it.family == family && it.kind().can_be_opened() && !views.contains_key(area)
                });
                let known: Vec<_> = areas.collect();
                if !known.is_empty() {
                    let (&area, it) = known[self.rng.below(known.len() as u64) as usize];
                    self.push(Verb::Map, &[proc, area, it.kind as u64, it.pages]);
                }
            }
            _ => {
                let nth = self.rng.below(views.len().max(1) as u64) as usize;
                if let Some(&area) = views.keys().nth(nth) {
                    self.push(Verb::Unmap, &[proc, area]);
                }
            }
        }
    }

    fn influences(&mut self, model: &Model) {
        let (family, group) = (self.rng.below(FAMILIES), self.rng.below(GROUPS));
        for family in 0..FAMILIES {
            if self.chance(50) {
                // An area that nobody has written since can only be hit while it is covered.
                self.push(Verb::Sync, &[family, 0]);
                self.push(Verb::Sync, &[family, 1]);
            }
        }
        if self.chance(20) {
            let pages = 50 + self.rng.below(1500);
            self.push(Verb::Reclaim, &[family, pages]);
        }
        if self.chance(5) {
            // From just enough for the pages there are to plenty.
            let pages = 5000 + self.rng.below(10_000);
            self.push(Verb::Press, &[family, pages]);
        }
        if self.chance(3) {
            self.push(Verb::Compact, &[]);
        }
        if self.chance(5) {
            let mode = self.rng.below(3);
            self.push(Verb::Mode, &[family, group, mode]);
        }
        if self.chance(8) {
            let ms = [10, 20, 50, 100, 600_000, 600_000][self.rng.below(6) as usize];
            self.push(Verb::Interval, &[family, group, ms]);
        }
        if self.chance(4) {
            let pages = [0, 0, 50, 400, 1000][self.rng.below(5) as usize];
            self.push(Verb::Limit, &[family, group, pages]);
        }
        if self.chance(3) {
            let mib = [8, 32, 64, 96][self.rng.below(4) as usize];
            self.push(Verb::Region, &[mib]);
        }
        if self.chance(4) {
            self.push(Verb::Ksm, &[]);
        }
        if self.chance(4) {
            self.push(Verb::Khugepaged, &[]);
        }
        let huge = model.procs.iter().flat_map(|(&proc, who)| {
            let areas = who
                .views
                .keys()
                .filter(|area| model.areas[area].kind().align() > 1);
            areas.map(move |&area| (proc, area))
        });
        let huge: Vec<_> = huge.collect();
        if !huge.is_empty() && self.chance(5) {
            let (proc, area) = huge[self.rng.below(huge.len() as u64) as usize];
            self.push(Verb::Split, &[proc, area]);
        }
    }

    fn errors(&mut self, model: &Model) {
        self.struck.clear();
        let first = self.rng.below(FAMILIES);
        for family in 0..FAMILIES {
            if family == first || self.chance(40) {
                self.errors_in(family, model);
            }
        }
        if self.chance(10) {
            let door = self.rng.below(DOORS);
            self.push(Verb::Again, &[door]);
        }
        if self.chance(10) {
            let (nth, door) = (self.rng.next_u64() >> 32, self.rng.below(DOORS));
            self.push(Verb::Replica, &[nth, door]);
        }
    }

    fn errors_in(&mut self, family: u64, model: &Model) {
        let members = model.procs.iter().filter(|(_, who)| who.family == family);
        let views: Vec<(u64, u64)> = members
            .flat_map(|(&proc, who)| who.views.keys().map(move |&area| (proc, area)))
            .collect();
        if views.is_empty() {
            return;
        }
        self.struck.insert(family);
        for _ in 0..1 + self.rng.below(self.strikes) {
            let (mut proc, mut area) = views[self.rng.below(views.len() as u64) as usize];
            let mut page = self.rng.below(model.areas[&area].pages);
            if !self.fresh.is_empty() && self.chance(30) {
                (proc, area, page) = self.fresh[self.rng.below(self.fresh.len() as u64) as usize];
                if model.procs[&proc].family != family {
                    continue;
                }
            }
            // A huge page of hugetlb is dear.
            if model.areas[&area].kind().unit() > 1 && !self.chance(20) {
                continue;
            }
            let door = self.rng.below(DOORS);
            self.push(Verb::Strike, &[proc, area, page, door]);
        }
    }
}
