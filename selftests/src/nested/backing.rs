// SPDX-License-Identifier: GPL-2.0

//! What is behind a frame of L2: a page of a file in L1.

use super::qmp::Qmp;
use crate::{PAGE, PAGE_SIZE};
use anyhow::{bail, ensure, Context, Result};
use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The backing of a frame.
#[derive(Debug)]
pub struct Backing {
    file: File,
    /// Of the frame in the file, in bytes.
    offset: u64,
    /// Of the pages that the file is made of.
    page: u64,
}

impl Backing {
    /// Looks it up: QEMU tells where it has mapped the frame, and the kernel which file that is.
    pub fn of(qmp: &mut Qmp, qemu: u32, frame: u64) -> Result<Self> {
        let text = qmp.human(&format!("gpa2hva {:#x}", frame * PAGE))?;
        // "Host virtual address for 0x… (NAME) is 0x…"
        let addr = text.trim().rsplit(' ').next().unwrap_or_default();
        let addr = addr
            .strip_prefix("0x")
            .and_then(|hex| u64::from_str_radix(hex, 16).ok())
            .with_context(|| format!("frame {frame:#x}: {}", text.trim()))?;
        let maps = crate::file::read(format!("/proc/{qemu}/maps"))?;
        let (path, offset) = maps
            .lines()
            .find_map(|line| place(line, addr))
            .with_context(|| format!("{addr:#x} of process {qemu} is no file's"))?;
        let path = Path::new("/proc").join(qemu.to_string()).join(path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        let page = nix::sys::statfs::fstatfs(&file)?.block_size();
        Ok(Self {
            file,
            offset,
            page: u64::try_from(page)?,
        })
    }

    /// Bytes of the pages that the file is made of.
    pub fn page(&self) -> u64 {
        self.page
    }

    /// Breaks the page behind the frame, as `MADV_HWPOISON` does: nobody finds its contents again, and
    /// those who map it are told. The caller has called [`sigbus::ignore`](crate::sigbus::ignore).
    pub fn poison(&self) -> Result<()> {
        let len = usize::try_from(self.page)?;
        // SAFETY: The kernel chooses a place where nothing is.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                self.file.as_raw_fd(),
                i64::try_from(self.offset & !(self.page - 1))?,
            )
        };
        ensure!(base != libc::MAP_FAILED, "mmap: {}", Errno::last());
        let inside = usize::try_from(self.offset & (self.page - 1))?;
        // SAFETY: In the mapping that was just made, which nobody else uses and which is gone after.
        let result = unsafe {
            let page = base.byte_add(inside);
            // The frame must be mapped to be found.
            page.cast::<u8>().read_volatile();
            let result = Errno::result(libc::madvise(page, PAGE_SIZE, libc::MADV_HWPOISON));
            libc::munmap(base, len);
            result
        };
        match result {
            Ok(_) => Ok(()),
            Err(errno) => bail!("madvise: {errno}"),
        }
    }
}

/// If `addr` is in this line of /proc/PID/maps, and that is a file: what the file is called below
/// /proc/PID, and where in it this is.
fn place(line: &str, addr: u64) -> Option<(PathBuf, u64)> {
    let mut words = line.split_ascii_whitespace();
    let range = words.next()?;
    let (start, end) = range.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let offset = hex(words.nth(1)?)?;
    // A file has a name.
    words.nth(2)?;
    let start = hex(start)?;
    (start..hex(end)?)
        .contains(&addr)
        .then(|| (Path::new("map_files").join(range), addr - start + offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_in_a_file() {
        let line = "7f00001000-7f00009000 rw-s 00004000 00:01 1234    /memfd:ram (deleted)";
        let found = place(line, 0x7f_0000_2008);
        let path = PathBuf::from("map_files/7f00001000-7f00009000");
        assert_eq!(found, Some((path, 0x5008)));
        assert_eq!(place(line, 0x7f_0000_9000), None);
        assert_eq!(place(line, 0x7f_0000_0fff), None);
    }

    #[test]
    fn place_in_none() {
        assert_eq!(
            place(
                "7f00001000-7f00009000 rw-p 00000000 00:00 0",
                0x7f_0000_1000
            ),
            None
        );
        assert_eq!(place("", 0), None);
    }
}
