// SPDX-License-Identifier: GPL-2.0

//! HEAL: fresh backing for a broken frame; and RESCUE, the bytes of one that can still be read.
//!
//! When a page of the file behind guest memory breaks, the host's kernel marks it and takes it out
//! of every page table, in QEMU's and so in the guest's nested ones too: a mark stands in its
//! place, and whoever touches it gets a machine check. The page itself stays in the file. Making a
//! hole in the file takes it out, and what is written into the hole gets fresh memory.
//!
//! # Others may look on
//!
//! Between the hole and what is written into it a virtual CPU that touched the memory would find
//! zeros. Nothing has to keep it off:
//!
//! - a page of 4 KiB holds one frame, which the guest has retired and shows nobody until the answer
//!   is there and it has read the frame;
//! - a page of 2 MiB holds 512. Either the guest has named all of them idle, which is the same; or
//!   some are in use, and then nothing is done ([`Code::Neighbours`]). Those frames are not lost to
//!   the guest: nobody can write them any more, by the mark that stands for the whole page, and
//!   RESCUE reads their bytes through the file. So the guest can move each of them away, as it would
//!   restore it, from a source that is current by definition, and when the last has gone the whole
//!   page is idle.
//!
//! So there is no moment at which the end of this process, or of the host's patience with it,
//! leaves the guest with a byte it has not written: idle frames are all that is ever taken away.
//! A `userfaultfd` would not help: it stands before the page tables of one process, and those that
//! count are QEMU's.
//!
//! QEMU's own mark outlives the hole in tmpfs (not in hugetlbfs): it goes when QEMU drops the page,
//! which the guest asks for by free page reporting. So the guest reads a healed frame with a copy
//! that survives a machine check, and uses it only if that brings what it has filled in.

use std::io;

use kmirror_core::wire::{Code, Frames, Heal, HealAnswer, DATA_BYTES};
use tracing::warn;

use crate::ram::{Backing, Page, Ram, Region};

const HUGE_BYTES: u64 = 2 << 20;

/// What became of a HEAL.
#[derive(Debug, PartialEq, Eq)]
pub enum Healed {
    /// Fresh memory is behind the frame, now.
    Done(HealAnswer),
    /// It was there already, and the frame has been filled.
    Whole(HealAnswer),
    /// Nothing has changed; others than the frame are in use.
    Neighbours(HealAnswer),
}

fn code(error: &io::Error) -> Code {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::ENOMEM) => Code::Full,
        Some(libc::EPERM | libc::EACCES) => Code::Denied,
        Some(libc::EOPNOTSUPP) => Code::Unsupported,
        _ => Code::Failed,
    }
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> Code {
    move |error| {
        warn!(%error, "heal: {what}");
        code(&error)
    }
}

/// Replaces the page of the host behind a frame.
///
/// # Errors
///
/// [`Code::Memory`] for a frame that is not shared, [`Code::Unsupported`] for a file whose pages
/// cannot be replaced, [`Code::Full`] without memory for a new one, [`Code::Denied`],
/// [`Code::Failed`]. In the last three the frames that were idle have lost what they held.
pub fn heal(ram: &Ram, heal: &Heal<'_>) -> Result<Healed, Code> {
    let (region, offset) = ram.find(heal.address, DATA_BYTES as u64)?;
    let fill = heal.fill.unwrap_or(&[0; DATA_BYTES]);
    match region.backing() {
        Backing::Shared => replace(region, offset, fill).map(Healed::Done),
        Backing::Hugetlb(HUGE_BYTES) => replace_huge(region, offset, heal, fill),
        Backing::Hugetlb(_) | Backing::Other => Err(Code::Unsupported),
    }
}

fn replace(region: &Region, offset: u64, fill: &Page) -> Result<HealAnswer, Code> {
    let range = offset..offset + DATA_BYTES as u64;
    region.punch(&range).map_err(failed("fallocate"))?;
    region.write(offset, fill).map_err(failed("write"))?;
    // A frame that is placed is locked only while it is mapped here.
    let _ = region.mapping().populate(&range);
    Ok(HealAnswer {
        page_bytes: DATA_BYTES as u64,
        kept: 0,
        lost: Frames::NONE,
    })
}

fn replace_huge(
    region: &Region,
    offset: u64,
    heal: &Heal<'_>,
    fill: &Page,
) -> Result<Healed, Code> {
    // The host's huge page has to be the guest's 2 MiB of memory, or bits of the request would
    // stand for other frames. QEMU aligns them.
    let place = heal.address % HUGE_BYTES;
    if region.file_offset(offset) % HUGE_BYTES != place {
        return Err(Code::Unsupported);
    }
    let start = offset.checked_sub(place).ok_or(Code::Unsupported)?;
    let range = start..start + HUGE_BYTES;
    if range.end > region.mapping().bytes() {
        return Err(Code::Unsupported);
    }

    let mut answer = HealAnswer {
        page_bytes: HUGE_BYTES,
        kept: 0,
        lost: Frames::NONE,
    };
    let used: Vec<usize> = (0..Frames::BYTES * 8)
        .filter(|&index| index != Frames::index(heal.address) && !heal.idle.get(index))
        .collect();
    let frame = offset..offset + DATA_BYTES as u64;
    if !used.is_empty() && region.mapping().populate(&frame).is_ok() {
        // The page can be mapped, so it is whole: it was replaced for one of the neighbours, which
        // is back in use. The frame itself is idle, and nothing else is touched.
        region.write(offset, fill).map_err(failed("write"))?;
        answer.kept = used.len() as u64;
        return Ok(Healed::Whole(answer));
    }
    if !used.is_empty() {
        for &index in &used {
            let read = region.read(start + index as u64 * DATA_BYTES as u64);
            if read.map_err(failed("read"))?.is_none() {
                answer.lost.set(index);
            }
        }
        answer.kept = used.len() as u64 - u64::from(answer.lost.count());
        return Ok(Healed::Neighbours(answer));
    }

    region.punch(&range).map_err(failed("fallocate"))?;
    // Fresh pages are 0.
    region.allocate(&range).map_err(failed("fallocate"))?;
    region
        .mapping()
        .populate(&frame)
        .map_err(failed("madvise"))?;
    region.write(offset, fill).map_err(failed("write"))?;
    Ok(Healed::Done(answer))
}

/// The bytes of a frame, read through the file.
///
/// # Errors
///
/// [`Code::Memory`] for a frame that is not shared, [`Code::Unsupported`] for one that is perhaps not,
/// [`Code::Empty`] for one that is lost, [`Code::Failed`].
pub fn rescue(ram: &Ram, address: u64) -> Result<Page, Code> {
    let (region, offset) = ram.find(address, DATA_BYTES as u64)?;
    // The guest cannot see whether the bytes are right, so it must be certain that they are its own.
    if !ram.is_heard(region) {
        return Err(Code::Unsupported);
    }
    let page = region.read(offset).map_err(failed("read"))?;
    page.ok_or(Code::Empty)
}
