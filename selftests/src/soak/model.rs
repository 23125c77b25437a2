// SPDX-License-Identifier: GPL-2.0

//! What every process has mapped, and what must be in every page. It follows from the steps alone,
//! so that a step can be left out and the rest still has a meaning; what an error has destroyed is
//! written again by whoever finds it, and so changes nothing here.

use super::content::Page;
use super::kind::{Kind, KINDS};
use super::step::{Step, Verb};
use crate::memory::WORDS;
use crate::rng::mix;
use std::collections::{BTreeMap, BTreeSet};

/// Families: groups of processes that share memory, and are frozen together.
pub(super) const FAMILIES: u64 = 3;
/// Cgroups of each.
pub(super) const GROUPS: u64 = 2;

/// A process.
#[derive(Debug, Default)]
pub(super) struct Proc {
    pub(super) family: u64,
    pub(super) group: u64,
    pub(super) views: BTreeMap<u64, View>,
    /// The page that is registered with io_uring.
    pub(super) pin: Option<(u64, u64)>,
}

/// An area as one process has it mapped.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct View {
    pub(super) read_only: bool,
    pub(super) locked: bool,
    pub(super) mergeable: bool,
}

/// An area.
#[derive(Debug)]
pub(super) struct Area {
    pub(super) kind: usize,
    pub(super) pages: u64,
    pub(super) family: u64,
}

impl Area {
    /// What kind it is.
    pub(super) fn kind(&self) -> &'static dyn Kind {
        KINDS[self.kind]
    }
}

/// Some contents: of an area, and for a private one, of a process (else 0).
pub(super) type Object = (u64, u64);

/// What a step of a process is about.
#[derive(Debug, Default)]
pub(super) struct Touch {
    /// The pages that it reads or writes.
    pub(super) pages: Option<(Object, u64, u64)>,
    /// What must be in them before, as far as the process has to know.
    pub(super) before: Vec<(u64, Page)>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) procs: BTreeMap<u64, Proc>,
    pub(super) areas: BTreeMap<u64, Area>,
    pub(super) objects: BTreeMap<Object, Vec<Page>>,
    /// Cgroups whose epochs run by themselves, often.
    pub(super) restless: BTreeSet<(u64, u64)>,
    /// For a test of the soak itself: steps of this kind are not known to change anything.
    pub(super) plant: Option<Verb>,
}

impl Model {
    /// The contents that a process has in an area.
    pub(super) fn object(&self, proc: u64, area: u64) -> Option<Object> {
        self.procs.get(&proc)?.views.get(&area)?;
        let shared = self.areas.get(&area)?.kind().is_shared();
        Some((area, if shared { 0 } else { proc }))
    }

    /// What was in a page when it was mapped first.
    fn first(area: u64, page: u64) -> Page {
        Page::of(mix(area << 32 | page) | 1)
    }

    /// Does a step. `None` if it has no meaning here, and is left out.
    pub(super) fn apply(&mut self, step: &Step) -> Option<Touch> {
        let [proc, area, a, b, ..] = step.args;
        match step.verb {
            Verb::Round | Verb::Region | Verb::Compact | Verb::Ksm | Verb::Khugepaged => {}
            Verb::Again | Verb::Replica => {}
            Verb::Mode | Verb::Limit | Verb::Sync => {
                (proc < FAMILIES && area < GROUPS).then_some(())?;
            }
            Verb::Interval => {
                (proc < FAMILIES && area < GROUPS).then_some(())?;
                match a {
                    ..1000 => self.restless.insert((proc, area)),
                    _ => self.restless.remove(&(proc, area)),
                };
            }
            Verb::Press | Verb::Reclaim => (proc < FAMILIES).then_some(())?,
            Verb::Spawn => {
                (area < FAMILIES && proc != 0 && !self.procs.contains_key(&proc)).then_some(())?;
                let family = area;
                self.procs.insert(
                    proc,
                    Proc {
                        family,
                        ..Proc::default()
                    },
                );
            }
            Verb::Kill | Verb::Exit => self.end(proc)?,
            Verb::Move => {
                (area < GROUPS).then_some(())?;
                self.procs.get_mut(&proc)?.group = area;
            }
            Verb::Fork => self.fork(proc, area)?,
            Verb::Map => return self.map(proc, area, a, b),
            Verb::Unmap => return self.unmap(proc, area),
            Verb::Split => drop(self.object(proc, area)?),
            Verb::Strike => {
                self.object(proc, area)?;
                (a < self.areas[&area].pages).then_some(())?;
            }
            Verb::Unpin => drop(self.procs.get_mut(&proc)?.pin.take()?),
            _ => return self.access(step),
        }
        Some(Touch::default())
    }

    fn end(&mut self, proc: u64) -> Option<()> {
        self.procs.remove(&proc)?;
        self.objects.retain(|&(_, owner), _| owner != proc);
        Some(())
    }

    fn fork(&mut self, proc: u64, child: u64) -> Option<()> {
        (child != 0 && !self.procs.contains_key(&child)).then_some(())?;
        let parent = self.procs.get(&proc)?;
        let twin = Proc {
            family: parent.family,
            group: parent.group,
            views: parent.views.clone(),
            pin: None,
        };
        for &area in twin.views.keys() {
            if let Some(pages) = self.objects.get(&(area, proc)) {
                self.objects.insert((area, child), pages.clone());
            }
        }
        self.procs.insert(child, twin);
        Some(())
    }

    fn map(&mut self, proc: u64, area: u64, kind: u64, pages: u64) -> Option<Touch> {
        let kind = usize::try_from(kind).ok()?;
        let family = self.procs.get(&proc)?.family;
        (area != 0 && !self.procs[&proc].views.contains_key(&area)).then_some(())?;
        let is_new = match self.areas.get(&area) {
            Some(old) => {
                let fits = old.kind().can_be_opened() && old.family == family && old.kind == kind;
                fits.then_some(false)?
            }
            None => true,
        };
        if is_new {
            KINDS.get(kind)?.sizes().contains(&pages).then_some(())?;
            self.areas.insert(
                area,
                Area {
                    kind,
                    pages,
                    family,
                },
            );
        }
        self.procs
            .get_mut(&proc)?
            .views
            .insert(area, View::default());
        let object = self.object(proc, area)?;
        let pages = self.areas[&area].pages;
        let mut touch = Touch {
            pages: Some((object, 0, pages)),
            ..Touch::default()
        };
        if is_new {
            let first: Vec<Page> = (0..pages).map(|page| Self::first(area, page)).collect();
            touch.before = (0..).zip(first.iter().cloned()).collect();
            self.objects.insert(object, first);
        }
        Some(touch)
    }

    fn unmap(&mut self, proc: u64, area: u64) -> Option<Touch> {
        let object = self.object(proc, area)?;
        let touched = (object, 0, self.areas[&area].pages);
        let who = self.procs.get_mut(&proc)?;
        who.views.remove(&area);
        who.pin = who.pin.filter(|&(pinned, _)| pinned != area);
        if object.1 != 0 {
            self.objects.remove(&object);
        }
        Some(Touch {
            pages: Some(touched),
            before: Vec::new(),
        })
    }

    /// A step that is about some pages of an area.
    fn access(&mut self, step: &Step) -> Option<Touch> {
        let [proc, area, first, count, ..] = step.args;
        let owner = step.owner();
        let object = self.object(owner, area)?;
        let (kind, pages) = (self.areas[&area].kind(), self.areas[&area].pages);
        if owner != proc {
            // A peer, which stands still at the same time.
            (self.procs.get(&proc)?.family == self.areas[&area].family).then_some(())?;
            // Who writes what others have too must be able to do it himself: the peer may fail to.
            let own = self.procs[&proc].views.get(&area);
            (!kind.is_shared() || own.is_some_and(|own| !own.read_only)).then_some(())?;
        }
        let view = *self.procs[&owner].views.get(&area)?;
        let private = !kind.is_shared();
        // The pages that are touched, and whether it is allowed now.
        use Verb::*;
        let (allowed, from, len) = match step.verb {
            Check | PageOut | Cold | Populate | Collapse | MovePages => (true, first, count),
            DontNeed => (!view.locked, first, count),
            Free => (!view.locked && private, first, count),
            Merge | Unmerge => (private && kind.unit() == 1, first, count),
            Lock => (kind.unit() == 1 && pages <= 96, 0, pages),
            Protect | Mremap => (true, 0, pages),
            Fsync => (kind.has_file(), 0, pages),
            Truncate => (kind.has_file() && !view.locked && first < pages, 0, pages),
            Punch => {
                let (end, all) = (first.checked_add(count)?, pages * WORDS);
                let whole = first % WORDS == 0 && count % WORDS == 0;
                let allowed = kind.has_file() || whole && !private && !view.locked;
                let from = first / WORDS;
                (
                    allowed && count > 0 && end <= all,
                    from,
                    end.div_ceil(WORDS) - from,
                )
            }
            KernelWrite | DirectWrite => (true, first, 1),
            FileRead => (kind.has_file(), first, 1),
            FileWrite => (kind.has_file(), first, 1),
            Pin => (!view.read_only && private, first, 1),
            PinRead => (self.procs[&proc].pin == Some((area, first)), first, 1),
            _ => (!view.read_only, first, 1),
        };
        let fits = from.checked_add(len).is_some_and(|end| end <= pages);
        let aligned = from % kind.unit() == 0 && len % kind.unit() == 0;
        let by_unit = matches!(step.verb, DontNeed | Free);
        (allowed && fits && len > 0 && (aligned || !by_unit)).then_some(())?;
        if let Some((_, off, words, _)) = step.stroke() {
            (words > 0 && off.checked_add(words)? <= WORDS).then_some(())?;
            (!view.read_only || step.verb == FileWrite).then_some(())?;
        }
        let touch = Touch {
            pages: Some((object, from, len)),
            before: self.before(step.verb, object, from, len),
        };
        self.note(step, owner);
        if self.plant != Some(step.verb) {
            self.change(step, object, from, len);
        }
        Some(touch)
    }

    /// The contents that the process has to know for this.
    fn before(&self, verb: Verb, object: Object, from: u64, len: u64) -> Vec<(u64, Page)> {
        use Verb::*;
        let needless = matches!(
            verb,
            PageOut | Cold | Populate | Collapse | MovePages | Merge | Unmerge | Mremap | Lock
        );
        if needless {
            return Vec::new();
        }
        let pages = &self.objects[&object];
        (from..from + len)
            .map(|page| (page, pages[page as usize].clone()))
            .collect()
    }

    /// What the step changes but the bytes.
    fn note(&mut self, step: &Step, owner: u64) {
        let [_, area, first, ..] = step.args;
        let Some(proc) = self.procs.get_mut(&owner) else {
            return;
        };
        let on = first != 0;
        match (step.verb, proc.views.get_mut(&area)) {
            (Verb::Lock, Some(view)) => view.locked = on,
            (Verb::Protect, Some(view)) => view.read_only = on,
            (Verb::Merge, Some(view)) => view.mergeable = true,
            (Verb::Pin, _) => proc.pin = Some((area, first)),
            _ => {}
        }
    }

    /// What the step does to the bytes.
    fn change(&mut self, step: &Step, object: Object, from: u64, len: u64) {
        let kind = self.areas[&object.0].kind();
        let (private, on_disk) = (!kind.is_shared(), kind.is_on_disk());
        let Some(pages) = self.objects.get_mut(&object) else {
            return;
        };
        if let (Verb::PinRead, Some((page, .., key))) = (step.verb, step.stroke()) {
            pages[page as usize].write_unsaid(key);
            return;
        }
        if let Some((page, off, words, key)) = step.stroke() {
            pages[page as usize].write((off, words, key), on_disk);
            return;
        }
        let [_, _, a, b, ..] = step.args;
        for page in from..from + len {
            let content = &mut pages[page as usize];
            match step.verb {
                Verb::DontNeed if private => *content = Page::of(0),
                Verb::Free => content.free(),
                Verb::Fsync => content.older.clear(),
                Verb::Truncate if page >= a => content.write((0, WORDS, 0), on_disk),
                Verb::Punch => {
                    let start = a.max(page * WORDS) - page * WORDS;
                    let end = (a + b).min((page + 1) * WORDS) - page * WORDS;
                    content.write((start, end - start, 0), on_disk);
                }
                _ => {}
            }
        }
    }
}
