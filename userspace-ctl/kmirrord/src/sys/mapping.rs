// SPDX-License-Identifier: GPL-2.0

//! Advice about guest memory that this process has mapped, and questions about it.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use vm_memory::{GuestMemory, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::{numa, sigbus};

/// One region of guest memory as this process sees it. Ranges are offsets in bytes from its start;
/// one that leaves it is refused.
///
/// # Invariants
///
/// `start..start + bytes` is a shared, writable mapping of guest memory that lives as long as
/// `memory`, and that nobody in this process has a reference into. So its pages may be dropped,
/// made, moved and locked at any time.
#[derive(Debug)]
pub struct Mapping {
    start: usize,
    bytes: usize,
    // Dropped first: nobody is guarded who is not mapped.
    _guarded: Option<sigbus::Guarded>,
    number: usize,
    memory: Arc<GuestMemoryMmap>,
}

impl Mapping {
    /// The mapping of region `number` of `memory`, whose file has pages of `page` bytes. `None`
    /// when there is no such region.
    pub fn new(memory: Arc<GuestMemoryMmap>, number: usize, page: usize) -> Option<Self> {
        // INVARIANT: The crate hands out volatile slices of a region, never references. `memory` is
        // kept. vhost-user maps all that it is given shared and writable.
        let region = memory.iter().nth(number)?;
        let start = MmapRegion::as_ptr(region) as usize;
        let bytes = MmapRegion::size(region);
        Some(Self {
            start,
            bytes,
            _guarded: sigbus::Guarded::new(start, bytes, page),
            number,
            memory,
        })
    }

    /// The region; `None` never happens.
    pub fn region(&self) -> Option<&GuestRegionMmap> {
        self.memory.iter().nth(self.number)
    }

    /// Bytes of it.
    pub fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    fn place(&self, range: &Range<u64>) -> io::Result<(usize, usize)> {
        let start = usize::try_from(range.start).map_err(io::Error::other)?;
        let end = usize::try_from(range.end).map_err(io::Error::other)?;
        if start >= end || end > self.bytes {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok((self.start + start, end - start))
    }

    fn advise(&self, range: &Range<u64>, advice: i32) -> io::Result<()> {
        let (start, bytes) = self.place(range)?;
        // SAFETY: By the invariant of the type; each advice that is given here leaves a mapping of
        // the same file behind.
        let done = unsafe { libc::madvise(start as *mut libc::c_void, bytes, advice) };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Makes all pages, for writing. `EHWPOISON` for a broken one.
    pub fn populate(&self, range: &Range<u64>) -> io::Result<()> {
        self.advise(range, libc::MADV_POPULATE_WRITE)
    }

    /// Maps what the file has now: the process forgets which pages it had, broken ones too. Pages
    /// that were locked will be so again.
    pub fn forget(&self, range: &Range<u64>) -> io::Result<()> {
        /// `MADV_DONTNEED_LOCKED`, which the `libc` crate does not have yet.
        const DONTNEED_LOCKED: i32 = 24;
        self.advise(range, DONTNEED_LOCKED)
    }

    /// Keeps KSM away. It would not touch shared memory anyway; a kernel without KSM knows no such
    /// advice, and merges nothing.
    pub fn unmerge(&self, range: &Range<u64>) -> io::Result<()> {
        self.advise(range, libc::MADV_UNMERGEABLE)
            .or_else(|error| match error.raw_os_error() {
                Some(libc::EINVAL) => Ok(()),
                _ => Err(error),
            })
    }

    /// Keeps the pages in memory as long as they are mapped here.
    pub fn lock(&self, range: &Range<u64>) -> io::Result<()> {
        let (start, bytes) = self.place(range)?;
        // SAFETY: By the invariant of the type; contents and addresses stay what they are.
        let done = unsafe { libc::mlock(start as *const libc::c_void, bytes) };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// See [`numa::prefer`].
    pub fn prefer(&self, range: &Range<u64>, node: u32, move_pages: bool) -> io::Result<()> {
        let (start, bytes) = self.place(range)?;
        numa::prefer(start, bytes, node, move_pages)
    }

    /// The node of the page at `offset`; `None` when the file has no page there, or a broken one.
    pub fn sample(&self, offset: u64) -> Option<u32> {
        let offset = offset & !4095;
        let (address, bytes) = self.place(&(offset..offset.checked_add(4096)?)).ok()?;
        let mut resident = 0u8;
        // SAFETY: mincore() writes one byte for the one page.
        let done = unsafe { libc::mincore(address as *mut libc::c_void, bytes, &raw mut resident) };
        if done != 0 || resident & 1 == 0 {
            return None;
        }
        numa::node_of(address).ok()
    }

    /// Calls `seen` with the node of each page of 4 KiB; with `None` where there is no page.
    pub fn nodes(&self, range: &Range<u64>, mut seen: impl FnMut(Option<u32>)) -> io::Result<()> {
        const AT_ONCE: usize = 1024;
        let (start, bytes) = self.place(range)?;
        let mut nodes = [0; AT_ONCE];
        let pages: Vec<usize> = (start..start + bytes).step_by(4096).collect();
        for pages in pages.chunks(AT_ONCE) {
            let nodes = &mut nodes[..pages.len()];
            numa::nodes_of(pages, nodes)?;
            for &node in nodes.iter() {
                seen(u32::try_from(node).ok());
            }
        }
        Ok(())
    }
}

/// Prefers `node` for a file in memory, all `bytes` of it, from now on.
///
/// # Errors
///
/// What `mmap()` or `mbind()` says.
pub fn prefer_file(file: &std::fs::File, bytes: usize, node: u32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: A new mapping at an address that the kernel chooses disturbs nobody.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let done = numa::prefer(start as usize, bytes, node, false);
    // SAFETY: The mapping that was made above; nothing points into it. The policy is the file's
    // and stays.
    unsafe { libc::munmap(start, bytes) };
    done
}
