// SPDX-License-Identifier: GPL-2.0

//! The region gives way: to memory that is taken out, and to those who would be killed for want of it.

use crate::case::{skip, Case, Context};
use crate::inject::Door;
use crate::memory::Mapping;
use crate::pagemap::{self, OFFLINE};
use crate::rig::{must_be_empty, Rig};
use crate::victim::Victim;
use crate::{file, mirror, wait, PAGE};
use anyhow::{bail, ensure, Context as _, Result};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "memory_offline",
        "the region leaves memory that goes offline, with its replicas",
        offline,
    )
    .limit(180),
    Case::new(
        "out_of_memory",
        "the region gives memory back before a process is killed for want of it",
        out_of_memory,
    )
    .limit(180),
];

const BLOCK: u64 = 2 << 20;

/// A part of the memory that can go offline and online as a whole. It is online again when the value
/// goes.
struct Part {
    dir: PathBuf,
    frames: Range<u64>,
}

impl Part {
    /// All of them that are online.
    fn all() -> Result<Vec<Self>> {
        let root = Path::new("/sys/devices/system/memory");
        let Ok(size) = file::read(root.join("block_size_bytes")) else {
            return Ok(Vec::new());
        };
        let size = u64::from_str_radix(size.trim(), 16)? / PAGE;
        let mut parts = Vec::new();
        for entry in fs::read_dir(root)? {
            let dir = entry?.path();
            let number = dir.file_name().and_then(|name| name.to_str());
            let Some(number) = number.and_then(|name| name.strip_prefix("memory")) else {
                continue;
            };
            let number: u64 = number.parse()?;
            if file::read(dir.join("state"))?.trim() == "online" {
                parts.push(Self {
                    dir,
                    frames: number * size..(number + 1) * size,
                });
            }
        }
        Ok(parts)
    }

    /// How many frames of the region are in it.
    fn of_region(&self) -> Result<u64> {
        pagemap::count_flags_in(self.frames.clone(), OFFLINE)
    }

    fn offline(&self) -> std::io::Result<()> {
        file::try_write(self.dir.join("state"), "offline")
    }

    fn online(&self) -> Result<()> {
        file::write(self.dir.join("state"), "online")
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if file::read(self.dir.join("state")).is_ok_and(|state| state.trim() == "offline") {
            let _ = self.online();
        }
    }
}

fn offline(cx: &Context) -> Result<()> {
    const PAGES: u64 = 1024;
    let mut parts = Part::all()?;
    if parts.is_empty() {
        skip!("no memory can go offline");
    }
    // Enough for whole parts to be of the region alone.
    mirror::resize((file::meminfo("MemAvailable")? << 10) / 5 * 3)?;
    let total = mirror::region("total")?;
    let mut rig = Rig::synced(cx, PAGES)?;
    let mut seen = 0;
    for part in &parts {
        seen += part.of_region()?;
    }
    ensure!(seen * PAGE == total, "{seen} frames are {total} bytes");

    // First the one with most replicas, of those that are mostly of the region.
    let mut held = Vec::new();
    for part in parts.drain(..) {
        if part.of_region()? * 4 >= (part.frames.end - part.frames.start) * 3 {
            held.push((replicas_in(&part)?, part));
        }
    }
    held.sort_by_key(|(replicas, _)| u64::MAX - replicas);
    ensure!(!held.is_empty(), "the region is in bits and pieces");
    let gone = held.iter().find(|(_, part)| part.offline().is_ok());
    let Some((replicas, gone)) = gone else {
        bail!("none of {} parts of the memory goes offline", held.len());
    };
    println!(
        "{} went offline, with {replicas} replicas",
        gone.dir.display()
    );

    ensure!(replicas_in(gone)? == 0, "replicas are where no memory is");
    let left = mirror::region("total")?;
    ensure!(left <= total, "{left} bytes, of {total}");
    let mut dropped = 0;
    for page in 0..PAGES {
        if !rig.is_mirrored(page)? {
            dropped += 1;
        }
    }
    ensure!(
        dropped <= *replicas,
        "{dropped} pages have lost the flag, for {replicas} replicas"
    );
    rig.sync()?;
    for page in 0..PAGES {
        rig.must_be_mirrored(page)?;
    }
    for (page, door) in (0..).zip(Door::ALL) {
        rig.must_restore(door, page, 1)?;
    }

    gone.online()?;
    mirror::resize(total)?;
    rig.sync()?;
    for (page, door) in (8..).zip(Door::ALL) {
        rig.must_restore(door, page, 1)?;
    }
    rig.mirror.set("mode", "off")?;
    must_be_empty()
}

/// How many replicas are in a part of the memory.
fn replicas_in(part: &Part) -> Result<u64> {
    let mut count = 0;
    for line in file::read("/sys/kernel/debug/kmirror/replicas")?.lines() {
        let frame = line.split(' ').nth(1).context("a short line")?;
        if !frame.contains(':') {
            count += u64::from(part.frames.contains(&frame.parse()?));
        }
    }
    Ok(count)
}

fn out_of_memory(cx: &Context) -> Result<()> {
    const PAGES: u64 = 1024;
    const STEP: u64 = 16 << 20;
    let killed = || file::keyed("/proc/vmstat", "oom_kill");
    let size = (file::meminfo("MemAvailable")? << 10) / 2 / BLOCK * BLOCK;
    mirror::resize(size)?;
    let mut rig = Rig::synced(cx, PAGES)?;
    let before = killed()?;

    let mut hog = Victim::start(&cx.cgroup.child("hog")?, 1, 1)?;
    // If somebody is killed, then he.
    file::write(format!("/proc/{}/oom_score_adj", hog.pid), "1000")?;
    let most = (file::meminfo("MemTotal")? << 10) / STEP;
    let mut taken = 0;
    while mirror::region("total")? > size / 2 {
        ensure!(
            taken < most,
            "{taken} steps, and the region has not changed"
        );
        hog.call(take, STEP / PAGE, 0)
            .with_context(|| format!("after {taken} steps"))?;
        taken += 1;
    }
    let left = mirror::region("total")?;
    ensure!(killed()? == before, "{} were killed", killed()? - before);
    drop(hog);
    println!("{size} bytes of the region have become {left}");

    // Those with the fewest replicas went first, so all are there.
    for page in 0..PAGES {
        rig.must_be_mirrored(page)?;
    }
    for (page, door) in (0..).zip(Door::ALL) {
        rig.must_restore(door, page, 1)?;
    }
    // It stays as it is, until somebody wants more. It may have given more while the hog went.
    let now = mirror::region("total")?;
    ensure!(now <= left, "it has grown from {left} to {now}");
    wait::until("there is memory for it again", wait::BOUND, || {
        Ok(mirror::resize(size).is_ok())
    })?;
    ensure!(mirror::region("total")? == size);
    Ok(())
}

/// Takes so many pages more.
fn take(_: &mut crate::victim::Scene, pages: u64, _: u64) -> Result<u64> {
    let more = Mapping::untouched(pages)?;
    more.advise(0, pages, libc::MADV_POPULATE_WRITE)?;
    Ok(0)
}
