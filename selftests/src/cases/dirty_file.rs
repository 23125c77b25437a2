// SPDX-License-Identifier: GPL-2.0

//! Files that nobody has mapped: tmpfs, and what a disk's file system has not written back yet.

use crate::case::{skip, Case, Context};
use crate::inject::{self, Door};
use crate::memory::{image, Mapping};
use crate::rig::Rig;
use crate::zram::Zram;
use crate::{file, pagemap, PAGE, PAGE_SIZE};
use anyhow::{ensure, Context as _, Result};
use nix::mount::{mount, umount, MsFlags};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "file_tmpfs",
        "pages of tmpfs that nobody has mapped are walked in the page cache, and restored",
        tmpfs,
    ),
    Case::new(
        "file_ext4",
        "dirty pages of a file are restored, and stay dirty; written again, they are not",
        ext4,
    ),
    Case::new(
        "file_truncated",
        "zeroing a part of a page when a file is cut makes the replica stale",
        truncated,
    ),
];

const PAGES: u64 = 16;

/// A file system of the test's own.
struct Disk {
    _zram: Option<Zram>,
    at: PathBuf,
}

impl Disk {
    fn tmpfs(cx: &Context) -> Result<Self> {
        let at = Self::place(cx)?;
        mount(
            Some("none"),
            &at,
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )?;
        Ok(Self { _zram: None, at })
    }

    fn ext4(cx: &Context) -> Result<Self> {
        if !file::read("/proc/filesystems")?.contains("ext4") {
            skip!("no ext4");
        }
        let zram = Zram::new(64 << 20)?;
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F"])
            .arg(zram.device())
            .output();
        match made {
            Ok(made) => ensure!(made.status.success(), "mkfs.ext4: {made:?}"),
            Err(_) => skip!("no mkfs.ext4"),
        }
        let at = Self::place(cx)?;
        mount(
            Some(&zram.device()),
            &at,
            Some("ext4"),
            MsFlags::empty(),
            None::<&str>,
        )?;
        Ok(Self {
            _zram: Some(zram),
            at,
        })
    }

    fn place(cx: &Context) -> Result<PathBuf> {
        let at = Path::new("/run").join(cx.cgroup.path().file_name().context("no name")?);
        std::fs::create_dir_all(&at)?;
        Ok(at)
    }

    fn file(&self) -> PathBuf {
        self.at.join("f")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount(&self.at);
        let _ = std::fs::remove_dir(&self.at);
    }
}

/// The victim writes pages `from..` of its file in `version`. The order carries no path, so it is
/// where the director has put it: the name of the cgroup.
fn write(rig: &mut Rig, from: u64, version: u64) -> Result<()> {
    rig.victim.call(
        |_, from, version| {
            let cgroup = file::read("/proc/self/cgroup")?;
            let name = cgroup
                .split('/')
                .find(|part| part.starts_with("kmirror-test-"))
                .context("not in a test's cgroup")?;
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(Path::new("/run").join(name).join("f"))?;
            for page in from..PAGES {
                file.write_all_at(&image(page, version), page * PAGE)?;
            }
            Ok(0)
        },
        from,
        version,
    )?;
    Ok(())
}

/// The frames of the file. They are mapped only as long as this looks.
fn frames(disk: &Disk) -> Result<Vec<u64>> {
    let file = File::options().read(true).write(true).open(disk.file())?;
    let map = Mapping::new(PAGES, libc::MAP_SHARED, file.as_raw_fd())?;
    let own = i32::try_from(std::process::id())?;
    let frames = (0..PAGES).map(|page| {
        map.load(page, 0);
        pagemap::frame(own, map.addr(page))
    });
    let frames = frames.collect::<Result<_>>()?;
    map.unmap()?;
    Ok(frames)
}

/// Fails unless a page of the file is in `version`.
fn must_be(disk: &Disk, page: u64, version: u64) -> Result<()> {
    let mut found = vec![0; PAGE_SIZE];
    File::open(disk.file())?.read_exact_at(&mut found, page * PAGE)?;
    ensure!(
        found == image(page, version),
        "page {page} of the file is not in version {version}"
    );
    Ok(())
}

fn is_mirrored(frame: u64) -> Result<bool> {
    Ok(pagemap::flags(frame)? & pagemap::MIRRORED != 0)
}

fn strike(rig: &Rig, frame: u64, door: Door) -> Result<()> {
    let before = rig.counters()?;
    inject::strike(&rig.cgroup, door.as_str(), frame)??;
    let after = rig.counters()?;
    ensure!(
        after.restored == before.restored + 1,
        "frame {frame:#x} by {door} was not restored: {after:?}"
    );
    Ok(())
}

fn tmpfs(cx: &Context) -> Result<()> {
    let disk = Disk::tmpfs(cx)?;
    let mut rig = Rig::new(cx, 1)?;
    write(&mut rig, 0, 1)?;
    rig.sync()?;
    let old = frames(&disk)?;
    for (page, door) in (0..).zip(Door::ALL) {
        ensure!(
            is_mirrored(old[page])?,
            "page {page} is not mirrored:\n{}",
            rig.mirror.get("stat")?
        );
        strike(&rig, old[page], door)?;
        must_be(&disk, page as u64, 1)?;
    }
    write(&mut rig, 8, 2)?;
    ensure!(!is_mirrored(old[8])?, "mirrored after write()");
    must_be(&disk, 8, 2)?;
    rig.sync()?;
    strike(&rig, old[9], Door::Fail)?;
    must_be(&disk, 9, 2)
}

fn ext4(cx: &Context) -> Result<()> {
    let disk = Disk::ext4(cx)?;
    // Nothing is to be written back before the end.
    let _quiet = file::Setting::change("/proc/sys/vm/dirty_writeback_centisecs", "0")?;
    let mut rig = Rig::new(cx, 1)?;
    write(&mut rig, 0, 1)?;
    rig.sync()?;
    let old = frames(&disk)?;
    let mirrored = old.iter().map(|&frame| is_mirrored(frame));
    let mirrored = mirrored.collect::<Result<Vec<_>>>()?;
    ensure!(
        mirrored.iter().all(|&yes| yes),
        "not mirrored: {mirrored:?}"
    );
    for (page, door) in (0..).zip(Door::ALL) {
        strike(&rig, old[page], door)?;
        must_be(&disk, page as u64, 1)?;
    }

    write(&mut rig, 8, 2)?;
    ensure!(!is_mirrored(old[8])?, "mirrored after write()");
    let before = rig.counters()?;
    let _ = inject::strike(&rig.cgroup, Door::Fail.as_str(), old[8])?;
    let after = rig.counters()?;
    ensure!(
        after.restored == before.restored && after.unrestorable == before.unrestorable + 1,
        "a page written since was not refused: {after:?}"
    );

    // What was restored gets to the disk.
    rig.sync()?;
    strike(&rig, old[9], Door::Fail)?;
    let file = File::open(disk.file())?;
    let _ = file.sync_all();
    nix::fcntl::posix_fadvise(
        file.as_raw_fd(),
        0,
        0,
        nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED,
    )?;
    for page in 0..5 {
        must_be(&disk, page, 1)?;
    }
    must_be(&disk, 9, 2)
}

fn truncated(cx: &Context) -> Result<()> {
    for make in [Disk::tmpfs, Disk::ext4] {
        let disk = make(cx)?;
        let mut rig = Rig::named(cx, if disk._zram.is_some() { "b" } else { "a" }, 1)?;
        write(&mut rig, 0, 1)?;
        rig.sync()?;
        let old = frames(&disk)?;
        ensure!(is_mirrored(old[3])?, "page 3 is not mirrored");
        let file = File::options().write(true).open(disk.file())?;
        file.set_len(3 * PAGE + 100)?;
        ensure!(!is_mirrored(old[3])?, "mirrored after it was cut");
        drop(file);
        rig.victim.end()?;
    }
    Ok(())
}
