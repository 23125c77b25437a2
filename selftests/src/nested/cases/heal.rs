// SPDX-License-Identifier: GPL-2.0

//! Frames that the host heals, behind small pages and huge ones, and a service that dies while it does.

use crate::case::{Case, Context};
use crate::cases::huge::huge_rig;
use crate::cases::service::{again, connected};
use crate::inject::Door;
use crate::memory::{Mapping, Seen};
use crate::mirror::stat;
use crate::nested::port::Host;
use crate::nested::strike::{self, Met};
use crate::pagemap::{self, Entry, HWPOISON};
use crate::rig::{must_be_lost, Rig};
use crate::rng::Rng;
use crate::wait::{self, BOUND};
use anyhow::{bail, ensure, Context as _, Result};
use nix::sched::{sched_setaffinity, CpuSet};
use nix::unistd::Pid;
use std::ops::Range;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "heal_frame",
        "heal::run(), and the balloon: QEMU's own page table still has the broken page",
        heal,
    )
    .limit(120),
    Case::new(
        "heal_hundred",
        "whatever one healed frame leaves behind that the next would fall over",
        heal_hundred,
    )
    .limit(240),
    Case::new(
        "killed_in_heal",
        "a HEAL that was half done is done again: the relay, and Code::Instance in heal::replace()",
        killed_in_heal,
    )
    .limit(120),
    Case::new(
        "heal_huge",
        "look_around(), and the service's replace_huge(): all frames behind a lost huge page come back",
        heal_huge,
    )
    .limit(240),
    Case::new(
        "heal_huge_stale",
        "pages behind a lost huge page that have no current replica are read by the host: mirror_rescue()",
        heal_huge_stale,
    )
    .limit(240),
    Case::new(
        "huge_stale_lost",
        "of those, the one that has broken is lost, and no other: the service's read through the file",
        huge_stale_lost,
    )
    .limit(240),
    Case::new(
        "huge_stale_readable",
        "a page that can be read is not taken from the host: it is what is wrong: mirror_read() in mirror_rescue()",
        huge_stale_readable,
    )
    .limit(120),
];

/// Waits until no frame of an earlier case is to be healed any more. What is healed and not, then.
fn rested() -> Result<(u64, u64)> {
    wait::until("all frames have been dealt with", BOUND, || {
        Ok(stat("healing")? == 0)
    })?;
    Ok((stat("healed")?, stat("not_healed")?))
}

/// Waits until so many frames more than `before` are healed, and fails if one is not.
fn healed(before: (u64, u64), more: u64) -> Result<()> {
    let mut done = 0;
    while done < more {
        let last = done;
        wait::until("another frame is healed", BOUND * 2, || {
            let now = (stat("healed")?, stat("not_healed")?);
            ensure!(
                now.1 == before.1,
                "{} frames could not be healed",
                now.1 - before.1
            );
            done = now.0 - before.0;
            Ok(done > last)
        })?;
    }
    Ok(())
}

fn heal(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    let mut rig = Rig::synced(cx, 8)?;
    for page in 0..3 {
        let before = rested()?;
        let corrupted = pagemap::corrupted_kb()?;
        let old = strike::must_survive(&mut rig, &mut host, page, 1)?.old;
        healed(before, 1)?;
        // A frame of the case before may have been under way, which then was the one that was counted.
        wait::until("this frame is in use again", BOUND, || {
            Ok(pagemap::flags(old)? & HWPOISON == 0)
        })?;
        ensure!(
            pagemap::corrupted_kb()? <= corrupted,
            "HardwareCorrupted has not fallen"
        );
        reuse(&mut rig, old)?;
        rig.must_be(page, 1)?;
    }
    Ok(())
}

/// Has the caller run on these processors.
fn run_on(cpus: Range<usize>) -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(cpu)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Lets the victim take memory until it gets the frame, which must then be as good as any other.
fn reuse(rig: &mut Rig, frame: u64) -> Result<()> {
    let result = rig.victim.call(
        |_, frame, _| {
            const CHUNK: u64 = 256;
            let table = pagemap::Table::of(i32::try_from(std::process::id())?)?;
            let mut taken = Vec::new();
            let mut found = None;
            // Each processor has a list of free frames for itself, and this one may be in any of them.
            let cpus = std::thread::available_parallelism()?.get();
            'search: for round in 0..128 {
                let cpu = round % cpus;
                run_on(cpu..cpu + 1)?;
                let chunk = Mapping::untouched(CHUNK)?;
                taken.push(chunk);
                for page in 0..CHUNK {
                    chunk.store(page, 0, 1);
                    if table.entry(chunk.addr(page))? == Entry::Present(frame) {
                        found = Some((chunk, page));
                        break 'search;
                    }
                }
            }
            run_on(0..cpus)?;
            let seen = found.map(|(chunk, page)| {
                chunk.fill_as(page, 77, 3);
                chunk.check_as(page, 77, 3)
            });
            for chunk in taken {
                chunk.unmap()?;
            }
            match seen {
                Some(Seen::Right) => Ok(0),
                Some(other) => bail!("the frame is in use again, and {other:?}"),
                None => bail!("nobody is given the frame again"),
            }
        },
        frame,
        0,
    );
    result
        .with_context(|| format!("frame {frame:#x}"))
        .map(|_| ())
}

fn heal_hundred(cx: &Context) -> Result<()> {
    const PAGES: u64 = 64;
    const ERRORS: u64 = 100;
    let mut host = Host::connect()?;
    let mut rig = Rig::synced(cx, PAGES)?;
    let mut rng = Rng::new(cx.seed);
    let before = rested()?;
    let corrupted = pagemap::corrupted_kb()?;
    let mut required = 0;
    let mut version = vec![1; PAGES as usize];
    for round in 0..ERRORS {
        let page = strike::pick(&mut rig, &mut rng, &mut version, round)?;
        let hit = strike::must_survive(&mut rig, &mut host, page, version[page as usize])
            .with_context(|| format!("error {round}"))?;
        required += u64::from(hit.met == Met::Program);
    }
    healed(before, ERRORS)?;
    ensure!(
        pagemap::corrupted_kb()? == corrupted,
        "HardwareCorrupted has not fallen"
    );
    for (page, version) in (0..).zip(version) {
        rig.must_be(page, version)?;
    }
    println!("{ERRORS} errors, {required} of them met by the program itself, all frames healed");
    Ok(())
}

fn killed_in_heal(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    connected()?;
    let mut rig = Rig::synced(cx, 8)?;
    for page in 0..2 {
        let before = rested()?;
        let corrupted = pagemap::corrupted_kb()?;
        let sessions = stat("host_sessions")?;
        host.order("kmirrord kill-after hole")?;
        let old = strike::must_survive(&mut rig, &mut host, page, 1)?.old;
        host.order("kmirrord killed")?;
        // The frame is a hole now, and nobody's.
        ensure!(
            pagemap::flags(old)? & HWPOISON != 0,
            "frame {old:#x} is in use"
        );
        host.order("kmirrord start")?;
        again(sessions)?;
        healed(before, 1)?;
        ensure!(pagemap::corrupted_kb()? == corrupted);
        reuse(&mut rig, old)?;
        for page in 0..8 {
            rig.must_be(page, 1)?;
        }
    }
    Ok(())
}

/// Pages of a huge page.
const PAGES: u64 = 512;

/// Waits until so many pages of a lost huge page have been restored, which the module does one by one.
/// A victim that ended before would leave frames that are free and cannot be touched.
fn restored(rig: &Rig, before: u64, count: u64) -> Result<()> {
    let mut done = 0;
    while done < count {
        let last = done;
        wait::until("another page is restored", BOUND, || {
            done = rig.counters()?.restored - before;
            Ok(done > last)
        })?;
    }
    Ok(())
}

/// A victim with one huge page, which is behind one of the host's: nobody else is hit. And its frame.
fn behind_a_huge_page(cx: &Context, host: &mut Host) -> Result<(Rig, u64)> {
    connected()?;
    let rig = huge_rig(cx, "victim", PAGES, false)?;
    let first = rig.frame(0)?;
    let backing = host.number(&format!("page {first}"))?;
    ensure!(
        backing == 2 << 20,
        "the memory of L2 is in pages of {backing} bytes"
    );
    ensure!(first % PAGES == 0, "frame {first:#x} begins no huge page");
    Ok((rig, first))
}

fn heal_huge(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    let (mut rig, first) = behind_a_huge_page(cx, &mut host)?;
    let before = rested()?;
    let corrupted = pagemap::corrupted_kb()?;
    let counters = rig.counters()?;
    let checks = strike::machine_checks()?;
    host.poison(first + 7)?;
    // Nobody reads another page: the module itself looks for what else is lost.
    rig.must_be(7, 1)?;
    restored(&rig, counters.restored, PAGES)?;
    healed(before, PAGES)?;
    let after = rig.counters()?;
    println!(
        "one huge page lost at the host: {} pages restored, {} machine checks, all frames healed",
        after.restored - counters.restored,
        strike::machine_checks()? - checks
    );
    ensure!(after.restored == counters.restored + PAGES, "{after:?}");
    ensure!(after.unrestorable == counters.unrestorable, "{after:?}");
    ensure!(
        pagemap::corrupted_kb()? == corrupted,
        "HardwareCorrupted has not fallen"
    );
    for page in 0..PAGES {
        rig.must_be(page, 1)?;
    }
    reuse(&mut rig, first + 100)?;
    Ok(())
}

/// The same, with the odd pages written after their last epoch.
fn half_stale(cx: &Context, host: &mut Host) -> Result<(Rig, u64)> {
    let (mut rig, first) = behind_a_huge_page(cx, host)?;
    // Mapped by PTEs, each page has a dirty bit of its own.
    rig.victim.call(
        |scene, _, _| {
            scene.mem.advise(PAGES - 1, 1, libc::MADV_SEQUENTIAL)?;
            Ok(0)
        },
        0,
        0,
    )?;
    for page in (1..PAGES).step_by(2) {
        rig.fill(page, 2)?;
    }
    ensure!(rig.frame(0)? == first && rig.frame(PAGES - 1)? == first + PAGES - 1);
    Ok((rig, first))
}

fn heal_huge_stale(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    let (mut rig, first) = half_stale(cx, &mut host)?;
    let before = rested()?;
    let (counters, rescued) = (rig.counters()?, stat("rescued")?);
    host.poison(first + 8)?;
    // Met by the program in a page that is not broken, and has no current replica.
    rig.must_be(9, 2)?;
    restored(&rig, counters.restored, PAGES)?;
    healed(before, PAGES)?;
    for page in 0..PAGES {
        rig.must_be(page, 1 + page % 2)?;
    }
    let after = rig.counters()?;
    ensure!(after.restored == counters.restored + PAGES, "{after:?}");
    ensure!(after.unrestorable == counters.unrestorable, "{after:?}");
    let rescued = stat("rescued")? - rescued;
    ensure!(
        rescued == PAGES / 2,
        "{rescued} pages were read by the host"
    );
    reuse(&mut rig, first + 9)
}

fn huge_stale_lost(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    let (mut rig, first) = half_stale(cx, &mut host)?;
    rested()?;
    let counters = rig.counters()?;
    host.poison(first + 9)?;
    must_be_lost(&mut rig.victim, 9)?;
    // The module has been told of nothing that it could restore, until now.
    rig.must_be(0, 1)?;
    restored(&rig, counters.restored, PAGES - 1)?;
    for page in (0..PAGES).filter(|&page| page != 9) {
        rig.must_be(page, 1 + page % 2)?;
    }
    let after = rig.counters()?;
    ensure!(after.unrestorable == counters.unrestorable + 1, "{after:?}");
    Ok(())
}

fn huge_stale_readable(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    let (mut rig, _) = half_stale(cx, &mut host)?;
    let rescued = stat("rescued")?;
    for (page, door) in (101..).step_by(2).zip(Door::ALL) {
        rig.must_refuse(door, page)?;
    }
    ensure!(stat("rescued")? == rescued);
    let (done, not) = rested()?;
    rig.must_restore(Door::Fail, 100, 1)?;
    wait::until("the frame has been dealt with", BOUND, || {
        Ok(stat("healed")? + stat("not_healed")? > done + not)
    })
}
