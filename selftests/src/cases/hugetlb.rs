// SPDX-License-Identifier: GPL-2.0

//! Huge pages of hugetlb: copied, tracked and restored as a whole.

use crate::case::{skip, Case, Context};
use crate::inject::Door;
use crate::memory::Mapping;
use crate::rig::Rig;
use crate::{file, mirror, wait, PAGE};
use anyhow::{ensure, Result};
use nix::fcntl::{fallocate, FallocateFlags};
use nix::sys::memfd::{memfd_create, MemFdCreateFlag};
use std::fs::File;
use std::os::fd::AsRawFd;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "hugetlb_restore",
        "a hugetlb page is restored as a whole, by whatever name it is mapped",
        restore,
    ),
    Case::new(
        "hugetlb_stale",
        "one store makes all of a hugetlb page stale",
        stale,
    ),
    Case::new(
        "hugetlb_written",
        "a hugetlb page that is written all the time keeps its bytes (memory_mirror_split())",
        written,
    ),
    Case::new(
        "hugetlb_hole",
        "a hole in the middle of a hugetlb page clears its flag (hugetlbfs_zero_partial_page())",
        hole,
    ),
    Case::new(
        "hugetlb_reuse",
        "a huge page that goes back to the pool loses its flag (free_huge_folio())",
        reuse,
    ),
];

const HUGE: u64 = 512;
/// Huge pages of a victim.
const HAVE: u64 = 4;

/// The ways to get at such memory. PostgreSQL takes the second, or the third if it is told to.
const NAMES: [&str; 4] = ["private", "shared", "sysv", "file"];

fn map(name: &str) -> Result<Mapping> {
    let pages = HUGE * HAVE;
    let anonymous = libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;
    match name {
        "private" => Mapping::new(pages, libc::MAP_PRIVATE | anonymous, -1),
        "shared" => Mapping::new(pages, libc::MAP_SHARED | anonymous, -1),
        "sysv" => Mapping::sysv(pages, libc::SHM_HUGETLB),
        _ => {
            let file = File::from(memfd_create(c"huge", MemFdCreateFlag::MFD_HUGETLB)?);
            file.set_len(pages * PAGE)?;
            Mapping::new(pages, libc::MAP_SHARED, file.as_raw_fd())
        }
    }
}

fn rig(cx: &Context, name: &str) -> Result<Rig> {
    let mut rig = Rig::named(cx, name, 1)?;
    let number = NAMES.iter().position(|known| *known == name);
    let addr = rig.victim.call(
        |scene, number, _| {
            scene.mem = map(NAMES[number as usize])?;
            (0..HUGE * HAVE).for_each(|page| scene.mem.fill(page, 1));
            Ok(scene.mem.addr(0))
        },
        number.unwrap_or(0) as u64,
        0,
    )?;
    rig.victim.mem = Mapping::at(addr, HUGE * HAVE);
    rig.sync()?;
    for page in [0, 1, HUGE, HUGE * HAVE - 1] {
        rig.must_be_mirrored(page)?;
    }
    Ok(rig)
}

/// Room for a victim and for so many errors, which the machine may not have: each takes a page out.
fn pool(errors: u64) -> Result<file::Setting> {
    // Many frames have broken by now, and one is enough to spoil a huge page.
    file::write("/proc/sys/vm/drop_caches", "3")?;
    file::write("/proc/sys/vm/compact_memory", "1")?;
    // Broken ones stay in the pool, as if they were in use.
    let count = |what: &str| file::meminfo(&format!("HugePages_{what}"));
    let want = HAVE + errors;
    let all = count("Total")? - count("Free")? + want;
    let pool = file::Setting::change("/proc/sys/vm/nr_hugepages", &all.to_string())?;
    let have = count("Free")?;
    if have < want {
        skip!("{have} huge pages in place of {want}");
    }
    Ok(pool)
}

fn restore(cx: &Context) -> Result<()> {
    ensure!(mirror::region("total")? >= 32 << 20, "the region is small");
    for name in NAMES {
        // Each error takes a page out of it.
        let _pool = pool(4)?;
        let mut rig = rig(cx, name)?;
        for (huge, door) in (0..3).zip([Door::Fail, Door::Mce, Door::FailCounted]) {
            rig.must_restore(door, huge * HUGE + 7, 1)?;
            for page in 0..HUGE {
                rig.must_be(huge * HUGE + page, 1)?;
            }
        }
        rig.sync()?;
        rig.must_restore(Door::Fail, 0, 1)?;
        rig.victim.end()?;
    }
    Ok(())
}

fn stale(cx: &Context) -> Result<()> {
    let _pool = pool(6)?;
    for name in ["private", "shared"] {
        let mut rig = rig(cx, name)?;
        rig.fill(3, 2)?;
        // A victim that touched it would die: a handler cannot put a small page there.
        let before = rig.counters()?;
        rig.strike(Door::Fail, 9)?;
        let after = rig.counters()?;
        ensure!(
            after.restored == before.restored && after.unrestorable == before.unrestorable + 1,
            "a huge page that was written is restored: {after:?}"
        );
        // Another was not written, and one is written and copied again.
        rig.must_restore(Door::Fail, HUGE + 9, 1)?;
        rig.fill(HUGE * 2, 2)?;
        rig.sync()?;
        rig.must_restore(Door::Fail, HUGE * 2 + 1, 1)?;
        rig.must_be(HUGE * 2, 2)?;
        rig.victim.end()?;
    }
    Ok(())
}

/// One that is dirty epoch after epoch waits until it rests: it has no other mapping than the huge one,
/// and to take that apart as if it were a transparent huge page would lose private memory.
fn written(cx: &Context) -> Result<()> {
    let _pool = pool(2)?;
    for name in ["private", "shared"] {
        let mut rig = rig(cx, name)?;
        let before = rig.mirror.stat("deferred")?;
        rig.mirror.set("interval_ms", "10")?;
        let mut version = 1;
        wait::until("it was deferred a few times", wait::BOUND, || {
            version += 1;
            rig.fill(3, version)?;
            rig.must_be(3, version)?;
            Ok(rig.mirror.stat("deferred")? >= before + 4 * HUGE)
        })?;
        for page in 0..HUGE * HAVE {
            rig.must_be(page, if page == 3 { version } else { 1 })?;
        }
        // Once it rests it is current again.
        wait::until("it is covered", wait::BOUND, || rig.is_mirrored(3))?;
        rig.mirror.set("interval_ms", mirror::NEVER_MS)?;
        rig.sync()?;
        rig.must_restore(Door::Fail, 9, 1)?;
        rig.must_be(3, version)?;
        rig.victim.end()?;
    }
    Ok(())
}

/// The kernel zeroes two small pages of a huge one, which no page table shows.
fn hole(cx: &Context) -> Result<()> {
    let _pool = pool(1)?;
    let mut rig = Rig::named(cx, "hole", 1)?;
    let addr = rig.victim.call(
        |scene, _, _| {
            let file = File::from(memfd_create(c"huge", MemFdCreateFlag::MFD_HUGETLB)?);
            file.set_len(HUGE * PAGE)?;
            scene.map_file(file, HUGE)?;
            (0..HUGE).for_each(|page| scene.mem.fill(page, 1));
            Ok(scene.mem.addr(0))
        },
        0,
        0,
    )?;
    rig.victim.mem = Mapping::at(addr, HUGE);
    rig.sync()?;
    rig.must_be_mirrored(0)?;
    rig.victim.call(
        |scene, _, _| {
            let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let (from, len) = (3 * PAGE, 2 * PAGE);
            fallocate(scene.file()?.as_raw_fd(), mode, from as i64, len as i64)?;
            ensure!(scene.mem.load(3, 0) == 0, "there is no hole");
            Ok(0)
        },
        0,
        0,
    )?;
    rig.must_not_be_mirrored(0)?;
    // Copied again it comes back, with the hole.
    rig.sync()?;
    rig.must_restore(Door::Fail, 9, 1)?;
    for page in [3, 4] {
        let word = rig
            .victim
            .call(|scene, page, _| Ok(scene.mem.load(page, 100)), page, 0)?;
        ensure!(word == 0, "page {page} of the hole: {word:#x}");
    }
    rig.must_be(5, 1)
}

/// A page of the pool keeps its flags. Who gets it next and only reads has a clean entry, and must not
/// be given what was copied from the one before.
fn reuse(cx: &Context) -> Result<()> {
    let _pool = pool(1)?;
    let mut rig = rig(cx, "private")?;
    let frames =
        |rig: &Rig| -> Result<Vec<u64>> { (0..HAVE).map(|huge| rig.frame(huge * HUGE)).collect() };
    let before = frames(&rig)?;
    rig.victim.call(
        |scene, _, _| {
            scene.mem.advise(0, HUGE * HAVE, libc::MADV_DONTNEED)?;
            for page in 0..HUGE * HAVE {
                ensure!(scene.mem.load(page, 0) == 0, "page {page} is not empty");
            }
            Ok(0)
        },
        0,
        0,
    )?;
    let after = frames(&rig)?;
    let again: Vec<u64> = (0..HAVE)
        .filter(|&huge| before.contains(&after[huge as usize]))
        .collect();
    ensure!(!again.is_empty(), "no frame was used again");
    for &huge in &again {
        rig.must_not_be_mirrored(huge * HUGE)?;
    }
    let restored = rig.counters()?.restored;
    rig.strike(Door::Fail, again[0] * HUGE + 3)?;
    ensure!(
        rig.counters()?.restored == restored,
        "restored with the bytes of another"
    );
    Ok(())
}
