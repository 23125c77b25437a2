// SPDX-License-Identifier: GPL-2.0

//! The kernel runs into the error through its own mapping, when it reads a file or another's memory.

use crate::case::{skip, Case, Context};
use crate::file;
use crate::memory::{image, Mapping, Seen};
use crate::nested::port::Host;
use crate::nested::strike;
use crate::rig::Rig;
use crate::victim::Scene;
use crate::{PAGE, PAGE_SIZE};
use anyhow::{bail, ensure, Context as _, Result};
use nix::errno::Errno;
use nix::sys::memfd::{memfd_create, MemFdCreateFlag};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "mce_read",
        "read(2) of shared memory is made again after the page was restored",
        shared,
    ),
    Case::new(
        "mce_read_dirty_file",
        "read(2) of a file is made again after its dirty page was restored",
        dirty_file,
    ),
    Case::new(
        "mce_read_lost",
        "without a current replica it fails with EIO, and the machine goes on",
        lost,
    ),
    Case::new(
        "mce_process_vm_readv",
        "copying from another process ends at a lost page, and the machine goes on",
        process_vm_readv,
    ),
];

const PAGES: u64 = 8;

/// Where a file of a disk is, by [`mount`].
const DISK: &str = "/run/mce-disk";

/// A victim whose memory is a file: shared memory, or one of a disk, with everything in it dirty.
fn rig(cx: &Context, of_disk: bool) -> Result<Rig> {
    let mut rig = Rig::new(cx, 1)?;
    let addr = rig.victim.call(
        |scene, of_disk, _| {
            let file = if of_disk == 0 {
                File::from(memfd_create(c"mce", MemFdCreateFlag::empty())?)
            } else {
                let path = Path::new(DISK).join("f");
                File::options()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .open(path)?
            };
            for page in 0..PAGES {
                file.write_all_at(&image(page, 1), page * PAGE)?;
            }
            scene.map_file(file, PAGES)?;
            (0..PAGES).for_each(|page| _ = scene.mem.load(page, 0));
            Ok(scene.mem.addr(0))
        },
        of_disk.into(),
        0,
    )?;
    rig.victim.mem = Mapping::at(addr, PAGES);
    rig.sync()?;
    (0..PAGES).try_for_each(|page| rig.must_be_mirrored(page))?;
    Ok(rig)
}

/// The victim reads a page of its file, which must be in `version`.
fn read(scene: &mut Scene, page: u64, version: u64) -> Result<u64> {
    // So that the copy begins and ends in other pages.
    let mut found = vec![0; PAGE_SIZE * 3];
    let from = page.saturating_sub(1);
    scene.file()?.read_exact_at(&mut found, from * PAGE)?;
    let at = (page - from) as usize * PAGE_SIZE;
    ensure!(
        found[at..at + PAGE_SIZE] == image(page, version),
        "page {page} is not in version {version}"
    );
    Ok(0)
}

/// Loses some pages, which are met by read(2) first, and come back.
fn come_back(cx: &Context, of_disk: bool) -> Result<()> {
    let mut host = Host::connect()?;
    let _quiet = strike::keep_quiet()?;
    let mut rig = rig(cx, of_disk)?;
    for page in [0, 3, 5] {
        let before = rig.counters()?;
        let checks = strike::machine_checks()?;
        let old = rig.frame(page)?;
        host.poison(old)?;
        rig.victim
            .call(read, page, 1)
            .with_context(|| format!("reading page {page}"))?;
        ensure!(
            strike::machine_checks()? > checks,
            "read(2) has not met the error in page {page}"
        );
        rig.must_be(page, 1)?;
        strike::must_be_restored(&mut rig, before, old, page)?;
    }
    rig.must_be(7, 1)
}

fn shared(cx: &Context) -> Result<()> {
    come_back(cx, false)
}

/// A disk with ext4, which L1 has made.
struct Disk;

impl Disk {
    fn mount() -> Result<Self> {
        let image = Path::new("/kmirror/ext4.img");
        if !image.exists() {
            skip!("no image of a disk");
        }
        std::fs::create_dir_all(DISK)?;
        let done = Command::new("mount")
            .args(["-t", "ext4", "-o", "loop"])
            .args([image, Path::new(DISK)])
            .output()?;
        ensure!(done.status.success(), "mount: {done:?}");
        Ok(Self)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = nix::mount::umount(DISK);
    }
}

fn dirty_file(cx: &Context) -> Result<()> {
    // Nothing is to be written back before the end.
    let _late = file::Setting::change("/proc/sys/vm/dirty_writeback_centisecs", "0")?;
    let _disk = Disk::mount()?;
    come_back(cx, true)
}

fn lost(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    let _quiet = strike::keep_quiet()?;
    let mut rig = rig(cx, false)?;
    for page in [1, 4] {
        rig.fill(page, 2)?;
        host.poison(rig.frame(page)?)?;
        // What is read before it is right, so the call returns that, and fails the next time.
        for _ in 0..2 {
            match rig.victim.call(read, page, 2) {
                Err(error) if format!("{error:#}").contains("os error 5") => {}
                other => bail!("page {page}: {other:?}"),
            }
        }
        ensure!(rig.seen(page, 2)? == Seen::Lost);
    }
    ensure!(rig.counters()?.restored == 0);
    rig.must_be(6, 1)
}

fn process_vm_readv(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    let _quiet = strike::keep_quiet()?;
    let mut rig = Rig::synced(cx, 8)?;
    let mut found = vec![0_u8; PAGE_SIZE];
    for page in 0..3 {
        let old = rig.frame(page)?;
        host.poison(old)?;
        let local = libc::iovec {
            iov_base: found.as_mut_ptr().cast(),
            iov_len: PAGE_SIZE,
        };
        let remote = libc::iovec {
            iov_base: rig.mem().addr(page) as *mut _,
            iov_len: PAGE_SIZE,
        };
        // SAFETY: The kernel writes what the slice covers, and finds out whether the other is there.
        let result = unsafe { libc::process_vm_readv(rig.victim.pid, &local, 1, &remote, 1, 0) };
        match Errno::result(result) {
            Err(Errno::EFAULT) => {}
            Ok(len) => ensure!(
                found[..len as usize] == image(page, 1)[..len as usize],
                "wrong bytes"
            ),
            other => bail!("page {page}: {other:?}"),
        }
        // Its owner finds it whole.
        rig.must_be(page, 1)?;
        ensure!(rig.frame(page)? != old, "page {page} is where it was");
    }
    ensure!(rig.counters()?.unrestorable == 0);
    Ok(())
}
