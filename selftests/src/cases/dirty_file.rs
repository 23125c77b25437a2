// SPDX-License-Identifier: GPL-2.0

//! Files that nobody has mapped: tmpfs, and what a disk's file system has not written back yet.

use crate::case::{Case, Context};
use crate::disk::Disk;
use crate::inject::{self, Door};
use crate::memory::{image, Mapping};
use crate::rig::Rig;
use crate::{file, pagemap, wait, PAGE, PAGE_SIZE};
use anyhow::{ensure, Context as _, Result};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

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
        "file_overlay",
        "the same for a file of an overlay, whose pages are those of the file system below it",
        overlay,
    ),
    Case::new(
        "file_large",
        "a large folio with dirty buffers, which cannot be split, moves as a whole",
        large,
    ),
    Case::new(
        "file_rests",
        "a file is looked at in the epochs after somebody has written to it",
        rests,
    ),
    Case::new(
        "file_truncated",
        "zeroing a part of a page when a file is cut makes the replica stale",
        truncated,
    ),
];

const PAGES: u64 = 16;

/// In the victim: its file. An order carries no path, so it is where the director has put it: the name
/// of the cgroup.
fn victims_file() -> Result<File> {
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
    Ok(file)
}

/// The victim writes pages `from..` of its file in `version`.
fn write(rig: &mut Rig, from: u64, version: u64) -> Result<()> {
    rig.victim.call(
        |_, from, version| {
            let file = victims_file()?;
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

/// The victim writes the whole file at once in `version`, for which a file system takes large folios.
fn write_at_once(rig: &mut Rig, version: u64) -> Result<()> {
    rig.victim.call(
        |_, version, _| {
            let bytes: Vec<u8> = (0..PAGES).flat_map(|page| image(page, version)).collect();
            victims_file()?.write_all_at(&bytes, 0)?;
            Ok(0)
        },
        version,
        0,
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

fn rests(cx: &Context) -> Result<()> {
    let disk = Disk::tmpfs(cx)?;
    let mut rig = Rig::new(cx, 1)?;
    write(&mut rig, 0, 1)?;
    let frames = frames(&disk)?;
    rig.mirror.set("interval_ms", "20")?;
    for version in 2..6 {
        let epochs = rig.mirror.stat("epochs")?;
        write(&mut rig, 0, version)?;
        wait::until("the file is copied", wait::BOUND, || {
            let mirrored = frames.iter().map(|&frame| is_mirrored(frame));
            Ok(mirrored
                .collect::<Result<Vec<_>>>()?
                .into_iter()
                .all(|is| is))
        })?;
        // If nobody had told, it would have been looked at when everything is, once in 64.
        let took = rig.mirror.stat("epochs")? - epochs;
        ensure!(took < 16, "copied after {took} epochs");
        rig.mirror.wait_epochs(8)?;
    }
    strike(&rig, frames[3], Door::Fail)?;
    must_be(&disk, 3, 5)
}

fn ext4(cx: &Context) -> Result<()> {
    dirty(cx, &Disk::ext4(cx)?, true)
}

fn overlay(cx: &Context) -> Result<()> {
    // It is copied from the image in large folios. When the kernel gives up a page of one that cannot
    // be split, the whole folio, with the page, goes back to the allocator later.
    dirty(cx, &Disk::overlay(cx, PAGES * PAGE)?, false)
}

/// `give_up`: also break a page that was written since the last epoch.
fn dirty(cx: &Context, disk: &Disk, give_up: bool) -> Result<()> {
    // Nothing is to be written back before the end.
    let _quiet = file::Setting::change("/proc/sys/vm/dirty_writeback_centisecs", "0")?;
    let mut rig = Rig::new(cx, 1)?;
    write(&mut rig, 0, 1)?;
    rig.sync()?;
    let all = frames(disk)?;
    let mirrored = all.iter().map(|&frame| is_mirrored(frame));
    let mirrored = mirrored.collect::<Result<Vec<_>>>()?;
    ensure!(
        mirrored.iter().all(|&yes| yes),
        "not mirrored: {mirrored:?}"
    );
    for (page, door) in (0..).zip(Door::ALL) {
        strike(&rig, frames(disk)?[page], door)?;
        must_be(disk, page as u64, 1)?;
        // Its neighbours have moved along, if it was part of a large folio.
        rig.sync()?;
    }

    // What was written since is lost.
    write(&mut rig, 8, 2)?;
    rig.sync()?;
    strike(&rig, frames(disk)?[9], Door::Fail)?;
    must_be(disk, 9, 2)?;
    rig.sync()?;
    let old = frames(disk)?;
    ensure!(is_mirrored(old[8])?, "page 8 is not mirrored");
    write(&mut rig, 8, 3)?;
    ensure!(!is_mirrored(old[8])?, "mirrored after write()");
    if give_up {
        let before = rig.counters()?;
        let _ = inject::strike(&rig.cgroup, Door::Fail.as_str(), old[8])?;
        let after = rig.counters()?;
        ensure!(
            after.restored == before.restored && after.unrestorable == before.unrestorable + 1,
            "a page written since was not refused: {after:?}"
        );
    }

    // What was restored gets to the disk.
    let file = File::open(disk.file())?;
    let _ = file.sync_all();
    nix::fcntl::posix_fadvise(
        file.as_raw_fd(),
        0,
        0,
        nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED,
    )?;
    for page in 0..5 {
        must_be(disk, page, 1)?;
    }
    must_be(disk, 9, 3)
}

fn large(cx: &Context) -> Result<()> {
    let disk = Disk::ext4(cx)?;
    let _quiet = file::Setting::change("/proc/sys/vm/dirty_writeback_centisecs", "0")?;
    let mut rig = Rig::new(cx, 1)?;
    write_at_once(&mut rig, 1)?;
    for (page, door) in (3..).zip(Door::ALL) {
        // It moves each time, and is copied again.
        rig.sync()?;
        let old = frames(&disk)?;
        ensure!(
            pagemap::flags(old[page])? & pagemap::LARGE != 0,
            "no large folio"
        );
        strike(&rig, old[page], door)?;
        let new = frames(&disk)?;
        ensure!(
            pagemap::flags(new[page])? & pagemap::LARGE != 0,
            "it was split"
        );
        ensure!(
            pagemap::flags(old[page])? & pagemap::HWPOISON != 0,
            "the frame is not retired"
        );
        for page in 0..PAGES {
            must_be(&disk, page, 1)?;
        }
        // The frames of its neighbours are not lost, whoever has them now.
        for (&neighbour, other) in old.iter().zip(0..) {
            let lost = pagemap::flags(neighbour)? & pagemap::HWPOISON != 0;
            ensure!(
                lost == (other == page),
                "frame {neighbour:#x} of page {other}"
            );
        }
    }

    // One page of it is written since.
    rig.sync()?;
    write(&mut rig, PAGES - 1, 2)?;
    ensure!(!is_mirrored(frames(&disk)?[15])?, "mirrored after write()");
    Ok(())
}

fn truncated(cx: &Context) -> Result<()> {
    for make in [Disk::tmpfs, Disk::ext4] {
        let disk = make(cx)?;
        let mut rig = Rig::named(cx, if disk.is_real() { "b" } else { "a" }, 1)?;
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
