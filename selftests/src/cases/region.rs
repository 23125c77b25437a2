// SPDX-License-Identifier: GPL-2.0

//! The memory for replicas: growing, shrinking, and being short of it.

use crate::case::{Case, Context};
use crate::inject::Door;
use crate::mirror;
use crate::module::REGION;
use crate::rig::Rig;
use crate::{file, wait, PAGE};
use anyhow::{ensure, Result};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "region_full",
        "a page without room for its replica is counted and left alone; the others are covered",
        full,
    ),
    Case::new(
        "mirror_max",
        "a cgroup has no more replicas than mirror.max allows",
        limited,
    ),
    Case::new(
        "region_resize",
        "the region grows and shrinks by what is asked, or not at all",
        resize,
    ),
    Case::new(
        "region_shrink_in_use",
        "replicas in memory that is given back are dropped, and PG_mirrored with them",
        shrink_in_use,
    ),
];

/// The smallest region: one block.
const BLOCK: u64 = 2 << 20;

/// Of the first so many pages, some that are mirrored, and some that are not.
fn sort(rig: &Rig, pages: u64) -> Result<(Vec<u64>, Vec<u64>)> {
    let (mut yes, mut no) = (Vec::new(), Vec::new());
    for page in 0..pages {
        if rig.is_mirrored(page)? {
            yes.push(page);
        } else {
            no.push(page);
        }
    }
    Ok((yes, no))
}

/// Mirrored pages come back, the others are lost.
fn must_be_as_flagged(rig: &mut Rig, pages: u64) -> Result<()> {
    let (covered, bare) = sort(rig, pages)?;
    for (&page, door) in covered.iter().zip(Door::ALL) {
        rig.must_restore(door, page, 1)?;
    }
    for (&page, door) in bare.iter().rev().zip(Door::ALL) {
        rig.must_lose(door, page)?;
    }
    Ok(())
}

fn full(cx: &Context) -> Result<()> {
    mirror::resize(BLOCK)?;
    let slots = BLOCK / PAGE;
    let mut rig = Rig::new(cx, slots * 2)?;
    rig.sync()?;
    ensure!(
        rig.mirror.stat("no_space")? >= slots,
        "{}",
        rig.mirror.get("stat")?
    );
    ensure!(mirror::region("free")? < BLOCK / 8, "room is left");
    let coverage = rig.mirror.number("coverage")?;
    ensure!((200_000..600_000).contains(&coverage), "{coverage} ppm");
    let (covered, bare) = sort(&rig, slots * 2)?;
    ensure!(!covered.is_empty() && bare.len() as u64 >= slots / 2);
    must_be_as_flagged(&mut rig, slots * 2)?;

    // With room enough nothing is left out.
    mirror::resize(REGION)?;
    rig.sync()?;
    ensure!(rig.mirror.stat("no_space")? == 0);
    rig.must_be_mirrored(slots * 2 - 20)
}

fn limited(cx: &Context) -> Result<()> {
    let mut rig = Rig::new(cx, 256)?;
    rig.mirror.set("max", &(64 * PAGE).to_string())?;
    rig.sync()?;
    let current = rig.mirror.number("current")?;
    ensure!((1..=64 * PAGE).contains(&current), "{current} bytes");
    must_be_as_flagged(&mut rig, 256)?;

    rig.mirror.set("max", "max")?;
    rig.sync()?;
    rig.must_be_mirrored(100)?;
    ensure!(rig.mirror.number("current")? >= 240 * PAGE);

    // Lowered, it is kept at once.
    rig.mirror.set("max", &(32 * PAGE).to_string())?;
    let current = rig.mirror.number("current")?;
    ensure!(current <= 32 * PAGE, "{current} bytes");
    must_be_as_flagged(&mut rig, 200)?;
    rig.mirror.set("max", "0")?;
    ensure!(rig.mirror.number("current")? == 0);
    rig.sync()?;
    ensure!(rig.mirror.number("current")? == 0);
    Ok(())
}

fn resize(_: &Context) -> Result<()> {
    let total = || mirror::region("total");
    let start = total()?;
    let free = file::meminfo("MemFree")?;
    mirror::resize(start + (96 << 20))?;
    ensure!(total()? == start + (96 << 20), "{}", total()?);
    let taken = free.saturating_sub(file::meminfo("MemFree")?);
    ensure!(taken >= 80 << 10, "only {taken} kB were taken for 96 MiB");
    // Never more than was asked for.
    mirror::resize(start + BLOCK * 3 / 2)?;
    ensure!(
        (start..=start + BLOCK * 3 / 2).contains(&total()?),
        "{}",
        total()?
    );
    // Freed page by page, they lie for a while in the lists of the CPUs, which are not counted.
    wait::until("the memory is given back", wait::BOUND, || {
        let back = file::meminfo("MemFree")?.saturating_sub(free - taken);
        Ok(back >= 80 << 10)
    })?;

    // More than there is: nothing changes.
    let before = (total()?, mirror::region("free")?);
    for bytes in [1 << 40, file::meminfo("MemTotal")? << 10] {
        match mirror::resize(bytes) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {}
            other => anyhow::bail!("{bytes} bytes: {other:?}"),
        }
        ensure!(
            (total()?, mirror::region("free")?) == before,
            "{bytes} bytes have changed it"
        );
    }

    mirror::resize(0)?;
    ensure!(total()? == 0 && mirror::region("free")? == 0);
    mirror::resize(start)?;
    ensure!(total()? == start);
    Ok(())
}

fn shrink_in_use(cx: &Context) -> Result<()> {
    const PAGES: u64 = 1400;
    let mut rig = Rig::synced(cx, PAGES)?;
    mirror::resize(BLOCK)?;
    ensure!(mirror::region("total")? <= BLOCK);
    let (covered, bare) = sort(&rig, PAGES)?;
    ensure!(
        covered.len() as u64 <= BLOCK / PAGE,
        "{} pages are mirrored",
        covered.len()
    );
    println!("{} pages kept their replicas", covered.len());
    ensure!(!bare.is_empty());
    must_be_as_flagged(&mut rig, PAGES)?;

    mirror::resize(0)?;
    let (covered, _) = sort(&rig, PAGES / 2)?;
    ensure!(covered.is_empty(), "mirrored without a region: {covered:?}");
    rig.sync()?;
    rig.must_not_be_mirrored(20)?;
    rig.must_lose(Door::Fail, 20)?;
    mirror::resize(REGION)?;
    rig.sync()?;
    rig.must_restore(Door::Fail, 21, 1)?;
    Ok(())
}
