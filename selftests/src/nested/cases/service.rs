// SPDX-License-Identifier: GPL-2.0

//! kmirrord in L1: the doorbell, replicas that it holds, frames that it heals, and its end.

use crate::case::{skip, Case, Context};
use crate::cases::huge::huge_rig;
use crate::cases::service::connected;
use crate::memory::{Mapping, Seen};
use crate::mirror::{self, stat};
use crate::nested::port::Host;
use crate::nested::strike::{self, Met};
use crate::pagemap::{self, Entry, HWPOISON};
use crate::rig::Rig;
use crate::rng::Rng;
use crate::wait::{self, BOUND};
use crate::{file, module};
use anyhow::{bail, ensure, Context as _, Result};
use nix::errno::Errno;
use std::path::Path;
use std::time::Instant;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "doorbell",
        "the hypercall: HostQueue::kick() here, kvm_kmirror_kick() there",
        doorbell,
    ),
    Case::new(
        "doorbell_unknown",
        "HostQueue::kick() tries the hypercall once, and notifies from then on",
        doorbell_unknown,
    ),
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
        "killed_in_store",
        "what the service held is not believed in any more: Store::host_gone(); the relay",
        killed_in_store,
    )
    .limit(120),
    Case::new(
        "killed_in_heal",
        "a HEAL that was half done is done again: the relay, and Code::Instance in heal::replace()",
        killed_in_heal,
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
    Case::new(
        "region_elsewhere",
        "RegionSpec: the mirror region is in memory of its own, and node 0 is restored from it",
        region_elsewhere,
    ),
    Case::new(
        "heal_huge",
        "look_around(), and the service's replace_huge(): all frames behind a lost huge page come back",
        heal_huge,
    )
    .limit(240),
];

/// A victim whose replicas are in `place`, and current.
fn rig(cx: &Context, place: &str, pages: u64) -> Result<Rig> {
    connected()?;
    let rig = Rig::new(cx, pages)?;
    rig.mirror.set("store", place)?;
    rig.sync()?;
    for page in 0..pages {
        rig.must_be_mirrored(page)?;
    }
    Ok(rig)
}

/// How often the service was rung for: what L1's KVM has seen, and what kmirror has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rung {
    kicks: u64,
    hypercalls: u64,
    notifications: u64,
}

impl Rung {
    fn now(host: &mut Host) -> Result<Self> {
        Ok(Self {
            kicks: host.number("kicks")?,
            hypercalls: stat("kicks_hypercall")?,
            notifications: stat("kicks_notify")?,
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            kicks: self.kicks - before.kicks,
            hypercalls: self.hypercalls - before.hypercalls,
            notifications: self.notifications - before.notifications,
        }
    }
}

fn doorbell(cx: &Context) -> Result<()> {
    const PAGES: u64 = 64;
    let mut host = Host::connect()?;
    connected()?;
    let before = Rung::now(&mut host)?;
    let requests = stat("host_requests")?;
    let mut rig = rig(cx, "host", PAGES)?;
    let mut rung = Rung::now(&mut host)?.since(before);
    // The module asks once a second by itself, perhaps between two of these numbers.
    wait::until("both have counted the same", BOUND, || {
        rung = Rung::now(&mut host)?.since(before);
        Ok(rung.kicks == rung.hypercalls)
    })?;
    let requests = stat("host_requests")? - requests;
    println!("{requests} requests: {rung:?}");
    ensure!(requests >= PAGES, "{requests} requests for {PAGES} pages");
    ensure!(rung.hypercalls >= PAGES / 2, "{rung:?}");
    ensure!(rung.notifications == 0, "{rung:?}");
    // What was asked has been done.
    let hit = strike::under_reader(&mut rig, &mut host, 0, 1)?;
    ensure!(hit.seen == Seen::Right, "{hit:?}");
    Ok(())
}

fn doorbell_unknown(cx: &Context) -> Result<()> {
    const PAGES: u64 = 64;
    let mut host = Host::connect()?;
    connected()?;
    let before = Rung::now(&mut host)?;
    ensure!(before.kicks == 1, "not tried once: {before:?}");
    ensure!(before.hypercalls == 0, "one was answered: {before:?}");
    let _rig = rig(cx, "host", PAGES)?;
    let rung = Rung::now(&mut host)?.since(before);
    println!("after the first: {rung:?}");
    ensure!(rung.kicks == 0, "tried again: {rung:?}");
    ensure!(rung.hypercalls == 0, "{rung:?}");
    ensure!(rung.notifications >= PAGES / 2, "{rung:?}");
    Ok(())
}

/// A true machine check, which must cost nothing: frame and moment of the restore are like any
/// other's. When the frame is healed `HardwareCorrupted` falls again, so that is not looked at here.
fn must_survive(rig: &mut Rig, host: &mut Host, page: u64, version: u64) -> Result<strike::Hit> {
    let before = rig.counters()?;
    let hit = strike::under_reader(rig, host, page, version)?;
    ensure!(hit.seen == Seen::Right, "page {page}: {hit:?}");
    wait::until("the restore is counted", BOUND, || {
        Ok(rig.counters()?.restored == before.restored + 1)
    })?;
    let after = rig.counters()?;
    ensure!(
        after.unrestorable == before.unrestorable,
        "page {page}: {after:?}"
    );
    Ok(hit)
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
        let hit = must_survive(&mut rig, &mut host, page, 1)?;
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
    must_survive(&mut rig, &mut host, 0, 1)?;
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
        must_survive(&mut rig, &mut host, page, 1)?;
    }
    rig.fill(4, 2)?;
    rig.sync()?;
    must_survive(&mut rig, &mut host, 4, 2)?;
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
    must_survive(&mut rig, &mut host, 0, 1)?;
    ensure!(stat("host_requests")? == 0, "somebody was asked");
    Ok(())
}

/// Waits until no frame of an earlier case is to be healed any more. What is healed and not, then.
fn rested() -> Result<(u64, u64)> {
    wait::until("all frames have been dealt with", BOUND, || {
        Ok(stat("healing")? == 0)
    })?;
    Ok((stat("healed")?, stat("not_healed")?))
}

/// Waits until so many frames more than `before` are healed, and fails if one is not.
fn healed(before: (u64, u64), more: u64) -> Result<()> {
    wait::until("the frames are healed", BOUND * 2, || {
        let now = (stat("healed")?, stat("not_healed")?);
        ensure!(
            now.1 == before.1,
            "{} frames could not be healed",
            now.1 - before.1
        );
        Ok(now.0 >= before.0 + more)
    })
}

fn heal(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    let mut rig = Rig::synced(cx, 8)?;
    for page in 0..3 {
        let before = rested()?;
        let corrupted = pagemap::corrupted_kb()?;
        let old = must_survive(&mut rig, &mut host, page, 1)?.old;
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

/// Lets the victim take memory until it gets the frame, which must then be as good as any other.
fn reuse(rig: &mut Rig, frame: u64) -> Result<()> {
    let result = rig.victim.call(
        |_, frame, _| {
            const CHUNK: u64 = 256;
            let table = pagemap::Table::of(i32::try_from(std::process::id())?)?;
            let mut taken = Vec::new();
            let mut found = None;
            'search: for _ in 0..128 {
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
        let page = rng.below(PAGES);
        let at = page as usize;
        if round % 10 == 9 {
            version[at] += 1;
            rig.fill(page, version[at])?;
            rig.sync()?;
        }
        if !rig.is_mirrored(page)? {
            rig.sync()?;
            rig.must_be_mirrored(page)?;
        }
        let hit = must_survive(&mut rig, &mut host, page, version[at])
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

/// Waits until the service is lost, with so many replicas at least.
fn lost(sessions: u64, before: u64, replicas: u64) -> Result<()> {
    wait::until("the service is lost", BOUND, || {
        Ok(stat("host_connected")? == 0 || stat("host_sessions")? > sessions)
    })?;
    wait::until("what it held counts as lost", BOUND, || {
        Ok(stat("host_lost")? >= before + replicas)
    })
}

/// Waits for the session after so many.
fn again(sessions: u64) -> Result<()> {
    wait::until("another session", BOUND * 2, || {
        Ok(stat("host_connected")? == 1 && stat("host_sessions")? > sessions)
    })
}

fn killed_in_store(cx: &Context) -> Result<()> {
    const PAGES: u64 = 16;
    let mut host = Host::connect()?;
    let mut rig = rig(cx, "host", PAGES)?;
    let (sessions, before) = (stat("host_sessions")?, stat("host_lost")?);
    rig.fill(5, 2)?;
    host.order("kmirrord kill-after write")?;
    // Comes back, although nobody answers.
    let start = Instant::now();
    rig.sync()?;
    let took = start.elapsed();
    host.order("kmirrord killed")?;
    println!("the epoch has taken {} ms", took.as_millis());
    ensure!(took < BOUND / 2, "it has hung for {} s", took.as_secs());
    // The replica of page 5 was dropped before it was to be stored again.
    lost(sessions, before, PAGES - 1)?;
    for page in 0..PAGES {
        rig.must_not_be_mirrored(page)?;
    }
    let hit = strike::under_reader(&mut rig, &mut host, 6, 1)?;
    ensure!(
        hit.seen == Seen::Lost,
        "restored from a service that was lost: {hit:?}"
    );
    host.order("kmirrord start")?;
    again(sessions)?;
    rig.fill(6, 3)?;
    rig.sync()?;
    for (page, version) in [(5, 2), (6, 3), (7, 1)] {
        rig.must_be_mirrored(page)?;
        must_survive(&mut rig, &mut host, page, version)?;
    }
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
        let old = must_survive(&mut rig, &mut host, page, 1)?.old;
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
        must_survive(&mut rig, &mut host, round, 1)?;
        host.order("kmirrord start")?;
        again(sessions)?;
        rig.sync()?;
        rig.must_be_mirrored(round)?;
        must_survive(&mut rig, &mut host, round, 1)?;
    }
    Ok(())
}

fn lost_for_good(cx: &Context) -> Result<()> {
    const PAGES: u64 = 16;
    let mut host = Host::connect()?;
    let mut rig = rig(cx, "host", PAGES)?;
    let (sessions, before) = (stat("host_sessions")?, stat("host_lost")?);
    rig.fill(5, 2)?;
    host.order("kmirrord kill-after write")?;
    let start = Instant::now();
    rig.sync()?;
    host.order("kmirrord killed")?;
    lost(sessions, before, PAGES - 1)?;
    let took = start.elapsed();
    ensure!(took < BOUND, "{} s", took.as_secs());
    let hit = strike::under_reader(&mut rig, &mut host, 6, 1)?;
    ensure!(
        hit.seen == Seen::Lost,
        "restored from a service that was lost: {hit:?}"
    );
    // QEMU does not take the next one.
    host.order("kmirrord start")?;
    rig.sync()?;
    ensure!(rig.mirror.stat("no_host")? >= PAGES - 1);
    rig.must_not_be_mirrored(7)?;
    rig.mirror.set("store", "guest")?;
    rig.sync()?;
    must_survive(&mut rig, &mut host, 7, 1)?;
    ensure!(stat("host_connected")? == 0 && stat("host_sessions")? == sessions);
    Ok(())
}

/// Which node of L2 a frame is on.
fn node_of(frame: u64) -> Result<u64> {
    // Blocks of memory, as they can be hot-plugged.
    let block = file::read("/sys/devices/system/memory/block_size_bytes")?;
    let block = u64::from_str_radix(block.trim(), 16)?;
    let name = format!("memory{}", frame * crate::PAGE / block);
    for node in 0..2 {
        if Path::new(&format!("/sys/devices/system/node/node{node}/{name}")).exists() {
            return Ok(node);
        }
    }
    bail!("{name} is on no node")
}

fn region_elsewhere(cx: &Context) -> Result<()> {
    const REGION: &str = "region=64M@1";
    if !Path::new("/sys/devices/system/node/node1").exists() {
        skip!("one node");
    }
    let mut host = Host::connect()?;
    module::unload("kmirror").context("unloading kmirror")?;
    module::load_kmirror(REGION)?;
    ensure!(mirror::region("total")? == module::REGION, "{REGION}");
    let mut rig = Rig::new(cx, 16)?;
    // The victim's memory is where the program is: on node 0, which is the only one with a processor.
    rig.sync()?;
    for page in 0..16 {
        rig.must_be_mirrored(page)?;
        let frame = rig.frame(page)?;
        let (replica, _) = mirror::replica_of(frame)?.context("no replica is listed")?;
        ensure!(node_of(frame)? == 0, "page {page} is in frame {frame:#x}");
        ensure!(
            node_of(replica)? == 1,
            "its replica is in frame {replica:#x}"
        );
    }
    // Node 0 breaks.
    for page in 0..4 {
        must_survive(&mut rig, &mut host, page, 1)?;
    }
    // The region's memory breaks.
    for page in 4..8 {
        let before = rig.counters()?;
        let frame = rig.frame(page)?;
        let (replica, _) = mirror::replica_of(frame)?.context("no replica is listed")?;
        host.poison(replica)?;
        wait::until("the replica is dropped", BOUND, || {
            Ok(rig.counters()?.replica_lost > before.replica_lost)
        })?;
        rig.must_be(page, 1)?;
        rig.sync()?;
        rig.must_be_mirrored(page)?;
        must_survive(&mut rig, &mut host, page, 1)?;
    }
    Ok(())
}

fn heal_huge(cx: &Context) -> Result<()> {
    const PAGES: u64 = 512;
    let mut host = Host::connect()?;
    connected()?;
    // One huge page of the victim is behind one of the host's: nobody else is hit.
    let mut rig = huge_rig(cx, "victim", PAGES, false)?;
    let first = rig.frame(0)?;
    let backing = host.number(&format!("page {first}"))?;
    ensure!(
        backing == 2 << 20,
        "the memory of L2 is in pages of {backing} bytes"
    );
    ensure!(first % PAGES == 0, "frame {first:#x} begins no huge page");
    let before = rested()?;
    let corrupted = pagemap::corrupted_kb()?;
    let counters = rig.counters()?;
    let checks = strike::machine_checks()?;
    host.poison(first + 7)?;
    // Nobody reads another page: the module itself looks for what else is lost.
    rig.must_be(7, 1)?;
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
