// SPDX-License-Identifier: GPL-2.0

//! Pages that are filled with one word, whose replica is that word.

use crate::case::{Case, Context};
use crate::inject::Door;
use crate::memory::{Seen, WORDS};
use crate::rig::Rig;
use crate::{file, pagemap};
use anyhow::{ensure, Result};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "filled_restore",
        "pages filled with one word come back, and take no memory for their replicas",
        restore,
    ),
    Case::new(
        "filled_then_written",
        "filled, written, filled with another word: never what was there before",
        written,
    ),
    Case::new(
        "filled_no_room",
        "where no replica is allowed any memory, filled pages are covered and others are not",
        no_room,
    ),
];

const PAGES: u64 = 1024;

/// The word that a page is filled with in these tests: many with zeros, and some with what looks like
/// a filled page to those who look at a part of each word only.
const fn filler(page: u64) -> u64 {
    match page % 4 {
        0 | 1 => 0,
        2 => 0x0101_0101_0101_0101,
        _ => 0xfeed_0000_0000_0000 | page,
    }
}

/// Lets the victim fill pages from this one on.
fn fill(rig: &mut Rig, first: u64, count: u64) -> Result<()> {
    rig.victim.call(
        |scene, first, count| {
            for page in first..first + count {
                (0..WORDS).for_each(|index| scene.mem.store(page, index, filler(page)));
            }
            Ok(0)
        },
        first,
        count,
    )?;
    Ok(())
}

/// Breaks a page, which must come back filled.
fn must_come_back(rig: &mut Rig, door: Door, page: u64) -> Result<()> {
    let before = rig.counters()?;
    let struck = rig.strike(door, page)?;
    let raw = rig.victim.call(
        |scene, page, _| Ok(scene.mem.compare(page, |_| filler(page)).to_raw()),
        page,
        0,
    )?;
    let seen = Seen::from_raw(raw);
    ensure!(seen == Seen::Right, "page {page} by {door}: {seen:?}");
    ensure!(
        rig.frame(page)? != struck.old,
        "page {page} by {door}: still the broken frame"
    );
    ensure!(pagemap::flags(struck.old)? & pagemap::HWPOISON != 0);
    ensure!(rig.counters()?.restored == before.restored + 1);
    Ok(())
}

fn restore(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, PAGES)?;
    let full = rig.mirror.number("current")?;
    ensure!(full >= PAGES * crate::PAGE, "{full} bytes of replicas");

    fill(&mut rig, 0, PAGES)?;
    rig.sync()?;
    let rest = rig.mirror.number("current")?;
    println!("{full} bytes of replicas before, {rest} with all pages filled");
    ensure!(
        rest + PAGES * crate::PAGE * 99 / 100 <= full,
        "{full} bytes before, {rest} after"
    );
    rig.must_be_mirrored(0)?;
    let listed = file::read("/sys/kernel/debug/kmirror/replicas")?;
    let listed = listed
        .lines()
        .filter(|line| line.contains(" fill:"))
        .count() as u64;
    ensure!(listed >= PAGES, "{listed} of {PAGES} are listed");

    for (page, door) in (0..8).zip(Door::ALL.into_iter().cycle()) {
        must_come_back(&mut rig, door, page)?;
    }
    // In their new frames as well.
    rig.sync()?;
    for (page, door) in (0..4).zip(Door::ALL) {
        must_come_back(&mut rig, door, page)?;
    }
    // And nothing is left of them when protection ends.
    rig.mirror.set("mode", "off")?;
    let listed = file::read("/sys/kernel/debug/kmirror/replicas")?;
    ensure!(!listed.contains(" fill:"), "still listed");
    Ok(())
}

fn written(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 64)?;
    fill(&mut rig, 0, 32)?;
    rig.sync()?;
    // One word, which the first look at a page does not look at.
    let store = |rig: &mut Rig, page| {
        rig.victim.call(
            |scene, page, _| {
                scene.mem.store(page, 100, !filler(page));
                Ok(0)
            },
            page,
            0,
        )
    };
    for (page, door) in (0..4).zip(Door::ALL) {
        store(&mut rig, page)?;
        rig.must_refuse(door, page)?;
    }
    // All but one word the same is not filled.
    for (page, door) in (4..8).zip(Door::ALL) {
        store(&mut rig, page)?;
        rig.sync()?;
        rig.strike(door, page)?;
        let raw = rig.victim.call(
            |scene, page, _| {
                let want = |index| {
                    if index == 100 {
                        !filler(page)
                    } else {
                        filler(page)
                    }
                };
                Ok(scene.mem.compare(page, want).to_raw())
            },
            page,
            0,
        )?;
        let seen = Seen::from_raw(raw);
        ensure!(seen == Seen::Right, "page {page} by {door}: {seen:?}");
    }
    // From filled to not, and back.
    for (page, door) in (8..12).zip(Door::ALL) {
        rig.fill(page, 2)?;
        rig.sync()?;
        rig.must_restore(door, page, 2)?;
        rig.sync()?;
        fill(&mut rig, page, 1)?;
        rig.sync()?;
        must_come_back(&mut rig, door, page)?;
    }
    Ok(())
}

fn no_room(cx: &Context) -> Result<()> {
    let mut rig = Rig::new(cx, 64)?;
    rig.mirror.set("max", "0")?;
    fill(&mut rig, 0, 32)?;
    rig.sync()?;
    ensure!(rig.mirror.number("current")? == 0);
    for (page, door) in (0..4).zip(Door::ALL) {
        rig.must_be_mirrored(page)?;
        must_come_back(&mut rig, door, page)?;
    }
    for (page, door) in (32..36).zip(Door::ALL) {
        rig.must_not_be_mirrored(page)?;
        rig.must_lose(door, page)?;
    }
    Ok(())
}
