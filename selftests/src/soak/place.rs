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

/// Moves a mapping to such an address.
pub(super) fn move_to(mapping: Mapping, align: u64) -> Result<Mapping> {
    let addr = find(mapping.pages(), align)?;
    let to = std::ptr::with_exposed_provenance_mut::<libc::c_void>(addr as usize);
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let from = mapping.ptr(0, 0).cast();
    // SAFETY: The range is ours, nobody has references into it, and nothing is at the new place.
    let base = unsafe { libc::mremap(from, mapping.len(), mapping.len(), flags, to) };
    if base == libc::MAP_FAILED {
        return Err(Errno::last()).context("mremap");
    }
    Ok(Mapping::at(addr, mapping.pages()))
}
