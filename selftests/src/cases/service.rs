// SPDX-License-Identifier: GPL-2.0

//! Replicas that a service on the host keeps, and the ways in which it can fail. The service is
//! tools/service.py, which does what it is told. Run by tools/test-service; the
//! real service is tested in the nested rig.

use super::replica::replica;
use crate::case::{Case, Context};
use crate::inject::{self, Door};
use crate::kmsg::Log;
use crate::memory::Seen;
use crate::mirror::stat;
use crate::rig::Rig;
use crate::wait::{self, until, BOUND};
use crate::{file, mirror, pagemap};
use anyhow::{bail, ensure, Result};
use nix::errno::Errno;
use nix::poll::PollFlags;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "service_keeps",
        "HostDepot: what was stored comes back, and takes none of the region",
        keeps,
    ),
    Case::new(
        "service_both",
        "Store::fill() takes the host's replica when the region's is lost",
        both,
    ),
    Case::new(
        "service_limit",
        "replicas at the host count for mirror.max and mirror.current",
        limit,
    ),
    Case::new(
        "service_flips_bytes",
        "Depot::fill() compares the hash of what has arrived with its own",
        flips,
    ),
    Case::new(
        "service_dies",
        "Store::host_gone() drops what the last instance held",
        dies,
    ),
    Case::new(
        "service_hangs",
        "HostQueue::wait() gives up, and the buffer stays with the device",
        hangs,
    ),
    Case::new(
        "service_rubbish",
        "AnswerHeader::parse() and Host::lose()",
        rubbish,
    ),
    Case::new(
        "service_dies_both",
        "Store::host_gone() leaves the flag to pages with a replica in the region; Store::complete()",
        dies_both,
    ),
    Case::new(
        "service_damaged_first",
        "Store::second() compares the hash of what was stored with that of what was copied once",
        damaged_first,
    ),
    Case::new(
        "service_lies_about_heal",
        "memory_mirror_reuse() reads the frame before it gives it back",
        lies,
    ),
    Case::new(
        "service_heals",
        "heal::run() and memory_mirror_reuse(); mirror_echo() when the error is reported again",
        heals,
    ),
    // The last: it does not come back.
    Case::new(
        "service_gone",
        "HostQueue::wait() gives up; no_host is why nothing is copied",
        gone,
    ),
];

/// Whether the guest has the device of a host service.
pub(super) fn is_there() -> bool {
    let devices = fs::read_dir("/sys/bus/virtio/devices");
    devices
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| file::read(entry.path().join("device")).is_ok_and(|id| id.trim() == "0x0026"))
}

/// Tells the service what to do, and waits until it does.
fn tell(word: &str) -> Result<()> {
    for port in fs::read_dir("/sys/class/virtio-ports")?.flatten() {
        if file::read(port.path().join("name"))?.trim() != "kmirror.service" {
            continue;
        }
        let device = Path::new("/dev").join(port.file_name());
        let mut port = fs::File::options().read(true).write(true).open(device)?;
        writeln!(port, "{word}")?;
        ensure!(wait::ready(port.as_fd(), PollFlags::POLLIN, BOUND)?);
        let mut answer = vec![0; word.len() + 1];
        port.read_exact(&mut answer)?;
        ensure!(answer == format!("{word}\n").as_bytes(), "{answer:?}");
        return Ok(());
    }
    bail!("there is no port of the service")
}

/// Waits until there is a session.
pub(crate) fn connected() -> Result<()> {
    until("a session with the service", BOUND, || {
        Ok(stat("host_connected")? == 1)
    })
}

/// Waits until there is another session than the first `sessions`.
pub(crate) fn again(sessions: u64) -> Result<()> {
    until("another session", BOUND * 2, || {
        Ok(stat("host_connected")? == 1 && stat("host_sessions")? > sessions)
    })
}

/// A victim whose replicas are in `place`, and current.
fn rig(cx: &Context, word: &str, place: &str, pages: u64) -> Result<Rig> {
    tell(word)?;
    connected()?;
    let rig = Rig::new(cx, pages)?;
    rig.mirror.set("store", place)?;
    ensure!(rig.mirror.get("store")? == place);
    rig.sync()?;
    for page in 0..pages {
        rig.must_be_mirrored(page)?;
    }
    Ok(rig)
}

fn keeps(cx: &Context) -> Result<()> {
    let free = mirror::region("free")?;
    let mut rig = rig(cx, "no_heal", "host", 32)?;
    ensure!(mirror::region("free")? == free, "the region is used");
    ensure!(stat("host_used")? * crate::PAGE == rig.mirror.number("current")?);
    for (page, door) in (0..).zip(Door::ALL) {
        rig.must_restore(door, page, 1)?;
    }
    rig.fill(9, 2)?;
    rig.must_refuse(Door::Fail, 9)?;
    rig.fill(10, 2)?;
    rig.sync()?;
    rig.must_restore(Door::Mce, 10, 2)?;
    // Elsewhere from now on: nothing is left at the host.
    rig.mirror.set("store", "guest")?;
    rig.sync()?;
    ensure!(stat("host_used")? == 0);
    rig.must_restore(Door::Fail, 11, 1)?;
    rig.sync()?;
    // In both: those in the region stay, and the others are made from them.
    let copied = rig.mirror.stat("copied")?;
    rig.mirror.set("store", "guest+host")?;
    for page in 12..32 {
        rig.must_be_mirrored(page)?;
    }
    rig.sync()?;
    ensure!(stat("host_used")? * 2 * crate::PAGE == rig.mirror.number("current")?);
    let copied = rig.mirror.stat("copied")? - copied;
    ensure!(copied < 16, "{copied} pages were copied again");
    Ok(())
}

fn both(cx: &Context) -> Result<()> {
    let mut rig = rig(cx, "no_heal", "guest+host", 16)?;
    ensure!(stat("host_used")? * 2 * crate::PAGE == rig.mirror.number("current")?);
    rig.must_restore(Door::Fail, 0, 1)?;
    let replica = replica(&rig, 1)?;
    inject::strike(&rig.cgroup, "fail", replica)??;
    ensure!(rig.mirror.event("replica_lost")? == 1);
    rig.must_be_mirrored(1)?;
    rig.must_restore(Door::Fail, 1, 1)?;
    // Written, and copied to both again.
    rig.fill(2, 2)?;
    rig.sync()?;
    rig.must_restore(Door::Mce, 2, 2)?;
    Ok(())
}

fn limit(cx: &Context) -> Result<()> {
    let rig = rig(cx, "no_heal", "guest+host", 64)?;
    let current = rig.mirror.number("current")?;
    ensure!(current >= 2 * 64 * crate::PAGE, "{current}");
    rig.mirror.set("max", "131072")?;
    ensure!(rig.mirror.number("current")? <= 131_072);
    rig.sync()?;
    ensure!(rig.mirror.number("current")? <= 131_072);
    ensure!(rig.mirror.stat("over_limit")? > 0);
    Ok(())
}

fn flips(cx: &Context) -> Result<()> {
    let mut rig = rig(cx, "flip", "host", 8)?;
    rig.must_refuse(Door::Fail, 3)?;
    // The region's replica is as good as ever.
    rig.mirror.set("store", "guest+host")?;
    rig.sync()?;
    rig.must_restore(Door::Fail, 4, 1)?;
    Ok(())
}

/// Makes the service fail while it stores. Protection of what it keeps is lost, and comes back.
fn fails(cx: &Context, word: &str) -> Result<Rig> {
    let mut rig = rig(cx, "no_heal", "host", 16)?;
    let sessions = stat("host_sessions")?;
    rig.fill(5, 2)?;
    tell(word)?;
    rig.sync()?;
    until("the service is lost", BOUND, || {
        Ok(stat("host_connected")? == 0 || stat("host_sessions")? > sessions)
    })?;
    let seen = rig.must_not_lie(Door::Fail, 6, 1)?;
    ensure!(seen == Seen::Lost, "restored from a service that was lost");
    tell("no_heal")?;
    again(sessions)?;
    rig.sync()?;
    rig.must_restore(Door::Fail, 5, 2)?;
    rig.must_restore(Door::Mce, 7, 1)?;
    Ok(rig)
}

fn dies(cx: &Context) -> Result<()> {
    fails(cx, "die")?;
    Ok(())
}

fn hangs(cx: &Context) -> Result<()> {
    let timeouts = stat("host_timeouts")?;
    fails(cx, "hang")?;
    ensure!(stat("host_timeouts")? > timeouts);
    Ok(())
}

fn rubbish(cx: &Context) -> Result<()> {
    let before = stat("host_rubbish")?;
    fails(cx, "rubbish")?;
    ensure!(stat("host_rubbish")? > before);
    Ok(())
}

fn dies_both(cx: &Context) -> Result<()> {
    const PAGES: u64 = 64;
    let mut rig = rig(cx, "no_heal", "guest+host", PAGES)?;
    let sessions = stat("host_sessions")?;
    rig.fill(5, 2)?;
    tell("die")?;
    rig.sync()?;
    for (page, version) in [(5, 2), (6, 1), (7, 1)] {
        rig.must_restore(Door::Fail, page, version)?;
    }
    rig.sync()?;
    let copied = rig.mirror.stat("copied")?;
    tell("no_heal")?;
    again(sessions)?;
    rig.sync()?;
    // Both replicas are there again, and it was not from the pages that the second was made.
    ensure!(stat("host_used")? * 2 * crate::PAGE == rig.mirror.number("current")?);
    let copied = rig.mirror.stat("copied")? - copied;
    ensure!(copied < PAGES / 2, "{copied} pages were copied again");
    // The second is as good as the first.
    let replica = replica(&rig, 9)?;
    inject::strike(&rig.cgroup, "fail", replica)??;
    rig.must_restore(Door::Fail, 9, 1)?;
    Ok(())
}

fn damaged_first(cx: &Context) -> Result<()> {
    let mut rig = rig(cx, "no_heal", "guest+host", 16)?;
    let sessions = stat("host_sessions")?;
    rig.fill(5, 2)?;
    tell("die")?;
    rig.sync()?;
    let replica = replica(&rig, 3)?;
    // Overwritten, and nobody is told: as if it had rotted.
    inject::report("silent", replica)?;
    tell("no_heal")?;
    again(sessions)?;
    // One epoch to find it out, and one to copy the page again.
    rig.sync()?;
    rig.sync()?;
    rig.must_restore(Door::Fail, 3, 1)?;
    rig.must_restore(Door::Fail, 5, 2)?;
    Ok(())
}

/// Begins a session in which the service can heal.
fn with_heal(word: &str) -> Result<()> {
    let sessions = stat("host_sessions")?;
    if stat("host_connected")? == 1 {
        // What it can do is said at the beginning of a session only.
        crate::module::unload("kmirror")?;
        tell(word)?;
        crate::module::load_kmirror(&format!("region={}", crate::module::REGION))?;
        return connected();
    }
    tell(word)?;
    until("a session that can heal", BOUND, || {
        Ok(stat("host_sessions")? > sessions)
    })
}

fn lies(cx: &Context) -> Result<()> {
    with_heal("lie")?;
    let mut rig = Rig::synced(cx, 8)?;
    rig.must_restore(Door::Fail, 2, 1)?;
    until("the frame is given up", BOUND, || {
        Ok(stat("not_healed")? == 1)
    })?;
    ensure!(stat("healed")? == 0);
    Ok(())
}

fn heals(cx: &Context) -> Result<()> {
    with_heal("normal")?;
    let mut rig = Rig::synced(cx, 8)?;
    let before = pagemap::corrupted_kb()?;
    for (page, healed) in [(2, 1), (3, 2)] {
        let old = rig.strike(Door::Fail, page)?.old;
        rig.must_be(page, 1)?;
        until("the frame is healed", BOUND, || {
            Ok(stat("healed")? == healed)
        })?;
        ensure!(pagemap::corrupted_kb()? == before);
        ensure!(pagemap::flags(old)? & pagemap::HWPOISON == 0);
        // The same error, reported by another who was slower.
        let echo = inject::strike(&rig.cgroup, "keep_fail", old)?;
        let error = echo.err().and_then(|error| error.raw_os_error());
        ensure!(error == Some(Errno::EOPNOTSUPP as i32), "{error:?}");
        ensure!(pagemap::corrupted_kb()? == before, "an echo was believed");
    }
    ensure!(stat("not_healed")? == 0);
    Ok(())
}

/// Pages whose frames have not been healed. For ten seconds an error that is reported of a healed
/// frame is taken for an echo, if the frame reads clean: mirror_echo().
fn never_healed(rig: &Rig, pages: u64) -> Result<Vec<u64>> {
    let log = Log::from_oldest()?.lines()?;
    let mut found = Vec::new();
    for page in 0..pages {
        let healed = format!("frame {:#x} is healed", rig.frame(page)?);
        if !log.iter().any(|line| line.contains(&healed)) {
            found.push(page);
        }
    }
    Ok(found)
}

fn gone(cx: &Context) -> Result<()> {
    let mut rig = rig(cx, "no_heal", "host", 16)?;
    let pages = never_healed(&rig, 16)?;
    let [written, read, ..] = pages[..] else {
        bail!("all frames have been healed but {pages:?}");
    };
    rig.fill(written, 2)?;
    tell("gone")?;
    rig.sync()?;
    until("what it held counts as lost", BOUND, || {
        Ok(stat("host_connected")? == 0 && rig.mirror.number("coverage")? == 0)
    })?;
    rig.sync()?;
    ensure!(rig.mirror.stat("no_host")? >= 16);
    rig.must_lose(Door::Fail, read)?;
    let error = rig.mirror.try_set("store", "guest+host").err();
    ensure!(error.and_then(|error| error.raw_os_error()) == Some(Errno::ENODEV as i32));
    rig.mirror.set("store", "guest")?;
    rig.sync()?;
    rig.must_restore(Door::Fail, written, 2)?;
    Ok(())
}
