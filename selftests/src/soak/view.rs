// SPDX-License-Identifier: GPL-2.0

//! An area as a process has it mapped: looking at its pages, writing them, and repairing what an
//! error has left.

use super::content::{words, Content, Image, Page};
use super::kind::Kind;
use super::lost::{self, watch, Met};
use super::wire::What;
use crate::memory::{Mapping, WORDS};
use crate::PAGE;
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;

/// How often something is tried again that an error may hit again.
const TRIES: usize = 4;

/// A mapped area.
pub(super) struct View {
    pub(super) mem: Mapping,
    pub(super) kind: &'static dyn Kind,
    pub(super) file: Option<File>,
    pub(super) guard: usize,
    pub(super) read_only: bool,
    /// Pages whose bytes were dropped together with a lost one, or lost and not written again yet.
    gone: BTreeSet<u64>,
    /// How often each page was written again.
    repairs: BTreeMap<u64, u64>,
}

/// One word that is not as it should be.
fn difference(is: &Image, want: &Image) -> Option<What> {
    let index = (0..WORDS).find(|&index| is[index as usize] != want[index as usize])?;
    Some(What::Wrong(index, is[index as usize], want[index as usize]))
}

impl View {
    /// Maps an area.
    pub(super) fn new(kind: &'static dyn Kind, area: u64, handle: u64, pages: u64) -> Result<Self> {
        let file = kind.open(area, handle)?;
        let mem = kind.map(file.as_ref(), handle, pages)?;
        Ok(Self {
            guard: lost::guard(mem.addr(0), pages, kind.unit(), kind.is_shared())?,
            mem,
            kind,
            file,
            read_only: false,
            gone: BTreeSet::new(),
            repairs: BTreeMap::new(),
        })
    }

    /// It is elsewhere now.
    pub(super) fn moved(&mut self, mem: Mapping) {
        self.mem = mem;
        lost::move_guard(self.guard, mem.addr(0), mem.pages());
    }

    /// Gives it back.
    pub(super) fn unmap(self) -> Result<()> {
        self.mem.unmap()?;
        lost::unguard(self.guard);
        Ok(())
    }

    /// These pages have other contents now, whatever they had.
    pub(super) fn forget(&mut self, from: u64, len: u64) {
        self.gone.retain(|page| !(from..from + len).contains(page));
    }

    /// Remembers what an access to a page has met with.
    fn met(&mut self, page: u64, met: Met) -> bool {
        if met.gone {
            let unit = self.kind.unit();
            let first = page / unit * unit;
            self.gone.extend(first..first + unit);
        }
        self.gone.contains(&page)
    }

    fn load(&self, page: u64) -> (Image, Met) {
        let mut image = [0; WORDS as usize];
        let from = self.mem.ptr(page, 0).cast::<u64>();
        let ((), met) = watch(|| {
            for (index, word) in image.iter_mut().enumerate() {
                // SAFETY: `ptr` has looked that the page is in the mapping. Others may change it
                // meanwhile, which a volatile access allows for.
                *word = unsafe { from.add(index).read_volatile() };
            }
        });
        (image, met)
    }

    /// Stores some words.
    pub(super) fn store(&self, page: u64, off: u64, values: &[u64]) -> Met {
        let to = self.mem.ptr(page, off * 8).cast::<u64>();
        assert!(off + values.len() as u64 <= WORDS);
        let ((), met) = watch(|| {
            for (index, word) in values.iter().enumerate() {
                // SAFETY: As in `load`, and it has room for so many.
                unsafe { to.add(index).write_volatile(*word) };
            }
        });
        met
    }

    /// How often a page was written again: it has another frame since then.
    pub(super) fn repairs(&self, page: u64) -> u64 {
        self.repairs.get(&page).copied().unwrap_or(0)
    }

    /// Writes a page whole, as often as that is hit itself.
    pub(super) fn repair(&mut self, page: u64, content: &Content) -> Result<()> {
        let both = libc::PROT_READ | libc::PROT_WRITE;
        if self.read_only {
            self.mem.protect(both)?;
        }
        self.gone.remove(&page);
        *self.repairs.entry(page).or_default() += 1;
        let image = content.image();
        for _ in 0..TRIES {
            let met = self.store(page, 0, &image);
            if !met.faulted {
                break;
            }
            self.met(page, met);
            self.gone.remove(&page);
        }
        if self.read_only {
            self.mem.protect(libc::PROT_READ)?;
        }
        Ok(())
    }

    /// Looks whether a page has what it may have, and repairs it if an error may have been at it.
    pub(super) fn check(&mut self, page: u64, may: &Page) -> Result<Option<What>> {
        let (mut is, mut met) = self.load(page);
        let mut gone = self.met(page, met);
        let faulted = met.faulted;
        // What was read before the page was dropped and after are not of one piece.
        for _ in 0..TRIES {
            if !met.faulted {
                break;
            }
            (is, met) = self.load(page);
            gone = self.met(page, met);
        }
        self.judge(page, may, &is, gone, faulted)
    }

    /// Says what the bytes of a page mean, however they were read.
    pub(super) fn judge(
        &mut self,
        page: u64,
        may: &Page,
        is: &Image,
        gone: bool,
        faulted: bool,
    ) -> Result<Option<What>> {
        let Some(wrong) = difference(is, &may.now.image()) else {
            self.gone.remove(&page);
            return Ok(faulted.then_some(What::Faulted));
        };
        if gone {
            self.repair(page, &may.now)?;
            return Ok(Some(What::Lost));
        }
        if may.lazy.iter().any(|lazy| *is == lazy.image()) {
            return Ok(Some(What::Lazy));
        }
        if may.is_from_disk(is) {
            self.repair(page, &may.now)?;
            return Ok(Some(What::Older));
        }
        if may.is_garbage(is) {
            let len = self.kind.unit() * PAGE;
            let at = self.mem.addr(page) & !(len - 1);
            lost::drop_page(at, len, self.kind.is_shared())?;
            let met = Met {
                faulted: true,
                gone: true,
            };
            self.met(page, met);
            self.repair(page, &may.now)?;
            return Ok(Some(What::Garbage));
        }
        Ok(Some(wrong))
    }

    /// A page that is known to be gone is written again before something is done to it.
    pub(super) fn settle(&mut self, page: u64, may: &Page) -> Result<Option<What>> {
        if !self.gone.contains(&page) {
            return Ok(None);
        }
        self.repair(page, &may.now)?;
        Ok(Some(What::Lost))
    }

    /// Writes to a page in some way. `stroke` is what is written where.
    pub(super) fn write(
        &mut self,
        page: u64,
        may: &Page,
        stroke: (u64, u64, u64),
        mut how: impl FnMut(&Self, &[u64]) -> io::Result<()>,
    ) -> Result<Option<What>> {
        let settled = self.settle(page, may)?;
        let (off, len, key) = stroke;
        let values = words(key, off, len);
        let mut after = may.clone();
        after.write(stroke, false);
        let mut last = None;
        let mut faulted = false;
        for _ in 0..TRIES {
            let (done, met) = watch(|| how(self, &values));
            // Was it lost? A touch tells.
            let touch = match done {
                Ok(()) => Met::default(),
                Err(_) => watch(|| self.touch(page)).1,
            };
            let (first, second) = (self.met(page, met), self.met(page, touch));
            if first || second {
                self.repair(page, &after.now)?;
                return Ok(Some(What::Lost));
            }
            faulted |= met.faulted || touch.faulted;
            match done {
                Ok(()) if !met.faulted => return Ok(settled.or(faulted.then_some(What::Faulted))),
                Ok(()) => {}
                Err(error) => last = error.raw_os_error(),
            }
        }
        // What is there now is not known, but what should be.
        self.repair(page, &after.now)?;
        Ok(Some(match last {
            Some(errno) => What::Missed(u64::try_from(errno)?),
            None => What::Faulted,
        }))
    }

    fn touch(&self, page: u64) {
        std::hint::black_box(self.mem.load(page, 0));
    }

    /// Looks at a page in some other way than by loads.
    pub(super) fn read(
        &mut self,
        page: u64,
        may: &Page,
        how: impl FnOnce(&Self) -> io::Result<Image>,
    ) -> Result<Option<What>> {
        let settled = self.settle(page, may)?;
        match how(self) {
            Ok(is) => Ok(self.judge(page, may, &is, false, false)?.or(settled)),
            // An error is right where the page is lost, which a load finds out.
            Err(error) => match self.check(page, may)? {
                None => {
                    let errno = error.raw_os_error().unwrap_or(0);
                    Ok(settled.or(Some(What::Missed(u64::try_from(errno)?))))
                }
                found => Ok(found),
            },
        }
    }
}
