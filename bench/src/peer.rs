// SPDX-License-Identifier: GPL-2.0

//! What one would do without kmirror: a program outside that copies what the kernel says was
//! written since it last asked.
//!
//! - `soft-dirty`: write-protects by `/proc/PID/clear_refs`, asks by `/proc/PID/pagemap`. The two are
//!   not one step, so the processes are frozen in between.
//! - `pagemap-scan`: asks and write-protects by `PAGEMAP_SCAN`, in one step. The process itself has to
//!   register its memory with userfaultfd, asynchronous write-protection; our own workloads do.
//!
//! Both copy what was written in each interval, also what is written all the time, and neither
//! knows of stores that go around the page tables, nor could it give anything back: their copies
//! are the least that a mirror of this kind has to do.
//!
//! C headers: `include/uapi/linux/fs.h` (`PAGEMAP_SCAN`), `include/uapi/linux/userfaultfd.h`

use anyhow::{bail, Context, Result};
use kmirror_selftests::cgroup::Cgroup;
use kmirror_selftests::{file, PAGE, PAGE_SIZE};
use nix::errno::Errno;
use nix::sys::uio::{process_vm_readv, RemoteIoVec};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Pages that are copied by one system call.
const BATCH: usize = 64;

/// How what was written is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    SoftDirty,
    PagemapScan,
}

impl Kind {
    pub(crate) fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "soft-dirty" => Self::SoftDirty,
            "pagemap-scan" => Self::PagemapScan,
            _ => bail!("there is no tracker {name}"),
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SoftDirty => "soft-dirty",
            Self::PagemapScan => "pagemap-scan",
        }
    }
}

/// Tracks all processes of a cgroup until it is killed. A line with the pages copied so far after
/// each interval.
pub(crate) fn run(kind: Kind, cgroup: &str, interval: Duration) -> Result<()> {
    let cgroup = Cgroup::at(cgroup);
    let mut copies = Copies::default();
    let mut out = std::io::stdout().lock();
    let mut next = Instant::now();
    loop {
        for pid in pids(&cgroup)? {
            // One that has ended meanwhile has nothing to be copied.
            let _ = match kind {
                Kind::SoftDirty => soft_dirty(&cgroup, pid, &mut copies),
                Kind::PagemapScan => pagemap_scan(pid, &mut copies),
            };
        }
        writeln!(out, "{}", copies.made)?;
        out.flush()?;
        next += interval;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn pids(cgroup: &Cgroup) -> Result<Vec<i32>> {
    let text = file::read(cgroup.file("cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// The copies.
#[derive(Debug, Default)]
struct Copies {
    /// Where in `bytes` that of a page is, by process and address.
    places: HashMap<(i32, u64), usize>,
    bytes: Vec<u8>,
    made: u64,
}

impl Copies {
    /// Copies pages of a process; those that have gone meanwhile are left out.
    fn copy(&mut self, pid: i32, pages: &[u64]) {
        for pages in pages.chunks(BATCH) {
            let mut buffer = vec![0; pages.len() * PAGE_SIZE];
            let remote: Vec<RemoteIoVec> = pages
                .iter()
                .map(|&addr| RemoteIoVec {
                    base: addr as usize,
                    len: PAGE_SIZE,
                })
                .collect();
            let mut local = [IoSliceMut::new(&mut buffer)];
            let got = process_vm_readv(Pid::from_raw(pid), &mut local, &remote).unwrap_or(0);
            for (page, bytes) in pages.iter().zip(buffer[..got].chunks_exact(PAGE_SIZE)) {
                let fresh = self.bytes.len();
                let place = *self.places.entry((pid, *page)).or_insert(fresh);
                if place == fresh {
                    self.bytes.extend_from_slice(bytes);
                } else {
                    self.bytes[place..place + PAGE_SIZE].copy_from_slice(bytes);
                }
                self.made += 1;
            }
        }
    }
}

/// Writable areas of a process that have memory of their own.
fn areas(pid: i32) -> Result<Vec<(u64, u64)>> {
    let text = file::read(format!("/proc/{pid}/maps"))?;
    Ok(text
        .lines()
        .filter(|line| {
            line.split(' ')
                .nth(1)
                .is_some_and(|rights| rights.starts_with("rw"))
        })
        .filter_map(|line| {
            let (start, rest) = line.split_once('-')?;
            let (end, _) = rest.split_once(' ')?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            Some((number(start)?, number(end)?))
        })
        .collect())
}

fn soft_dirty(cgroup: &Cgroup, pid: i32, copies: &mut Copies) -> Result<()> {
    const PRESENT_AND_DIRTY: u64 = 1 << 63 | 1 << 55;
    let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
    let mut written = Vec::new();
    let frozen = cgroup.freeze()?;
    for (start, end) in areas(pid)? {
        let mut entries = vec![0; ((end - start) / PAGE * 8) as usize];
        pagemap.read_exact_at(&mut entries, start / PAGE * 8)?;
        for (index, entry) in entries.chunks_exact(8).enumerate() {
            let entry = u64::from_ne_bytes(entry.try_into()?);
            if entry & PRESENT_AND_DIRTY == PRESENT_AND_DIRTY {
                written.push(start + index as u64 * PAGE);
            }
        }
    }
    file::write(format!("/proc/{pid}/clear_refs"), "4")?;
    drop(frozen);
    copies.copy(pid, &written);
    Ok(())
}

#[repr(C)]
#[derive(Debug, Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

mod calls {
    use super::{Api, Register, Scan};
    nix::ioctl_readwrite!(pagemap_scan, b'f', 16, Scan);
    nix::ioctl_readwrite!(uffdio_api, 0xaa, 0x3f, Api);
    nix::ioctl_readwrite!(uffdio_register, 0xaa, 0x00, Register);
}

fn pagemap_scan(pid: i32, copies: &mut Copies) -> Result<()> {
    const WP_MATCHING: u64 = 1;
    const WPALLOWED_AND_WRITTEN: u64 = 1 | 2;
    let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
    let mut regions = vec![Region::default(); 512];
    for (start, end) in areas(pid)? {
        let mut from = start;
        while from < end {
            let mut scan = Scan {
                size: size_of::<Scan>() as u64,
                flags: WP_MATCHING,
                start: from,
                end,
                vec: regions.as_mut_ptr().expose_provenance() as u64,
                vec_len: regions.len() as u64,
                category_mask: WPALLOWED_AND_WRITTEN,
                return_mask: WPALLOWED_AND_WRITTEN,
                ..Scan::default()
            };
            // SAFETY: The structure is the one that this call takes, and `vec` has room for as many
            // regions as it says.
            let count = unsafe { calls::pagemap_scan(pagemap.as_raw_fd(), &mut scan) }?;
            let found = regions.iter().take(usize::try_from(count)?);
            let pages: Vec<u64> = found
                .flat_map(|region| (region.start..region.end).step_by(PAGE_SIZE))
                .collect();
            copies.copy(pid, &pages);
            from = scan.walk_end;
        }
    }
    Ok(())
}

/// Registers memory of this process for [`Kind::PagemapScan`]. It stays so as long as the
/// descriptor is open.
pub(crate) fn register(start: u64, len: u64) -> Result<OwnedFd> {
    // WP_ASYNC, WP_UNPOPULATED, PAGEFAULT_FLAG_WP
    const FEATURES: u64 = 1 << 15 | 1 << 13 | 1;
    const MODE_WP: u64 = 2;
    // SAFETY: A system call without pointers.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    let fd = i32::try_from(Errno::result(fd).context("userfaultfd")?)?;
    // SAFETY: The descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut api = Api {
        api: 0xaa,
        features: FEATURES,
        ioctls: 0,
    };
    let mut register = Register {
        start,
        len,
        mode: MODE_WP,
        ioctls: 0,
    };
    // SAFETY: The structures are those that these calls fill in.
    unsafe {
        calls::uffdio_api(fd.as_raw_fd(), &mut api).context("UFFDIO_API")?;
        calls::uffdio_register(fd.as_raw_fd(), &mut register).context("UFFDIO_REGISTER")?;
    }
    Ok(fd)
}
