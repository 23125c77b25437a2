// SPDX-License-Identifier: GPL-2.0

//! The guest's memory: where each frame of it is in this process, and in which file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use kmirror_core::wire::{self, Code, DATA_BYTES};
use rustix::fs::FallocateFlags;
use vm_memory::{
    Address, Bytes, GuestMemory, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress,
};

use crate::sys::mapping::Mapping;

/// A frame's bytes.
pub type Page = [u8; DATA_BYTES];

/// What the host keeps a region of guest memory in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// tmpfs, or a memfd: pages of 4 KiB. Huge ones among them are split when they break.
    Shared,
    /// hugetlbfs, or a memfd of it: pages of so many bytes.
    Hugetlb(u64),
    /// A file of another kind, such as on a disk. Its pages are not the service's to replace.
    Other,
}

impl Backing {
    fn of(file: &File) -> Self {
        const TMPFS: u64 = 0x0102_1994;
        const HUGETLBFS: u64 = 0x9584_58f6;
        match rustix::fs::fstatfs(file) {
            // The type of the number differs between architectures; all magics have 32 bits.
            Ok(stat) => match stat.f_type as u64 & 0xffff_ffff {
                TMPFS => Self::Shared,
                HUGETLBFS => Self::Hugetlb(stat.f_bsize as u64),
                _ => Self::Other,
            },
            Err(_) => Self::Other,
        }
    }

    /// Bytes that break at once.
    pub fn page_bytes(self) -> u64 {
        match self {
            Self::Hugetlb(bytes) if bytes.is_power_of_two() && bytes >= 4096 => bytes,
            _ => 4096,
        }
    }
}

/// Which file it is: the device and the inode.
type FileId = (u64, u64);

fn id(file: &File) -> Option<FileId> {
    let stat = rustix::fs::fstat(file).ok()?;
    Some((stat.st_dev as u64, stat.st_ino as u64))
}

/// Memory of the guest that lies together, there and in a file of the host.
#[derive(Debug)]
pub struct Region {
    address: u64,
    mapping: Mapping,
    file: Arc<File>,
    file_start: u64,
    id: Option<FileId>,
    backing: Backing,
}

impl Region {
    /// Guest-physical address of its first byte.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Where it is in this process.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// What it is kept in.
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// The offset in the file of an `offset` in the region.
    pub fn file_offset(&self, offset: u64) -> u64 {
        // The mapping exists, so the sum is an offset of the file.
        self.file_start.wrapping_add(offset)
    }

    /// Reads a frame through the file, not through the mapping: a broken one is `EIO`, never a
    /// signal. `Ok(None)` when it is broken.
    ///
    /// # Errors
    ///
    /// What `pread()` says otherwise; `UnexpectedEof` where the file has been cut off.
    pub fn read(&self, offset: u64) -> io::Result<Option<Page>> {
        let mut page = [0; DATA_BYTES];
        match self.file.read_exact_at(&mut page, self.file_offset(offset)) {
            Ok(()) => Ok(Some(page)),
            Err(error) => match error.raw_os_error() {
                Some(libc::EIO | libc::EHWPOISON) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Writes a frame whose page in the file is fresh, and reads it again.
    ///
    /// # Errors
    ///
    /// `ENOSPC` or `ENOMEM` when the host has no memory for it; what else the system calls say.
    pub fn write(&self, offset: u64, page: &Page) -> io::Result<()> {
        match self.backing {
            // hugetlbfs has no write(). The caller has made the page.
            Backing::Hugetlb(_) => self
                .mapping
                .region()
                .ok_or(io::ErrorKind::NotFound)?
                .write_slice(page, MemoryRegionAddress(offset))
                .map_err(io::Error::other)?,
            _ => self.file.write_all_at(page, self.file_offset(offset))?,
        }
        match self.read(offset)? {
            Some(read) if read == *page => Ok(()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Takes the pages of a range out of the file; the next to touch it gets fresh ones. For
    /// hugetlbfs a range of less than whole pages is zeroed instead.
    ///
    /// # Errors
    ///
    /// What `fallocate()` says.
    pub fn punch(&self, range: &Range<u64>) -> io::Result<()> {
        rustix::fs::fallocate(
            &self.file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            self.file_offset(range.start),
            range.end - range.start,
        )?;
        // The hole does not clear the marks of broken pages in page tables, ours among them.
        self.mapping.forget(range)
    }

    /// Makes the pages of a range in the file.
    ///
    /// # Errors
    ///
    /// `ENOSPC` or `ENOMEM` when the host has none.
    pub fn allocate(&self, range: &Range<u64>) -> io::Result<()> {
        rustix::fs::fallocate(
            &self.file,
            FallocateFlags::KEEP_SIZE,
            self.file_offset(range.start),
            range.end - range.start,
        )?;
        Ok(())
    }
}

/// All memory that the guest shares with the service.
#[derive(Debug, Default)]
pub struct Ram {
    regions: Vec<Region>,
    heard: OnceLock<FileId>,
}

impl Ram {
    /// The memory that QEMU has named.
    pub fn new(memory: Arc<GuestMemoryMmap>) -> Self {
        let regions = memory
            .iter()
            .enumerate()
            .filter_map(|(number, region)| {
                let file = region.file_offset()?;
                let backing = Backing::of(file.file());
                Some(Region {
                    address: region.start_addr().raw_value(),
                    mapping: Mapping::new(memory.clone(), number, backing.page_bytes() as usize)?,
                    file: file.arc().clone(),
                    file_start: file.start(),
                    id: id(file.file()),
                    backing,
                })
            })
            .collect();
        Self {
            regions,
            heard: OnceLock::new(),
        }
    }

    /// A request has come in by memory at this guest-physical address.
    ///
    /// So what the guest writes there goes to the file. It need not: QEMU takes `share=off` too, and
    /// then the guest has copies of its own, of which the file knows nothing.
    pub fn hear(&self, address: u64) {
        if let Ok((Region { id: Some(id), .. }, _)) = self.find(address, 1) {
            let _ = self.heard.set(*id);
        }
    }

    /// Whether what is in the region's file is known to be what the guest has written.
    pub fn is_heard(&self, region: &Region) -> bool {
        region.id.is_some() && self.heard.get() == region.id.as_ref()
    }

    /// Its regions.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Bytes of it.
    pub fn bytes(&self) -> u64 {
        self.regions.iter().map(|r| r.mapping.bytes()).sum()
    }

    /// Bytes of the largest page that it is made of.
    pub fn largest_page(&self) -> u64 {
        let pages = self.regions.iter().map(|r| r.backing.page_bytes());
        pages.max().unwrap_or(4096)
    }

    /// The region that `bytes` from guest-physical `address` on lie in, and their offset there.
    ///
    /// # Errors
    ///
    /// [`Code::Memory`] when they do not lie in one.
    pub fn find(&self, address: u64, bytes: u64) -> Result<(&Region, u64), Code> {
        self.regions
            .iter()
            .find_map(|region| {
                let offset = address.checked_sub(region.address)?;
                let end = offset.checked_add(bytes)?;
                (end <= region.mapping.bytes()).then_some((region, offset))
            })
            .ok_or(Code::Memory)
    }

    /// The parts of regions that a range is made of, in order.
    ///
    /// # Errors
    ///
    /// [`Code::Memory`] when part of it is not there.
    pub fn pieces(&self, range: wire::Range) -> Result<Vec<(&Region, Range<u64>)>, Code> {
        let mut pieces = Vec::new();
        let mut at = range.start();
        while at < range.end() {
            let (region, offset) = self.find(at, 1)?;
            let bytes = (region.mapping.bytes() - offset).min(range.end() - at);
            pieces.push((region, offset..offset + bytes));
            at += bytes;
        }
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heal;
    use rustix::fs::{memfd_create, MemfdFlags};
    use vm_memory::{FileOffset, GuestAddress};

    #[test]
    fn only_files_that_the_guest_was_heard_through_are_believed() {
        let bytes = 1 << 16;
        let file = |byte: u8| {
            let file = File::from(memfd_create(c"ram", MemfdFlags::CLOEXEC).expect("a memfd"));
            file.write_all_at(&vec![byte; bytes], 0).expect("it grows");
            Some(FileOffset::new(file, 0))
        };
        let (low, other) = (file(1), file(2));
        // The first is in two parts, as memory below and above 4 GiB is.
        let ranges = [
            (GuestAddress(0), bytes / 2, low.clone()),
            (GuestAddress(1 << 20), bytes, other),
            (GuestAddress(1 << 30), bytes / 2, low),
        ];
        let memory = GuestMemoryMmap::from_ranges_with_files(ranges).expect("memory");
        let ram = Ram::new(Arc::new(memory));
        let rescue = |address| heal::rescue(&ram, address).map(|page| page[0]);
        assert_eq!(rescue(0), Err(Code::Unsupported));
        ram.hear(bytes as u64);
        assert_eq!(rescue(0), Err(Code::Unsupported), "there is no memory");
        ram.hear(4096);
        assert_eq!(rescue(0), Ok(1));
        assert_eq!(rescue(1 << 30), Ok(1));
        assert_eq!(rescue(1 << 20), Err(Code::Unsupported));
        // Once and for all: the memory is another when the queue moves.
        ram.hear(1 << 20);
        assert_eq!(rescue(1 << 20), Err(Code::Unsupported));
        assert_eq!(rescue(bytes as u64), Err(Code::Memory));
    }
}
