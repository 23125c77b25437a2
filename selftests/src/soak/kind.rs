// SPDX-License-Identifier: GPL-2.0

//! The kinds of memory, one value each. A step names its kind by the number in [`KINDS`].

use super::place;
use crate::memory::Mapping;
use crate::{file, PAGE};
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::memfd::{memfd_create, MemFdCreateFlag};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where the soak has its file systems and its socket.
pub(super) const DIR: &str = "/tmp/kmirror-soak";

/// Pages of a huge page.
const HUGE: u64 = 512;

/// One kind of memory.
pub(super) trait Kind: Sync {
    /// What it is called in the table at the end.
    fn name(&self) -> &'static str;
    /// How many pages an area of it may have.
    fn sizes(&self) -> &'static [u64];
    /// How often it is chosen.
    fn weight(&self) -> u64 {
        4
    }
    /// Whether all who map an area have the same bytes.
    fn is_shared(&self) -> bool {
        false
    }
    /// Whether it can be read, written and punched as a file.
    fn has_file(&self) -> bool {
        false
    }
    /// Whether any process of a family can map it, not only forked children.
    fn can_be_opened(&self) -> bool {
        self.has_file()
    }
    /// Whether older bytes are on disk, and may come back from there.
    fn is_on_disk(&self) -> bool {
        false
    }
    /// How many pages are lost together.
    fn unit(&self) -> u64 {
        1
    }
    /// At a multiple of how many pages it begins.
    fn align(&self) -> u64 {
        1
    }
    /// Whether it cannot be had here, and why.
    fn missing(&self) -> Option<String> {
        None
    }
    /// The director makes what a new area needs before it is mapped. The number goes to all who map.
    fn make(&self, _area: u64, _pages: u64) -> Result<u64> {
        Ok(0)
    }
    /// And takes it away.
    fn unmake(&self, _area: u64, _handle: u64) -> Result<()> {
        Ok(())
    }
    /// The file of an area.
    fn open(&self, _area: u64, _handle: u64) -> Result<Option<File>> {
        Ok(None)
    }
    /// Maps it.
    fn map(&self, file: Option<&File>, handle: u64, pages: u64) -> Result<Mapping>;
}

/// All kinds.
pub(super) const KINDS: &[&dyn Kind] = &[
    &Anon,
    &Shared,
    &InFolder("tmpfs"),
    &Memfd,
    &SysV,
    &Huge(HUGE),
    &Huge(64),
    &HugeShmem,
    &HugeTlb,
    &InFolder("ext4"),
];

/// Private anonymous memory in small pages.
struct Anon;

impl Kind for Anon {
    fn name(&self) -> &'static str {
        "anon"
    }
    fn sizes(&self) -> &'static [u64] {
        &[16, 48, 96]
    }
    fn weight(&self) -> u64 {
        12
    }
    fn map(&self, _: Option<&File>, _: u64, pages: u64) -> Result<Mapping> {
        Mapping::untouched(pages)
    }
}

/// `MAP_SHARED | MAP_ANONYMOUS`.
struct Shared;

impl Kind for Shared {
    fn name(&self) -> &'static str {
        "shared"
    }
    fn sizes(&self) -> &'static [u64] {
        &[16, 48]
    }
    fn is_shared(&self) -> bool {
        true
    }
    fn map(&self, _: Option<&File>, _: u64, pages: u64) -> Result<Mapping> {
        Mapping::new(pages, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1)
    }
}

/// A file on the file system of this type, which the stage has mounted.
struct InFolder(&'static str);

impl InFolder {
    fn path(&self, area: u64) -> PathBuf {
        Path::new(DIR).join(self.0).join(area.to_string())
    }
}

impl Kind for InFolder {
    fn name(&self) -> &'static str {
        self.0
    }
    fn sizes(&self) -> &'static [u64] {
        &[16, 64]
    }
    fn is_shared(&self) -> bool {
        true
    }
    fn has_file(&self) -> bool {
        true
    }
    fn is_on_disk(&self) -> bool {
        self.0 == "ext4"
    }
    fn missing(&self) -> Option<String> {
        let mounts = file::read("/proc/mounts").unwrap_or_default();
        let at = format!(" {DIR}/{} ", self.0);
        (!mounts.contains(&at)).then(|| format!("the kernel has no {}", self.0))
    }
    fn make(&self, area: u64, pages: u64) -> Result<u64> {
        let file = File::create(self.path(area)).context("a file of its own")?;
        file.set_len(pages * PAGE)?;
        Ok(0)
    }
    fn unmake(&self, area: u64, _: u64) -> Result<()> {
        Ok(std::fs::remove_file(self.path(area))?)
    }
    fn open(&self, area: u64, _: u64) -> Result<Option<File>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(self.path(area));
        Ok(Some(file.context("opening the file")?))
    }
    fn map(&self, file: Option<&File>, _: u64, pages: u64) -> Result<Mapping> {
        let file = file.context("no file")?;
        Mapping::new(pages, libc::MAP_SHARED, file.as_raw_fd())
    }
}

/// The number of a memfd of the director: who it is, and which descriptor.
fn new_memfd(pages: u64) -> Result<u64> {
    let file = File::from(memfd_create(c"soak", MemFdCreateFlag::MFD_CLOEXEC)?);
    file.set_len(pages * PAGE)?;
    Ok(u64::from(std::process::id()) << 32 | u64::try_from(file.into_raw_fd())?)
}

fn close_memfd(handle: u64) {
    let fd = (handle & 0xffff_ffff) as i32;
    // SAFETY: `new_memfd` has left it open, for this.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

fn open_memfd(handle: u64) -> Result<Option<File>> {
    let path = format!("/proc/{}/fd/{}", handle >> 32, handle & 0xffff_ffff);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).open(&path);
    Ok(Some(file.context(path)?))
}

/// `memfd_create()`.
struct Memfd;

impl Kind for Memfd {
    fn name(&self) -> &'static str {
        "memfd"
    }
    fn sizes(&self) -> &'static [u64] {
        &[16, 64]
    }
    fn is_shared(&self) -> bool {
        true
    }
    fn has_file(&self) -> bool {
        true
    }
    fn make(&self, _: u64, pages: u64) -> Result<u64> {
        new_memfd(pages)
    }
    fn unmake(&self, _: u64, handle: u64) -> Result<()> {
        close_memfd(handle);
        Ok(())
    }
    fn open(&self, _: u64, handle: u64) -> Result<Option<File>> {
        open_memfd(handle)
    }
    fn map(&self, file: Option<&File>, _: u64, pages: u64) -> Result<Mapping> {
        let file = file.context("no file")?;
        Mapping::new(pages, libc::MAP_SHARED, file.as_raw_fd())
    }
}

/// `shmget()`.
struct SysV;

impl Kind for SysV {
    fn name(&self) -> &'static str {
        "sysv"
    }
    fn sizes(&self) -> &'static [u64] {
        &[16, 48]
    }
    fn is_shared(&self) -> bool {
        true
    }
    fn can_be_opened(&self) -> bool {
        true
    }
    fn make(&self, _: u64, pages: u64) -> Result<u64> {
        let len = (pages * PAGE) as usize;
        // SAFETY: No pointers.
        let id = unsafe { libc::shmget(libc::IPC_PRIVATE, len, 0o600 | libc::IPC_CREAT) };
        Ok(u64::try_from(Errno::result(id).context("shmget")?)?)
    }
    fn unmake(&self, _: u64, handle: u64) -> Result<()> {
        // SAFETY: No structure is asked for.
        let done = unsafe { libc::shmctl(handle as i32, libc::IPC_RMID, std::ptr::null_mut()) };
        Errno::result(done).context("shmctl")?;
        Ok(())
    }
    fn map(&self, _: Option<&File>, handle: u64, pages: u64) -> Result<Mapping> {
        // SAFETY: The kernel chooses a place where nothing is.
        let base = unsafe { libc::shmat(handle as i32, std::ptr::null(), 0) };
        if base.addr() == usize::MAX {
            return Err(Errno::last()).context("shmat");
        }
        Ok(Mapping::at(base.expose_provenance() as u64, pages))
    }
}

/// Private anonymous memory for which transparent huge pages of some size are wanted.
struct Huge(u64);

impl Kind for Huge {
    fn name(&self) -> &'static str {
        match self.0 {
            HUGE => "thp",
            _ => "mthp",
        }
    }
    fn sizes(&self) -> &'static [u64] {
        match self.0 {
            HUGE => &[HUGE],
            _ => &[64],
        }
    }
    fn align(&self) -> u64 {
        self.0
    }
    fn map(&self, _: Option<&File>, _: u64, pages: u64) -> Result<Mapping> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let mapping = place::map(pages, self.0, flags, -1)?;
        mapping.advise(0, pages, libc::MADV_HUGEPAGE)?;
        Ok(mapping)
    }
}

/// A memfd for which huge pages are wanted.
struct HugeShmem;

impl Kind for HugeShmem {
    fn name(&self) -> &'static str {
        "shmem_thp"
    }
    fn sizes(&self) -> &'static [u64] {
        &[HUGE]
    }
    fn is_shared(&self) -> bool {
        true
    }
    fn weight(&self) -> u64 {
        2
    }
    fn has_file(&self) -> bool {
        true
    }
    fn align(&self) -> u64 {
        HUGE
    }
    fn make(&self, _: u64, pages: u64) -> Result<u64> {
        new_memfd(pages)
    }
    fn unmake(&self, _: u64, handle: u64) -> Result<()> {
        close_memfd(handle);
        Ok(())
    }
    fn open(&self, _: u64, handle: u64) -> Result<Option<File>> {
        open_memfd(handle)
    }
    fn map(&self, file: Option<&File>, _: u64, pages: u64) -> Result<Mapping> {
        let fd = file.context("no file")?.as_raw_fd();
        let mapping = place::map(pages, HUGE, libc::MAP_SHARED, fd)?;
        mapping.advise(0, pages, libc::MADV_HUGEPAGE)?;
        Ok(mapping)
    }
}

/// A private mapping of hugetlbfs.
struct HugeTlb;

impl Kind for HugeTlb {
    fn name(&self) -> &'static str {
        "hugetlb"
    }
    fn sizes(&self) -> &'static [u64] {
        &[HUGE]
    }
    fn weight(&self) -> u64 {
        2
    }
    fn unit(&self) -> u64 {
        HUGE
    }
    fn align(&self) -> u64 {
        HUGE
    }
    fn missing(&self) -> Option<String> {
        let pages = file::number("/proc/sys/vm/nr_hugepages").unwrap_or(0);
        (pages == 0).then(|| "no huge pages are reserved".into())
    }
    fn map(&self, _: Option<&File>, _: u64, pages: u64) -> Result<Mapping> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;
        place::map(pages, HUGE, flags, -1)
    }
}
