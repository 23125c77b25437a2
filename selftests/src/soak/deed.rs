// SPDX-License-Identifier: GPL-2.0

//! All the ways to read or write one page.

use super::actor::Actor;
use super::content::{Image, Page};
use super::step::Verb;
use super::view::View;
use super::wire::{Order, What};
use crate::memory::{Mapping, WORDS};
use crate::{PAGE, PAGE_SIZE};
use anyhow::{bail, Context, Result};
use nix::errno::Errno;
use nix::sys::memfd::{memfd_create, MemFdCreateFlag};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// The disk for direct I/O, which the stage has made. Each process has a block of its own there.
pub(super) const DISK: &str = "/tmp/kmirror-soak/disk";
/// Blocks that it has.
pub(super) const BLOCKS: u64 = 8192;

/// What a process works with.
pub(super) struct Tools {
    /// A page that is aligned for direct I/O.
    scratch: Mapping,
    /// A file to read from and write to.
    source: File,
    disk: File,
}

impl Tools {
    /// New ones.
    pub(super) fn new() -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_DIRECT);
        Ok(Self {
            scratch: Mapping::untouched(1)?,
            source: File::from(memfd_create(c"source", MemFdCreateFlag::empty())?),
            disk: options.open(DISK).context("the disk")?,
        })
    }
}

/// All of it was moved, or else.
fn whole(moved: isize, len: usize) -> io::Result<()> {
    match Errno::result(moved) {
        Ok(moved) if moved == len as isize => Ok(()),
        // As far as the broken page, which is not the same as not at all.
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EIO)),
        Err(errno) => Err(errno.into()),
    }
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn image(bytes: &[u8]) -> Image {
    let mut image = [0; WORDS as usize];
    for (word, chunk) in image.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = chunk.try_into().map_or(0, u64::from_ne_bytes);
    }
    image
}

/// pread() to a place in an area, or in the scratch page.
fn pread(file: &File, mem: Mapping, page: u64, offset: u64, len: usize, at: u64) -> io::Result<()> {
    assert!(offset as usize + len <= PAGE_SIZE);
    let to = mem.ptr(page, offset).cast();
    // SAFETY: The bytes are in the page, and nobody has references to them.
    let moved = unsafe { libc::pread(file.as_raw_fd(), to, len, at as i64) };
    whole(moved, len)
}

/// pwrite() of a whole page.
fn pwrite(file: &File, mem: Mapping, page: u64, at: u64) -> io::Result<()> {
    let from = mem.ptr(page, 0).cast();
    // SAFETY: The page is ours.
    let moved = unsafe { libc::pwrite(file.as_raw_fd(), from, PAGE_SIZE, at as i64) };
    whole(moved, PAGE_SIZE)
}

fn vm_write(pid: u64, addr: u64, values: &[u64]) -> io::Result<()> {
    let len = values.len() * 8;
    let from = libc::iovec {
        iov_base: values.as_ptr().cast_mut().cast(),
        iov_len: len,
    };
    let to = libc::iovec {
        iov_base: std::ptr::with_exposed_provenance_mut(addr as usize),
        iov_len: len,
    };
    // SAFETY: What is read is ours; what is written is the peer's, whom the director speaks for.
    let moved = unsafe { libc::process_vm_writev(pid as i32, &from, 1, &to, 1, 0) };
    whole(moved, len)
}

fn proc_mem(pid: u64, addr: u64, values: &[u64]) -> io::Result<()> {
    let mem = OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/mem"))?;
    mem.write_all_at(&bytes(values), addr)
}

impl Actor {
    /// Reads or writes the page that the order is about.
    pub(super) fn deed(&mut self, index: usize, order: &Order) -> Result<()> {
        let area = order.step.args[1];
        let (page, may) = order
            .before
            .first()
            .context("nothing is known of the page")?;
        let page = *page;
        let found = match order.step.verb {
            Verb::VmWrite | Verb::ProcMem => {
                let mut found = remote(order)?;
                // The peer has not noticed yet that a page was lost, which is whole again for others.
                // Then it is for us to write it. What is the peer's alone he writes again himself.
                let view = self.views.get_mut(&area);
                if let (Some(_), Some(view)) = (found, view.filter(|view| view.kind.is_shared())) {
                    let (_, off, len, key) = order.step.stroke().context("no stroke")?;
                    found = view.write(page, may, (off, len, key), |view, values| {
                        view.store(page, off, values);
                        Ok(())
                    })?;
                }
                self.find_any(index, page, found);
                return Ok(());
            }
            Verb::PinRead => self.uring_read(area, page, may, order)?,
            _ => {
                let tools = (&self.tools, self.id % BLOCKS * PAGE);
                let view = self.views.get_mut(&area).context("not mapped")?;
                local(view, tools, page, may, order)?
            }
        };
        self.find_any(index, page, found);
        Ok(())
    }

    fn uring_read(
        &mut self,
        area: u64,
        page: u64,
        may: &Page,
        order: &Order,
    ) -> Result<Option<What>> {
        let stroke = order.step.stroke().context("no stroke")?;
        let stroke = (stroke.1, stroke.2, stroke.3);
        let view = self.views.get_mut(&area).context("not mapped")?;
        let settled = view.settle(page, may)?;
        let source = &self.tools.source;
        let mut ring = self.ring.take_if(|ring| ring.is_true(view));
        let found = view.write(page, may, stroke, |view, values| match &mut ring {
            Some(ring) => {
                source.write_all_at(&bytes(values), 0)?;
                ring.read(source)?;
                // The device does not notice if the page is lost. We do.
                std::hint::black_box(view.mem.load(page, 0));
                Ok(())
            }
            None => {
                view.store(page, stroke.0, values);
                Ok(())
            }
        })?;
        self.ring = ring;
        Ok(found.or(settled))
    }
}

fn remote(order: &Order) -> Result<Option<What>> {
    let (page, off, len, key) = order.step.stroke().context("no stroke")?;
    let [pid, base] = order.extra;
    let addr = base + page * PAGE + off * 8;
    let values = super::content::words(key, off, len);
    let done = match order.step.verb {
        Verb::VmWrite => vm_write(pid, addr, &values),
        _ => proc_mem(pid, addr, &values),
    };
    Ok(match done {
        Ok(()) => None,
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(0);
            Some(What::Missed(u64::try_from(errno)?))
        }
    })
}

fn local(
    view: &mut View,
    (tools, block): (&Tools, u64),
    page: u64,
    may: &Page,
    order: &Order,
) -> Result<Option<What>> {
    let Tools {
        scratch,
        source,
        disk,
    } = tools;
    let stroke = order
        .step
        .stroke()
        .map(|(_, off, len, key)| (off, len, key));
    match (order.step.verb, stroke) {
        (Verb::Store, Some(stroke)) => view.write(page, may, stroke, |view, values| {
            // SIGBUS is seen by the one who watches.
            let to = view.mem.ptr(page, stroke.0 * 8).cast::<u64>();
            for (index, word) in values.iter().enumerate() {
                // SAFETY: The model lets no stroke go past the page.
                unsafe { to.add(index).write_volatile(*word) };
            }
            Ok(())
        }),
        (Verb::KernelRead, Some(stroke)) => view.write(page, may, stroke, |view, values| {
            source.write_all_at(&bytes(values), 0)?;
            pread(source, view.mem, page, stroke.0 * 8, values.len() * 8, 0)
        }),
        (Verb::DirectRead, Some(stroke)) => view.write(page, may, stroke, |view, values| {
            for (index, word) in (0..).zip(values) {
                scratch.store(0, index, *word);
            }
            pwrite(disk, *scratch, 0, block)?;
            pread(disk, view.mem, page, 0, PAGE_SIZE, block)
        }),
        (Verb::FileWrite, Some(stroke)) => view.write(page, may, stroke, |view, values| {
            let file = view.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
            file.write_all_at(&bytes(values), page * PAGE + stroke.0 * 8)
        }),
        (Verb::KernelWrite, _) => view.read(page, may, |view| {
            pwrite(source, view.mem, page, 0)?;
            let mut got = [0; PAGE_SIZE];
            source.read_exact_at(&mut got, 0)?;
            Ok(image(&got))
        }),
        (Verb::DirectWrite, _) => view.read(page, may, |view| {
            pwrite(disk, view.mem, page, block)?;
            pread(disk, *scratch, 0, 0, PAGE_SIZE, block)?;
            let mut is = [0; WORDS as usize];
            for (index, word) in (0..).zip(&mut is) {
                *word = scratch.load(0, index);
            }
            Ok(is)
        }),
        (Verb::FileRead, _) => view.read(page, may, |view| {
            let file = view.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
            let mut got = [0; PAGE_SIZE];
            file.read_exact_at(&mut got, page * PAGE)?;
            Ok(image(&got))
        }),
        _ => bail!("not a deed"),
    }
}
