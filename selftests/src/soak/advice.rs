// SPDX-License-Identifier: GPL-2.0

//! What a process tells the kernel about whole ranges of its memory.

use super::actor::Actor;
use super::place;
use super::step::Verb;
use super::view::View;
use super::wire::{Order, What};
use crate::memory::WORDS;
use crate::PAGE;
use anyhow::{bail, Context, Result};
use nix::fcntl::{fallocate, FallocateFlags};
use std::os::fd::AsRawFd;

/// Not in Debian's libc crate under these names yet.
const MADV_COLLAPSE: i32 = 25;
/// Only pages that nobody else maps.
const MPOL_MF_MOVE: i32 = 1 << 1;
/// How often an error is reported before the file is as it should be.
const FSYNCS: usize = 3;

impl Actor {
    /// A step that is about a range.
    pub(super) fn advise(&mut self, index: usize, order: &Order) -> Result<()> {
        let [_, area, first, count, node, ..] = order.step.args;
        match order.step.verb {
            // What is registered with io_uring would not be what is mapped any more.
            Verb::DontNeed | Verb::Free | Verb::Punch | Verb::Truncate => self.unpin(area),
            _ => {}
        }
        // Partly punched pages, and those that will be on disk, must be as they should be first.
        if matches!(order.step.verb, Verb::Fsync | Verb::Punch) {
            for (page, may) in &order.before {
                let found = self.view(area)?.check(*page, may)?;
                self.find_any(index, *page, found);
            }
        }
        let view = self.view(area)?;
        let advise = |advice| view.mem.advise(first, count, advice);
        match order.step.verb {
            Verb::DontNeed => {
                advise(libc::MADV_DONTNEED)?;
                if !view.kind.is_shared() {
                    view.forget(first, count);
                }
            }
            Verb::Free => {
                // hugetlb has no such thing; then the page is as it was, which is allowed.
                if advise(libc::MADV_FREE).is_ok() {
                    view.forget(first, count);
                }
            }
            // Whether these do something is up to the kernel.
            Verb::PageOut => drop(advise(libc::MADV_PAGEOUT)),
            Verb::Cold => drop(advise(libc::MADV_COLD)),
            Verb::Populate => drop(advise(libc::MADV_POPULATE_WRITE)),
            Verb::Collapse => drop(advise(MADV_COLLAPSE)),
            Verb::Merge => drop(advise(libc::MADV_MERGEABLE)),
            Verb::Unmerge => drop(advise(libc::MADV_UNMERGEABLE)),
            Verb::MovePages => move_pages(view, first, count, node),
            Verb::Lock => lock(view, first != 0),
            Verb::Protect => {
                let both = libc::PROT_READ | libc::PROT_WRITE;
                view.read_only = first != 0;
                let rights = if view.read_only {
                    libc::PROT_READ
                } else {
                    both
                };
                view.mem.protect(rights)?;
            }
            Verb::Mremap => {
                let (align, unit) = (view.kind.align(), view.kind.unit());
                if let Some(mem) = place::move_to(view.mem, align, unit)? {
                    view.moved(mem);
                    self.find(index, 0, What::At(mem.addr(0)));
                }
            }
            Verb::Fsync => {
                let file = view.file.as_ref().context("no file")?;
                let done = (0..FSYNCS).any(|_| file.sync_all().is_ok());
                if !done {
                    bail!("fsync() goes on failing");
                }
            }
            Verb::Punch => punch(view, first, count)?,
            Verb::Truncate => {
                let file = view.file.as_ref().context("no file")?;
                file.set_len(first * PAGE)?;
                file.set_len(view.mem.pages() * PAGE)?;
                view.forget(first, view.mem.pages() - first);
            }
            other => bail!("{other:?} is not for a process"),
        }
        Ok(())
    }
}

fn lock(view: &View, on: bool) {
    let (from, len) = (view.mem.ptr(0, 0).cast(), view.mem.len());
    // SAFETY: The range is ours. A lost page in it is an error, and what comes after it not locked.
    unsafe {
        if on {
            libc::mlock(from, len);
        } else {
            libc::munlock(from, len);
        }
    }
}

fn punch(view: &mut View, from: u64, len: u64) -> Result<()> {
    match &view.file {
        Some(file) => {
            let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let (at, bytes) = (i64::try_from(from * 8)?, i64::try_from(len * 8)?);
            fallocate(file.as_raw_fd(), mode, at, bytes).context("fallocate")?;
        }
        None => {
            view.mem
                .advise(from / WORDS, len / WORDS, libc::MADV_REMOVE)?;
        }
    }
    let first = from.div_ceil(WORDS);
    let end = (from + len) / WORDS;
    view.forget(first, end.saturating_sub(first));
    Ok(())
}

fn move_pages(view: &View, first: u64, count: u64, node: u64) {
    let pages: Vec<*mut u8> = (first..first + count)
        .map(|page| view.mem.ptr(page, 0))
        .collect();
    let nodes = vec![node as i32; pages.len()];
    let mut status = vec![0i32; pages.len()];
    // SAFETY: The three arrays have as many elements as it is told.
    unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            pages.len(),
            pages.as_ptr(),
            nodes.as_ptr(),
            status.as_mut_ptr(),
            MPOL_MF_MOVE,
        )
    };
}
