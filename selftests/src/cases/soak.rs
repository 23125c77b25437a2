// SPDX-License-Identifier: GPL-2.0

//! A short soak, and that a longer one which fails would tell why. See `make soak`.

use crate::case::{skip, Case, Context};
use crate::inject::{self, Door};
use crate::memory::{Mapping, Seen};
use crate::rig::Rig;
use crate::rng::mix;
use crate::runner;
use crate::soak::{place, soak, Options};
use crate::uffd;
use anyhow::{ensure, Context as _, Result};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "soak_fixed",
        "all of kmirror, and the kernel under it",
        fixed,
    )
    .limit(400),
    Case::new(
        "soak_random",
        "the same, with another seed each time",
        random,
    )
    .limit(400),
    Case::new(
        "soak_holds",
        "who breaks a page holds its frame, which the kernel may give to somebody else (selftests/inject/)",
        holds,
    ),
    Case::new(
        "soak_disk",
        "the soak's model of files on disk (selftests/src/soak/content.rs)",
        disk,
    ),
    Case::new(
        "soak_peers",
        "who writes to a peer's page and who looks at it do so one after the other (selftests/src/soak/director.rs)",
        peers,
    ),
    Case::new(
        "soak_missed",
        "what a peer's lost mapping keeps from being written is written all the same (selftests/src/soak/deed.rs)",
        missed,
    ),
    Case::new(
        "soak_torn",
        "a mapping of which the kernel moves a part only is moved whole (selftests/src/soak/place.rs)",
        torn,
    ),
    Case::new(
        "soak_shortens",
        "a run that fails is made shorter (selftests/src/soak/shorten.rs)",
        shortens,
    )
    .limit(400),
];

/// Errors that there must be for it to show something.
const FEW: u64 = 50;

fn short(cx: &Context, seed: u64) -> Result<()> {
    println!("seed {seed}");
    let options = Options {
        seed,
        time: Duration::from_secs(25),
        errors: 600,
        ..Options::default()
    };
    let report = soak(&options, &cx.cgroup)?;
    let why = report.why.unwrap_or_default();
    ensure!(report.failed == 0, "make soak SEED={seed}: {why}");
    ensure!(
        report.errors >= FEW && report.restored > 0,
        "{} errors, {} restored: too few to show much",
        report.errors,
        report.restored
    );
    Ok(())
}

fn fixed(cx: &Context) -> Result<()> {
    short(cx, cx.seed)
}

fn random(cx: &Context) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    short(cx, mix(now.as_nanos() as u64) % 1_000_000_000)
}

/// `MADV_SOFT_OFFLINE`: moves the page somewhere else, if it can.
const MADV_SOFT_OFFLINE: i32 = 101;

/// While the injector holds a frame, its page stays there; and what is held breaks by every door as what
/// is not.
fn holds(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 8)?;
    let offline = |rig: &mut Rig| {
        rig.victim.call(
            |scene, page, _| {
                Ok(u64::from(
                    scene.mem.advise(page, 1, MADV_SOFT_OFFLINE).is_ok(),
                ))
            },
            0,
            0,
        )
    };
    let frame = rig.frame(0)?;
    inject::hold(frame)?;
    let moved = offline(&mut rig)?;
    ensure!(
        moved == 0 && rig.frame(0)? == frame,
        "a page has left a frame that is held"
    );
    inject::release(frame);
    let moved = offline(&mut rig)?;
    ensure!(
        moved == 1 && rig.frame(0)? != frame,
        "a page cannot leave a frame that is not held any more"
    );
    for (page, door) in (1..).zip(Door::ALL) {
        inject::hold(rig.frame(page)?)?;
        rig.must_restore(door, page, 1)?;
    }
    Ok(())
}

/// A dirty page of ext4 (kind 9) is lost, and read from its disk again by one who writes a part of
/// it: neither what was there last nor any version of it.
const LOST_AND_WRITTEN: &str = "
    spawn proc=1 family=0
    spawn proc=2 family=0
    map proc=1 area=1 kind=9 pages=16
    map proc=2 area=1 kind=9 pages=16
    store proc=1 area=1 page=3 off=0 len=100 key=0x11
    fsync proc=1 area=1
    store proc=1 area=1 page=3 off=50 len=100 key=0x21
    round
    strike proc=1 area=1 page=3 door=0
    file_write proc=2 area=1 page=3 off=300 len=50 key=0x31
    round
    check proc=2 area=1 first=0 count=16
";

fn disk(cx: &Context) -> Result<()> {
    if !crate::file::read("/proc/filesystems")?.contains("\text4\n") {
        skip!("no ext4");
    }
    let options = Options {
        replay: Some(LOST_AND_WRITTEN.into()),
        ..Options::default()
    };
    let report = soak(&options, &cx.cgroup)?;
    let why = report.why.unwrap_or_default();
    ensure!(report.failed == 0, "{why}");
    ensure!(
        report.errors == 1 && report.from_disk == 1,
        "{} errors, {} pages read again",
        report.errors,
        report.from_disk
    );
    Ok(())
}

/// A write through a peer's mapping, which has to wait for an fsync() first; and the peer looks. The
/// two once ran side by side then.
fn peers(cx: &Context) -> Result<()> {
    let mut steps = String::from(
        "spawn proc=1 family=0
        spawn proc=2 family=0
        map proc=1 area=1 kind=3 pages=16
        map proc=2 area=1 kind=3 pages=16
        round
        ",
    );
    for key in 1..60 {
        steps += &format!(
            "fsync proc=1 area=1
            proc_mem proc=1 area=1 page=9 off=0 len=512 key={key} peer=2
            check proc=2 area=1 first=9 count=1
            ",
        );
    }
    let options = Options {
        replay: Some(steps),
        ..Options::default()
    };
    let report = soak(&options, &cx.cgroup)?;
    let why = report.why.unwrap_or_default();
    ensure!(report.failed == 0, "{why}");
    Ok(())
}

/// A page that two have mapped is lost. One of them writes it again, and then a part of it through the
/// mapping of the other, where the kernel does not know of that yet.
const MISSED: &str = "
    spawn proc=1 family=0
    spawn proc=2 family=0
    map proc=1 area=1 kind=4 pages=16
    map proc=2 area=1 kind=4 pages=16
    check proc=2 area=1 first=0 count=16
    round
    strike proc=1 area=1 page=3 door=0
    round
    store proc=1 area=1 page=3 off=0 len=512 key=0x11
    vm_write proc=1 area=1 page=3 off=51 len=1 key=0x21 peer=2
    round
    check proc=1 area=1 first=0 count=16
    check proc=2 area=1 first=0 count=16
";

fn missed(cx: &Context) -> Result<()> {
    let options = Options {
        replay: Some(MISSED.into()),
        ..Options::default()
    };
    let report = soak(&options, &cx.cgroup)?;
    let why = report.why.unwrap_or_default();
    ensure!(report.failed == 0, "{why}");
    ensure!(report.errors == 1, "{} errors", report.errors);
    Ok(())
}

/// Two mappings, of which the second is not moved together with others: the kernel tears them.
fn torn(_: &Context) -> Result<()> {
    const PAGES: u64 = 8;
    let area = Mapping::anon(PAGES, 1)?;
    let armed = uffd::register(Mapping::at(area.addr(PAGES / 2), PAGES / 2))?;
    let moved = place::move_to(area, 1, 1)?.context("not moved")?;
    drop(armed);
    ensure!(moved.addr(0) != area.addr(0), "where it was");
    for page in 0..PAGES {
        let seen = moved.check(page, 1);
        ensure!(seen == Seen::Right, "page {page}: {seen:?}");
    }
    moved.unmap()
}

fn shortens(cx: &Context) -> Result<()> {
    let planted = "read_into";
    let options = Options {
        // With the usual seed 1, the fault is found after twice as many steps as with most.
        seed: cx.seed + 1,
        time: Duration::from_secs(60),
        strikes: 4,
        plant: Some(planted.into()),
        ..Options::default()
    };
    let report = soak(&options, &cx.cgroup)?;
    let why = report.why.unwrap_or_default();
    ensure!(
        why.contains("Wrong"),
        "the planted fault is not found: {why}"
    );
    let steps = report.shortened;
    // There is a time for that, in which a kernel that watches itself tries a few runs only.
    let most = if runner::is_watchful() { 100 } else { 8 };
    ensure!((4..=most).contains(&steps.len()), "not short: {steps:?}");
    for needed in ["spawn", "map", planted] {
        let there = steps.iter().any(|step| step.starts_with(needed));
        ensure!(there, "no {needed}: {steps:?}");
    }
    // What is printed fails when it is read in again.
    let replay = Options {
        replay: Some(steps.join("\n")),
        plant: options.plant.clone(),
        ..Options::default()
    };
    let again = soak(&replay, &cx.cgroup)?;
    ensure!(again.failed == 1, "the shortened run does not fail");
    // And it is the planted fault that makes it fail.
    let without = Options {
        plant: None,
        ..replay
    };
    let clean = soak(&without, &cx.cgroup)?;
    ensure!(clean.failed == 0, "fails without the planted fault");
    Ok(())
}
