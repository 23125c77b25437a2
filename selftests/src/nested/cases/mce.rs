// SPDX-License-Identifier: GPL-2.0

//! The memory behind a page of L2 is really lost: its processor has a machine check, or is told.

use crate::case::{Case, Context};
use crate::memory::Seen;
use crate::mirror;
use crate::nested::port::Host;
use crate::nested::strike::{self, Met};
use crate::pagemap::{self, HWPOISON};
use crate::rig::Rig;
use crate::rng::Rng;
use crate::wait;
use anyhow::{bail, ensure, Context as _, Result};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "mce_required",
        "the hook in memory_failure(), reached from a machine check in user mode",
        required,
    ),
    Case::new("mce_optional", "the notifier on the decode chain", optional),
    Case::new(
        "mce_unprotected",
        "nothing but a replica saves a page: the machine checks are true ones",
        unprotected,
    ),
    Case::new(
        "mce_stale",
        "a dirty PTE met at the restore clears the flag",
        stale,
    ),
    Case::new(
        "mce_replica",
        "an error in the mirror region drops the replica and retires the frame",
        replica,
    ),
    Case::new(
        "mce_hundred",
        "whatever one restore leaves behind that the next would fall over",
        hundred,
    )
    .limit(180),
];

/// Pages that may be broken until the program itself has met one first.
const TRIES: u64 = 20;

fn required(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    let mut rig = Rig::synced(cx, TRIES)?;
    let mut met = 0;
    for page in 0..TRIES {
        let before = rig.counters()?;
        let checks = strike::machine_checks()?;
        let hit = strike::under_reader(&mut rig, &mut host, page, 1)?;
        ensure!(hit.seen == Seen::Right, "page {page}: {hit:?}");
        strike::must_be_restored(&mut rig, before, hit.old, page)?;
        ensure!(
            strike::machine_checks()? > checks,
            "there was no machine check"
        );
        // It is an ordinary page.
        rig.fill(page, 2)?;
        rig.must_be(page, 2)?;
        met += u64::from(hit.met == Met::Program);
        if met == 3 {
            println!("action required in 3 of {} errors", page + 1);
            return Ok(());
        }
    }
    bail!("of {TRIES} errors only {met} were met by the program itself")
}

fn optional(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    let mut rig = Rig::synced(cx, 8)?;
    for page in 0..4 {
        let before = rig.counters()?;
        let old = strike::unseen(&mut rig, &mut host, page)?;
        strike::must_be_restored(&mut rig, before, old, page)?;
        rig.must_be(page, 1)?;
    }
    for page in 4..8 {
        rig.must_be(page, 1)?;
    }
    Ok(())
}

fn unprotected(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    let mut rig = Rig::new(cx, 4)?;
    rig.mirror.set("mode", "off")?;
    let hit = strike::under_reader(&mut rig, &mut host, 0, 1)?;
    ensure!(hit.seen == Seen::Lost, "{hit:?}");
    strike::unseen(&mut rig, &mut host, 1)?;
    ensure!(rig.seen(1, 1)? == Seen::Lost, "page 1 is not lost");
    rig.must_be(3, 1)?;

    // As a program that does not expect it: it dies.
    strike::unseen(&mut rig, &mut host, 2)?;
    let died = rig.victim.call(
        |scene, page, _| {
            // SAFETY: No handler is installed, but one is removed.
            unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
            Ok(scene.mem.load(page, 0))
        },
        2,
        0,
    );
    match died {
        Err(error) if format!("{error:#}").contains("signal: 7 (SIGBUS)") => Ok(()),
        other => bail!("it should have died by SIGBUS: {other:?}"),
    }
}

fn stale(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    let mut rig = Rig::synced(cx, 4)?;
    rig.fill(0, 2)?;
    rig.fill(1, 2)?;
    let before = rig.counters()?;
    let hit = strike::under_reader(&mut rig, &mut host, 0, 2)?;
    ensure!(hit.seen == Seen::Lost, "{hit:?}");
    strike::unseen(&mut rig, &mut host, 1)?;
    ensure!(rig.seen(1, 2)? == Seen::Lost, "page 1 is not lost");
    let after = rig.counters()?;
    ensure!(after.restored == before.restored, "{after:?}");
    ensure!(after.unrestorable == before.unrestorable + 2, "{after:?}");
    rig.must_be(2, 1)
}

fn replica(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    let mut rig = Rig::synced(cx, 4)?;
    let frame = rig.frame(0)?;
    let (broken, _) = mirror::replica_of(frame)?.context("no replica is listed")?;
    let before = rig.counters()?;
    host.poison(broken)?;
    wait::until("the replica is dropped", wait::BOUND, || {
        Ok(rig.counters()?.replica_lost > before.replica_lost)
    })?;
    wait::until("its frame is retired", wait::BOUND, || {
        Ok(pagemap::flags(broken)? & HWPOISON != 0)
    })?;
    ensure!(rig.frame(0)? == frame, "the primary has moved");
    rig.must_be(0, 1)?;
    rig.must_not_be_mirrored(0)?;
    rig.sync()?;
    rig.must_be_mirrored(0)?;
    let before = rig.counters()?;
    let hit = strike::under_reader(&mut rig, &mut host, 0, 1)?;
    ensure!(hit.seen == Seen::Right, "{hit:?}");
    strike::must_be_restored(&mut rig, before, hit.old, 0)
}

fn hundred(cx: &Context) -> Result<()> {
    const PAGES: u64 = 128;
    let mut host = Host::connect()?;
    let mut rig = Rig::synced(cx, PAGES)?;
    let mut rng = Rng::new(cx.seed);
    let mut required = 0;
    let mut version = vec![1; PAGES as usize];
    for round in 0..100 {
        let page = strike::pick(&mut rig, &mut rng, &mut version, round)?;
        let at = page as usize;
        let before = rig.counters()?;
        let old = if round % 2 == 0 {
            let hit = strike::under_reader(&mut rig, &mut host, page, version[at])?;
            ensure!(
                hit.seen == Seen::Right,
                "error {round}, page {page}: {hit:?}"
            );
            required += u64::from(hit.met == Met::Program);
            hit.old
        } else {
            let old = strike::unseen(&mut rig, &mut host, page)?;
            rig.must_be(page, version[at])?;
            old
        };
        strike::must_be_restored(&mut rig, before, old, page)
            .with_context(|| format!("error {round}"))?;
    }
    for (page, version) in (0..).zip(version) {
        rig.must_be(page, version)?;
    }
    println!("100 errors, {required} of them met by the program itself");
    Ok(())
}
