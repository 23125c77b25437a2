// SPDX-License-Identifier: GPL-2.0

//! Places in the address space.

use crate::memory::Mapping;
use crate::{PAGE, PAGE_SIZE};
use anyhow::{Context, Result};
use nix::errno::Errno;

/// An address with room for so many pages, at a multiple of `align` pages. Nothing is mapped there.
pub(super) fn find(pages: u64, align: u64) -> Result<u64> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let room = Mapping::new(pages + align, flags, -1)?;
    let addr = room.addr(0).next_multiple_of(align * PAGE);
    room.unmap()?;
    Ok(addr)
}

/// Maps something at such an address.
pub(super) fn map(pages: u64, align: u64, flags: i32, fd: i32) -> Result<Mapping> {
    let addr = find(pages, align)?;
    let at = std::ptr::with_exposed_provenance_mut(addr as usize);
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = flags | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: With this flag nothing that is mapped is replaced.
    let base = unsafe { libc::mmap(at, pages as usize * PAGE_SIZE, prot, flags, fd, 0) };
    if base == libc::MAP_FAILED {
        return Err(Errno::last()).context("mmap");
    }
    Ok(Mapping::at(base.expose_provenance() as u64, pages))
}

/// Moves a mapping to such an address, whole; `None` if the kernel does not want to.
///
/// What consists of several parts by now is moved part by part, and the kernel stops at the first that it cannot
/// move: one with pages of KSM, if a signal comes or the freezer. Then those before it have gone already, although
/// the call has failed. The rest is moved here, in pieces of `unit` pages.
pub(crate) fn move_to(mapping: Mapping, align: u64, unit: u64) -> Result<Option<Mapping>> {
    let to = Mapping::at(find(mapping.pages(), align)?, mapping.pages());
    if remap(mapping, to, 0, mapping.pages()).is_ok() {
        return Ok(Some(to));
    }
    let mut left: Vec<u64> = (0..mapping.pages()).step_by(unit as usize).collect();
    let all = left.len();
    left.retain(|&page| is_mapped(mapping.addr(page)));
    if left.len() == all {
        return Ok(None);
    }
    for page in left {
        remap(mapping, to, page, unit).context("a mapping is torn")?;
    }
    Ok(Some(to))
}

fn remap(mapping: Mapping, to: Mapping, page: u64, pages: u64) -> Result<()> {
    let len = pages as usize * PAGE_SIZE;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let [from, to] = [mapping, to].map(|place| place.ptr(page, 0).cast::<libc::c_void>());
    // SAFETY: The range is ours, nobody has references into it, and nothing is at the new place.
    let base = unsafe { libc::mremap(from, len, len, flags, to) };
    if base == libc::MAP_FAILED {
        return Err(Errno::last()).context("mremap");
    }
    Ok(())
}

fn is_mapped(addr: u64) -> bool {
    let mut present = 0;
    let at = std::ptr::with_exposed_provenance_mut(addr as usize);
    // SAFETY: The byte lives until the call returns; what is at the address is not touched.
    unsafe { libc::mincore(at, PAGE_SIZE, &mut present) == 0 }
}
