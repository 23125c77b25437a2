// SPDX-License-Identifier: GPL-2.0

//! Huge pages: one dirty bit for 512 pages, or one folio for several.

use crate::case::{skip, Case, Context};
use crate::inject::{self, Door};
use crate::kmsg::Log;
use crate::memory::Mapping;
use crate::pagemap::{Entry, Table};
use crate::rig::Rig;
use crate::{file, pagemap, wait, PAGE_SIZE};
use anyhow::{ensure, Result};
use nix::errno::Errno;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "huge_restore",
        "a page of a huge one is restored, and the other 511 are not lost; a split keeps their flags",
        restore,
    ),
    Case::new(
        "huge_stale",
        "one store through a huge mapping makes all of it stale; a split copies the dirty bit down",
        stale,
    ),
    Case::new(
        "huge_second_epoch",
        "the walk clears the flags of all pages behind a dirty huge entry that it cleans (mirror_pmd())",
        second_epoch,
    )
    .limit(180),
    Case::new(
        "huge_written",
        "a huge page that goes on being written is mapped by PTEs; one that is read stays huge",
        written,
    ),
    Case::new(
        "huge_shmem",
        "the same for a huge page of shared memory",
        shmem,
    ),
    Case::new(
        "huge_shmem_stale",
        "one store through a huge mapping of shared memory: the split of it clears the flags (__split_huge_pmd_locked())",
        shmem_stale,
    )
    .limit(180),
    Case::new(
        "mthp",
        "each page of a large folio that PTEs map has a dirty bit and a flag of its own",
        mthp,
    ),
    Case::new(
        "huge_part_given_back",
        "a lost page that nobody has any more is not restored, and not said to be: Keeper::restored()",
        part_given_back,
    ),
    Case::new(
        "huge_unsplit",
        "a lost page of a huge one that could not be split is not given out again (free_healthy_pages())",
        unsplit,
    ),
];

const HUGE: u64 = 512;
const POLICY: &str = "/sys/kernel/mm/transparent_hugepage";

/// A victim whose memory begins with folios of `pages` each.
pub(crate) fn huge_rig(cx: &Context, name: &str, pages: u64, shared: bool) -> Result<Rig> {
    let mut rig = Rig::named(cx, name, 1)?;
    let addr = rig.victim.call(
        |scene, pages, shared| {
            let flags = if shared == 1 {
                libc::MAP_SHARED
            } else {
                libc::MAP_PRIVATE
            };
            // Room enough for an aligned one.
            let room = Mapping::new(HUGE * 2, flags | libc::MAP_ANONYMOUS, -1)?;
            let aligned = room.addr(0).next_multiple_of(HUGE * crate::PAGE);
            scene.mem = Mapping::at(aligned, HUGE);
            scene.mem.advise(0, HUGE, libc::MADV_HUGEPAGE)?;
            (0..pages).for_each(|page| scene.mem.fill(page, 1));
            Ok(aligned)
        },
        pages,
        u64::from(shared),
    )?;
    rig.victim.mem = Mapping::at(addr, HUGE);
    if pagemap::flags(rig.frame(0)?)? & pagemap::THP == 0 {
        skip!("no huge page was to be had");
    }
    rig.sync()?;
    for page in 0..pages {
        rig.must_be_mirrored(page)?;
    }
    Ok(rig)
}

/// Kilobytes of the victim that huge PMDs map.
fn mapped_huge(rig: &Rig) -> Result<u64> {
    let smaps = format!("/proc/{}/smaps_rollup", rig.victim.pid);
    Ok(file::keyed(&smaps, "AnonHugePages")? + file::keyed(&smaps, "ShmemPmdMapped")?)
}

fn check_all(rig: &mut Rig, except: &[(u64, u64)]) -> Result<()> {
    for page in 0..HUGE {
        let version = except.iter().find(|(other, _)| *other == page);
        rig.must_be(page, version.map_or(1, |(_, version)| *version))?;
    }
    Ok(())
}

fn restore(cx: &Context) -> Result<()> {
    let mut rig = huge_rig(cx, "restore", HUGE, false)?;
    ensure!(mapped_huge(&rig)? == 2048, "not mapped huge");
    for (page, door) in [9, 0, 511, 10].into_iter().zip(Door::ALL) {
        rig.must_restore(door, page, 1)?;
        for other in [8, 100, 510] {
            ensure!(rig.is_mirrored(other)?, "page {other} has lost the flag");
        }
    }
    check_all(&mut rig, &[])
}

fn stale(cx: &Context) -> Result<()> {
    let mut rig = huge_rig(cx, "stale", HUGE, false)?;
    // Written through the huge mapping, which is split afterwards.
    rig.fill(3, 2)?;
    rig.victim.call(
        |scene, _, _| {
            scene.mem.advise(100, 1, libc::MADV_DONTNEED)?;
            scene.mem.fill(100, 1);
            Ok(0)
        },
        0,
        0,
    )?;
    rig.must_lose(Door::Fail, 3)?;
    rig.must_lose(Door::Mce, 9)?;
    rig.fill(3, 2)?;
    rig.fill(9, 2)?;

    // What is left of it has dirty bits page by page.
    rig.sync()?;
    rig.fill(200, 2)?;
    rig.must_lose(Door::Fail, 200)?;
    rig.fill(200, 1)?;
    rig.must_restore(Door::Fail, 300, 1)?;
    check_all(&mut rig, &[(3, 2), (9, 2)])
}

/// Written, copied and written again, mapped huge all the time.
fn second_epoch(cx: &Context) -> Result<()> {
    let enabled = format!("{POLICY}/shmem_enabled");
    let _policy = file::Setting::change(&enabled, "advise")?;
    for (name, shared) in [("private", false), ("shared", true)] {
        let mut rig = huge_rig(cx, name, HUGE, shared)?;
        rig.fill(3, 2)?;
        rig.sync()?;
        ensure!(mapped_huge(&rig)? == 2048, "{name}: not mapped huge");
        rig.must_restore(Door::Fail, 3, 2)?;
        check_all(&mut rig, &[(3, 2)])?;
        rig.victim.end()?;
    }
    Ok(())
}

fn written(cx: &Context) -> Result<()> {
    let mut rig = huge_rig(cx, "written", HUGE, false)?;
    rig.mirror.set("interval_ms", "20")?;
    let epochs = |rig: &Rig| rig.mirror.stat("epochs");
    let seen = epochs(&rig)?;
    wait::until("five epochs", wait::BOUND, || Ok(epochs(&rig)? >= seen + 5))?;
    ensure!(
        mapped_huge(&rig)? == 2048,
        "a huge page that is only read was taken apart"
    );

    let mut version = 1;
    wait::until("it is mapped by PTEs", wait::BOUND, || {
        version += 1;
        rig.fill(7, version)?;
        Ok(mapped_huge(&rig)? == 0)
    })?;
    // The others rest now, and are covered although page 7 never is for long.
    let seen = epochs(&rig)?;
    wait::until("five epochs more", wait::BOUND, || {
        version += 1;
        rig.fill(7, version)?;
        Ok(epochs(&rig)? >= seen + 5)
    })?;
    rig.mirror.set("interval_ms", "600000")?;
    rig.must_restore(Door::Fail, 8, 1)?;
    rig.fill(7, 99)?;
    rig.must_lose(Door::Fail, 7)?;
    rig.fill(7, 99)?;
    check_all(&mut rig, &[(7, 99)])
}

fn shmem(cx: &Context) -> Result<()> {
    let enabled = format!("{POLICY}/shmem_enabled");
    let _policy = file::Setting::change(&enabled, "advise")?;
    let mut rig = huge_rig(cx, "shmem", HUGE, true)?;
    ensure!(mapped_huge(&rig)? == 2048, "not mapped huge");
    rig.must_restore(Door::Fail, 9, 1)?;
    rig.must_restore(Door::Mce, 10, 1)?;
    rig.sync()?;
    rig.fill(20, 2)?;
    rig.must_refuse(Door::Fail, 20)?;
    rig.fill(20, 2)?;
    // The split has left the mapping of the others to the next fault.
    rig.must_be(21, 1)?;
    rig.must_restore(Door::Fail, 21, 1)?;
    check_all(&mut rig, &[(20, 2)])
}

/// Of a file the kernel does not split a huge mapping but drops it, and its dirty bit, which the folio
/// has already: in the course of a restore, and long before one.
fn shmem_stale(cx: &Context) -> Result<()> {
    let enabled = format!("{POLICY}/shmem_enabled");
    let _policy = file::Setting::change(&enabled, "advise")?;
    for (name, early) in [("late", 0), ("early", 1)] {
        let mut rig = huge_rig(cx, name, HUGE, true)?;
        ensure!(mapped_huge(&rig)? == 2048, "not mapped huge");
        rig.fill(20, 2)?;
        rig.victim.call(
            |scene, early, _| {
                if early == 1 {
                    // Without a store, so that no other dirty bit tells of it.
                    scene.mem.advise(100, 1, libc::MADV_DONTNEED)?;
                    for page in 0..HUGE {
                        std::hint::black_box(scene.mem.load(page, 0));
                    }
                }
                Ok(0)
            },
            early,
            0,
        )?;
        rig.must_refuse(Door::Fail, 20)?;
        rig.must_refuse(Door::Mce, 21)?;
        rig.fill(20, 2)?;
        rig.fill(21, 1)?;
        check_all(&mut rig, &[(20, 2)])?;
        rig.victim.end()?;
    }
    Ok(())
}

fn mthp(cx: &Context) -> Result<()> {
    const ORDER: u64 = 16;
    let enabled = format!("{POLICY}/hugepages-64kB/enabled");
    let huge = format!("{POLICY}/hugepages-2048kB/enabled");
    let _small = file::Setting::change(&enabled, "madvise")?;
    let _large = file::Setting::change(&huge, "never")?;
    let mut rig = huge_rig(cx, "mthp", HUGE, false)?;
    ensure!(mapped_huge(&rig)? == 0, "mapped huge");

    // Of one folio: a page written, its neighbours not.
    rig.fill(1, 2)?;
    rig.must_refuse(Door::Fail, 1)?;
    rig.fill(1, 2)?;
    rig.must_restore(Door::Fail, 2, 1)?;
    rig.must_restore(Door::MceDeferred, 3, 1)?;
    // Of another, untouched.
    rig.must_restore(Door::Fail, ORDER + 3, 1)?;
    for page in [ORDER, ORDER + 2, ORDER + 15] {
        ensure!(rig.is_mirrored(page)?, "page {page} has lost the flag");
    }
    check_all(&mut rig, &[(1, 2)])
}

/// The frames of a huge page are freed together. One whose page was given back before is still part of
/// it, with the flag and a replica.
fn part_given_back(cx: &Context) -> Result<()> {
    // Something is restored first, whose new frame is not to be taken for one of the other's.
    let mut other = huge_rig(cx, "other", HUGE, false)?;
    other.must_restore(Door::Fail, 20, 1)?;
    other.victim.end()?;
    let mut rig = huge_rig(cx, "given_back", HUGE, false)?;
    let pfn = rig.frame(9)?;
    rig.victim.call(
        |scene, _, _| {
            scene.mem.advise(9, 1, libc::MADV_DONTNEED)?;
            Ok(0)
        },
        0,
        0,
    )?;
    let flags = pagemap::flags(pfn)?;
    ensure!(flags & pagemap::MIRRORED != 0, "not part of it any more");
    let restored = rig.mirror.event("restored")?;
    let mut log = Log::from_now()?;
    inject::strike(&rig.cgroup, Door::Fail.as_str(), pfn)??;
    ensure!(pagemap::flags(pfn)? & pagemap::HWPOISON != 0);
    ensure!(rig.mirror.event("restored")? == restored, "counted");
    let lines = log.lines()?;
    let said = format!("frame {pfn:#x} was lost, and its page not in use");
    ensure!(lines.iter().any(|line| line.contains(&said)), "{lines:?}");
    rig.fill(9, 2)?;
    check_all(&mut rig, &[(9, 2)])
}

/// In the victim: a pipe with a page of its memory in it, not a copy.
static PIPE: Mutex<Option<(OwnedFd, OwnedFd)>> = Mutex::new(None);

/// As long as somebody holds a reference to another page of it, a huge page cannot be split when one is
/// lost. Then it is freed as a whole, and others get its frames.
fn unsplit(cx: &Context) -> Result<()> {
    const LOST: u64 = 9;
    /// Huge pages and small ones that are taken afterwards: more than are free in pieces.
    const TAKEN: [(u64, i32); 2] = [
        (HUGE * 40, libc::MADV_HUGEPAGE),
        (HUGE * 120, libc::MADV_NOHUGEPAGE),
    ];
    let mut rig = huge_rig(cx, "unsplit", HUGE, false)?;
    rig.victim.call(
        |scene, _, _| {
            let (read, write) = nix::unistd::pipe()?;
            let iov = libc::iovec {
                iov_base: scene.mem.ptr(1, 0).cast(),
                iov_len: PAGE_SIZE,
            };
            // SAFETY: One vector, of memory that stays mapped.
            let put = unsafe { libc::vmsplice(write.as_raw_fd(), &iov, 1, 0) };
            ensure!(Errno::result(put)? == PAGE_SIZE as isize);
            *PIPE.lock().unwrap() = Some((read, write));
            Ok(0)
        },
        0,
        0,
    )?;
    let first = rig.frame(0)?;
    let struck = rig.strike(Door::Fail, LOST)?;
    let whole = pagemap::flags(first)? & pagemap::THP != 0;
    ensure!(whole && struck.result.is_err(), "it was split: {struck:x?}");
    let broken = pagemap::flags(struck.old)? & pagemap::HWPOISON != 0;
    ensure!(broken, "the kernel does not know of the error");
    rig.victim.call(
        |scene, _, _| {
            *PIPE.lock().unwrap() = None;
            scene.mem.unmap()?;
            Ok(0)
        },
        0,
        0,
    )?;

    let (mut others, mut again) = (0, 0);
    for (pages, advice) in TAKEN {
        let addr = rig.victim.call(
            |_, pages, advice| {
                let mem = Mapping::new(pages, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
                mem.advise(0, pages, advice as i32)?;
                (0..pages).for_each(|page| mem.store(page, 0, 1));
                Ok(mem.addr(0))
            },
            pages,
            advice as u64,
        )?;
        let table = Table::of(rig.victim.pid)?;
        for page in 0..pages {
            if let Entry::Present(frame) = table.entry(addr + page * crate::PAGE)? {
                others += u64::from((first..first + HUGE).contains(&frame));
                again += u64::from(frame == struck.old);
            }
        }
    }
    println!("{others} of its frames are in use again");
    ensure!(again == 0, "the broken frame is in use again");
    ensure!(others > 0, "none of its frames is in use again");
    Ok(())
}
