// SPDX-License-Identifier: GPL-2.0

//! userfaultfd: a page whose first user waits until it is told to go on.
//!
//! C header: `include/uapi/linux/userfaultfd.h`

use crate::memory::Mapping;
use crate::wait;
use anyhow::{ensure, Context, Result};
use nix::errno::Errno;
use nix::poll::PollFlags;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const API: u64 = 0xaa;
const REGISTER_MODE_MISSING: u64 = 1;
const REGISTER_MODE_WP: u64 = 2;

#[repr(C)]
#[derive(Debug)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Debug)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Debug)]
struct Zeropage {
    start: u64,
    len: u64,
    mode: u64,
    zeropage: i64,
}

mod calls {
    use super::{Api, Register, Zeropage};
    nix::ioctl_readwrite!(uffdio_api, 0xaa, 0x3f, Api);
    nix::ioctl_readwrite!(uffdio_register, 0xaa, 0x00, Register);
    nix::ioctl_readwrite!(uffdio_zeropage, 0xaa, 0x04, Zeropage);
}

/// A page that is missing.
#[derive(Debug)]
pub struct Missing {
    fd: OwnedFd,
    mapping: Mapping,
}

impl Missing {
    /// A page at which everybody waits, the kernel included.
    pub fn new() -> Result<Self> {
        let mapping = Mapping::untouched(1)?;
        let fd = open(mapping, REGISTER_MODE_MISSING)?;
        Ok(Self { fd, mapping })
    }

    /// The page.
    pub fn mapping(&self) -> Mapping {
        self.mapping
    }

    /// Returns when somebody waits at the page.
    pub fn wait_for_visitor(&self) -> Result<()> {
        let came = wait::ready(self.fd.as_fd(), PollFlags::POLLIN, wait::BOUND)?;
        ensure!(came, "nobody touched the missing page");
        Ok(())
    }

    /// Lets them go on: there are zeros.
    pub fn provide(&self) -> Result<()> {
        let mut zeropage = Zeropage {
            start: self.mapping.addr(0),
            len: self.mapping.len() as u64,
            mode: 0,
            zeropage: 0,
        };
        // SAFETY: The structure is the one that this call fills in.
        unsafe { calls::uffdio_zeropage(self.fd.as_raw_fd(), &mut zeropage) }
            .context("UFFDIO_ZEROPAGE")?;
        Ok(())
    }
}

/// Registers memory for every kind of fault. That lasts until the descriptor is closed.
pub fn register(mapping: Mapping) -> Result<OwnedFd> {
    open(mapping, REGISTER_MODE_MISSING | REGISTER_MODE_WP)
}

fn open(mapping: Mapping, mode: u64) -> Result<OwnedFd> {
    // One that blocks cannot be polled.
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: A system call without pointers.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    let fd = i32::try_from(Errno::result(fd).context("userfaultfd")?)?;
    // SAFETY: The descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut api = Api {
        api: API,
        features: 0,
        ioctls: 0,
    };
    let mut register = Register {
        start: mapping.addr(0),
        len: mapping.len() as u64,
        mode,
        ioctls: 0,
    };
    // SAFETY: The structures are those that these calls fill in.
    unsafe {
        calls::uffdio_api(fd.as_raw_fd(), &mut api).context("UFFDIO_API")?;
        calls::uffdio_register(fd.as_raw_fd(), &mut register).context("UFFDIO_REGISTER")?;
    }
    Ok(fd)
}
