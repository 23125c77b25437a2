// SPDX-License-Identifier: GPL-2.0

//! kmirrord in L1: replicas that it holds, and its end.

use crate::case::{Case, Context};
use crate::cases::service::{again, connected};
use crate::memory::Seen;
use crate::mirror::{self, stat};
use crate::nested::port::Host;
use crate::nested::strike::{self, Met};
use crate::rig::Rig;
use crate::wait::{self, BOUND};
use anyhow::{ensure, Context as _, Result};
use nix::errno::Errno;
use std::time::Instant;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "host_replicas",
        "HostDepot, and the service's pool, under true machine checks",
        host_replicas,
    )
    .limit(120),
    Case::new(
        "host_and_guest_replicas",
        "Store::fill() takes the host's replica when the region's frame is lost",
        both,
    ),
    Case::new(
        "service_absent",
        "without the device nothing is missing but replicas at the host",
        absent,
    ),
    Case::new(
        "killed_in_store",
        "what the service held is not believed in any more: Store::host_gone(); the relay",
        killed_in_store,
    )
    .limit(120),
    Case::new(
        "killed_again",
        "the next session, time and again: HostLink, the relay",
        killed_again,
    )
    .limit(180),
    // The last of its boot: nobody is there afterwards.
    Case::new(
        "service_lost",
        "HostQueue::wait() gives up when QEMU's connection is lost for good",
        lost_for_good,
    )
    .limit(180),
];

/// A victim whose replicas are in `place`, and current.
pub(super) fn rig(cx: &Context, place: &str, pages: u64) -> Result<Rig> {
    connected()?;
    let rig = Rig::new(cx, pages)?;
    rig.mirror.set("store", place)?;
    rig.sync()?;
    for page in 0..pages {
        rig.must_be_mirrored(page)?;
    }
    Ok(rig)
}

fn host_replicas(cx: &Context) -> Result<()> {
    const PAGES: u64 = 24;
    let mut host = Host::connect()?;
    let free = mirror::region("free")?;
    let mut rig = rig(cx, "host", PAGES)?;
    ensure!(mirror::region("free")? == free, "the region is used");
    ensure!(stat("host_used")? * crate::PAGE == rig.mirror.number("current")?);
    let mut met = 0;
    for page in 0..PAGES - 4 {
        let hit = strike::must_survive(&mut rig, &mut host, page, 1)?;
        met += u64::from(hit.met == Met::Program);
        if met == 3 {
            break;
        }
    }
    ensure!(met == 3, "only {met} errors were met by the program itself");
    // And one that nobody meets.
    let page = PAGES - 1;
    let before = rig.counters()?;
    strike::unseen(&mut rig, &mut host, page)?;
    rig.must_be(page, 1)?;
    wait::until("the restore is counted", BOUND, || {
        Ok(rig.counters()?.restored == before.restored + 1)
    })?;
    // Written since: the replica is of no use.
    let page = PAGES - 2;
    rig.fill(page, 2)?;
    let hit = strike::under_reader(&mut rig, &mut host, page, 2)?;
    ensure!(hit.seen == Seen::Lost, "{hit:?}");
    Ok(())
}

fn both(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    let mut rig = rig(cx, "guest+host", 8)?;
    ensure!(stat("host_used")? * 2 * crate::PAGE == rig.mirror.number("current")?);
    strike::must_survive(&mut rig, &mut host, 0, 1)?;
    for page in 1..4 {
        let before = rig.counters()?;
        let frame = rig.frame(page)?;
        let replica = mirror::replica_of(frame)?;
        let (replica, _) = replica.context("no replica in the region")?;
        host.poison(replica)?;
        wait::until("the region's replica is lost", BOUND, || {
            Ok(rig.counters()?.replica_lost > before.replica_lost)
        })?;
        ensure!(rig.frame(page)? == frame, "the primary has moved");
        rig.must_be_mirrored(page)?;
        strike::must_survive(&mut rig, &mut host, page, 1)?;
    }
    rig.fill(4, 2)?;
    rig.sync()?;
    strike::must_survive(&mut rig, &mut host, 4, 2)?;
    Ok(())
}

fn absent(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    let mut rig = Rig::synced(cx, 8)?;
    ensure!(stat("host_connected")? == 0);
    for place in ["host", "guest+host"] {
        let error = rig.mirror.try_set("store", place).err();
        let error = error.and_then(|error| error.raw_os_error());
        ensure!(error == Some(Errno::ENODEV as i32), "{place}: {error:?}");
    }
    strike::must_survive(&mut rig, &mut host, 0, 1)?;
    ensure!(stat("host_requests")? == 0, "somebody was asked");
    Ok(())
}

/// Waits until the service is lost, with so many replicas at least.
fn lost(sessions: u64, before: u64, replicas: u64) -> Result<()> {
    wait::until("the service is lost", BOUND, || {
        Ok(stat("host_connected")? == 0 || stat("host_sessions")? > sessions)
    })?;
    wait::until("what it held counts as lost", BOUND, || {
        Ok(stat("host_lost")? >= before + replicas)
    })
}

/// The service dies while it stores a page of a victim with so many. The epoch comes back although nobody
/// answers, and nothing is restored from what the service held. Says after how many sessions that was.
fn die_in_store(rig: &mut Rig, host: &mut Host, pages: u64) -> Result<u64> {
    let (sessions, before) = (stat("host_sessions")?, stat("host_lost")?);
    rig.fill(5, 2)?;
    host.order("kmirrord kill-after write")?;
    let start = Instant::now();
    rig.sync()?;
    let took = start.elapsed();
    host.order("kmirrord killed")?;
    println!("the epoch has taken {} ms", took.as_millis());
    ensure!(took < BOUND / 2, "it has hung for {} s", took.as_secs());
    // The replica of page 5 was dropped before it was to be stored again.
    lost(sessions, before, pages - 1)?;
    let hit = strike::under_reader(rig, host, 6, 1)?;
    ensure!(
        hit.seen == Seen::Lost,
        "restored from a service that was lost: {hit:?}"
    );
    Ok(sessions)
}

fn killed_in_store(cx: &Context) -> Result<()> {
    const PAGES: u64 = 16;
    let mut host = Host::connect()?;
    let mut rig = rig(cx, "host", PAGES)?;
    let sessions = die_in_store(&mut rig, &mut host, PAGES)?;
    for page in 0..PAGES {
        rig.must_not_be_mirrored(page)?;
    }
    host.order("kmirrord start")?;
    again(sessions)?;
    rig.fill(6, 3)?;
    rig.sync()?;
    for (page, version) in [(5, 2), (6, 3), (7, 1)] {
        rig.must_be_mirrored(page)?;
        strike::must_survive(&mut rig, &mut host, page, version)?;
    }
    Ok(())
}

fn killed_again(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    let mut rig = rig(cx, "guest+host", 16)?;
    for round in 0..3 {
        let (sessions, before) = (stat("host_sessions")?, stat("host_lost")?);
        rig.sync()?;
        let held = stat("host_used")?;
        ensure!(held >= 16, "round {round}: {held} replicas at the host");
        host.order("kmirrord kill")?;
        lost(sessions, before, held)?;
        // The region has a replica of each.
        strike::must_survive(&mut rig, &mut host, round, 1)?;
        host.order("kmirrord start")?;
        again(sessions)?;
        rig.sync()?;
        rig.must_be_mirrored(round)?;
        strike::must_survive(&mut rig, &mut host, round, 1)?;
    }
    Ok(())
}

fn lost_for_good(cx: &Context) -> Result<()> {
    const PAGES: u64 = 16;
    let mut host = Host::connect()?;
    let mut rig = rig(cx, "host", PAGES)?;
    let sessions = die_in_store(&mut rig, &mut host, PAGES)?;
    // QEMU does not take the next one.
    host.order("kmirrord start")?;
    rig.sync()?;
    ensure!(rig.mirror.stat("no_host")? >= PAGES - 1);
    rig.must_not_be_mirrored(7)?;
    rig.mirror.set("store", "guest")?;
    rig.sync()?;
    strike::must_survive(&mut rig, &mut host, 7, 1)?;
    ensure!(stat("host_connected")? == 0 && stat("host_sessions")? == sessions);
    Ok(())
}
