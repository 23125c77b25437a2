// SPDX-License-Identifier: GPL-2.0

//! A page that is registered with io_uring, which the kernel writes without its page-table entry.

use super::lost;
use super::view::View;
use crate::PAGE_SIZE;
use anyhow::{Context, Result};
use io_uring::{opcode, types, IoUring};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// A ring with one page as its buffer.
pub(super) struct Ring {
    ring: IoUring,
    pub(super) area: u64,
    pub(super) page: u64,
    /// Where it was when it was registered, which is what the kernel goes by.
    addr: u64,
    /// How often the page had been written again when it was registered.
    repairs: u64,
    /// How many pages this process had lost then.
    faults: u64,
}

impl Ring {
    /// Registers a page.
    pub(super) fn new(area: u64, page: u64, view: &View) -> Result<Self> {
        let ring = IoUring::new(4).context("io_uring")?;
        let buffer = libc::iovec {
            iov_base: view.mem.ptr(page, 0).cast(),
            iov_len: PAGE_SIZE,
        };
        // SAFETY: The ring goes before its page is unmapped.
        unsafe { ring.submitter().register_buffers(&[buffer]) }?;
        Ok(Self {
            ring,
            area,
            page,
            addr: view.mem.addr(page),
            repairs: view.repairs(page),
            faults: lost::faults(),
        })
    }

    /// Whether what is registered still is the page: one that was lost has another frame now. One
    /// of zeros need not have been written again for that, so no loss at all may have come between.
    pub(super) fn is_true(&self, view: &View) -> bool {
        self.repairs == view.repairs(self.page) && self.faults == lost::faults()
    }

    /// Reads the beginning of a file into the page.
    pub(super) fn read(&mut self, source: &File) -> io::Result<()> {
        let fd = types::Fd(source.as_raw_fd());
        let to = std::ptr::with_exposed_provenance_mut(self.addr as usize);
        let entry = opcode::ReadFixed::new(fd, to, PAGE_SIZE as u32, 0).build();
        // SAFETY: The buffer and the file live until it is done, which is waited for.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        self.ring.submit_and_wait(1)?;
        let done = self.ring.completion().next();
        match done.map_or(0, |done| done.result()) {
            4096 => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }
}
