// SPDX-License-Identifier: GPL-2.0

//! Memory of a victim, and what belongs into it.
//!
//! Every page has contents of its own in every version, so that bytes of another page, of an older
//! version, of the injector (0x5a) and of nobody (0) are all told apart.

use crate::rng::mix;
use crate::{sigbus, PAGE, PAGE_SIZE};
use anyhow::{Context, Result};
use nix::errno::Errno;

/// Words of a page.
pub const WORDS: u64 = PAGE / 8;

/// The word at `index` of page `page` in `version`.
pub fn word(page: u64, version: u64, index: u64) -> u64 {
    mix(mix(page << 20 ^ version) ^ index)
}

/// A whole page.
pub fn image(page: u64, version: u64) -> Vec<u8> {
    (0..WORDS)
        .flat_map(|index| word(page, version, index).to_ne_bytes())
        .collect()
}

/// What is found in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// What belongs there.
    Right,
    /// Nothing: it is lost, and the reader was told.
    Lost,
    /// Something else, from this word on.
    Wrong(u64),
}

impl Seen {
    /// For sending.
    pub fn to_raw(self) -> u64 {
        match self {
            Self::Right => 0,
            Self::Lost => 1,
            Self::Wrong(index) => 2 + index,
        }
    }

    /// What [`to_raw`](Self::to_raw) has made.
    pub fn from_raw(raw: u64) -> Self {
        match raw {
            0 => Self::Right,
            1 => Self::Lost,
            index => Self::Wrong(index - 2),
        }
    }
}

/// A run of pages. A copy is another name for the same memory, which is never unmapped but by
/// [`unmap`](Self::unmap); so every address in it stays one of ours.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    base: usize,
    pages: u64,
}

impl Mapping {
    /// Maps something, where `fd` is -1 for anonymous memory.
    pub fn new(pages: u64, flags: i32, fd: i32) -> Result<Self> {
        let len = usize::try_from(pages)? * PAGE_SIZE;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: The kernel chooses a place where nothing is.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(Errno::last()).context("mmap");
        }
        Ok(Self {
            base: base.addr(),
            pages,
        })
    }

    /// A segment of System V shared memory, which goes when nobody has it attached any more. `flags` are
    /// more of those of shmget().
    pub fn sysv(pages: u64, flags: i32) -> Result<Self> {
        let len = usize::try_from(pages)? * PAGE_SIZE;
        // SAFETY: System calls; the kernel chooses a place where nothing is.
        unsafe {
            let id = libc::shmget(libc::IPC_PRIVATE, len, libc::IPC_CREAT | 0o600 | flags);
            let id = Errno::result(id).context("shmget")?;
            let base = libc::shmat(id, std::ptr::null(), 0);
            Errno::result(libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()))?;
            Errno::result(base as isize).context("shmat")?;
            Ok(Self {
                base: base.addr(),
                pages,
            })
        }
    }

    /// Private anonymous memory in small pages, with nothing in it yet.
    pub fn untouched(pages: u64) -> Result<Self> {
        let mapping = Self::new(pages, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
        mapping.advise(0, pages, libc::MADV_NOHUGEPAGE)?;
        Ok(mapping)
    }

    /// The same, every page in `version`.
    pub fn anon(pages: u64, version: u64) -> Result<Self> {
        let mapping = Self::untouched(pages)?;
        for page in 0..pages {
            mapping.fill(page, version);
        }
        Ok(mapping)
    }

    /// Another place for the same kind of memory.
    pub fn at(addr: u64, pages: u64) -> Self {
        Self {
            base: addr as usize,
            pages,
        }
    }

    /// How many pages.
    pub fn pages(self) -> u64 {
        self.pages
    }

    /// How many bytes.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(self) -> usize {
        self.pages as usize * PAGE_SIZE
    }

    /// The address of a page.
    pub fn addr(self, page: u64) -> u64 {
        assert!(page <= self.pages, "page {page} of {}", self.pages);
        self.base as u64 + page * PAGE
    }

    /// The address of a byte in a page.
    pub fn ptr(self, page: u64, offset: u64) -> *mut u8 {
        assert!(page < self.pages && offset < PAGE);
        std::ptr::with_exposed_provenance_mut((self.addr(page) + offset) as usize)
    }

    /// Reads a word.
    pub fn load(self, page: u64, index: u64) -> u64 {
        // SAFETY: `ptr` has looked that this is in the mapping. Others may change it meanwhile,
        // which a volatile access allows for.
        unsafe { self.ptr(page, index * 8).cast::<u64>().read_volatile() }
    }

    /// Writes a word.
    pub fn store(self, page: u64, index: u64, value: u64) {
        // SAFETY: As in `load`.
        unsafe {
            self.ptr(page, index * 8)
                .cast::<u64>()
                .write_volatile(value)
        }
    }

    /// Writes a whole page.
    pub fn fill(self, page: u64, version: u64) {
        self.fill_as(page, page, version);
    }

    /// Writes to `page` what belongs into page `like`.
    pub fn fill_as(self, page: u64, like: u64, version: u64) {
        for index in 0..WORDS {
            self.store(page, index, word(like, version, index));
        }
    }

    /// Looks whether a page is in `version`.
    pub fn check(self, page: u64, version: u64) -> Seen {
        self.check_as(page, page, version)
    }

    /// Looks whether `page` has what belongs into page `like`.
    pub fn check_as(self, page: u64, like: u64, version: u64) -> Seen {
        self.compare(page, |index| word(like, version, index))
    }

    /// Looks whether every word of a page is what `want` says. A page that is found lost has zeros
    /// afterwards.
    pub fn compare(self, page: u64, want: impl Fn(u64) -> u64) -> Seen {
        let before = sigbus::count();
        let wrong = (0..WORDS).find(|&index| self.load(page, index) != want(index));
        if sigbus::count() != before {
            return Seen::Lost;
        }
        wrong.map_or(Seen::Right, Seen::Wrong)
    }

    /// `madvise()` on some of its pages.
    pub fn advise(self, page: u64, pages: u64, advice: i32) -> Result<()> {
        let addr = self.ptr(page, 0).cast();
        let len = usize::try_from(pages)? * PAGE_SIZE;
        // SAFETY: The range is ours, and its contents are nobody's but a test's.
        Errno::result(unsafe { libc::madvise(addr, len, advice) })
            .with_context(|| format!("madvise {advice}"))?;
        Ok(())
    }

    /// `mprotect()` on the whole.
    pub fn protect(self, prot: i32) -> Result<()> {
        // SAFETY: The range is ours. A test does not touch what it has forbidden itself.
        Errno::result(unsafe { libc::mprotect(self.ptr(0, 0).cast(), self.len(), prot) })
            .context("mprotect")?;
        Ok(())
    }

    /// Gives the memory back. Nothing of it may be touched any more.
    pub fn unmap(self) -> Result<()> {
        // SAFETY: The range is ours, and no references to it exist.
        Errno::result(unsafe { libc::munmap(self.ptr(0, 0).cast(), self.len()) })
            .context("munmap")?;
        Ok(())
    }
}
