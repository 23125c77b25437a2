// SPDX-License-Identifier: GPL-2.0

//! A clean anonymous page comes back, whoever reports the error.

use crate::case::{Case, Context};
use crate::inject::{self, Door};
use crate::memory::Seen;
use crate::rig::Rig;
use crate::{file, mirror};
use anyhow::{ensure, Result};
use nix::errno::Errno;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "restore_every_door",
        "the hook in memory_failure(), the notifier on the decode chain, the handed-over reference",
        every_door,
    ),
    Case::new(
        "restore_again",
        "a restored page is mirrored again by the next epoch, in its new frame",
        again,
    ),
    Case::new(
        "two_reports",
        "a frame that is retired already is left alone by a second report",
        two_reports,
    ),
    Case::new(
        "two_reports_lost",
        "the look at PageHWPoison before the hook: what was refused is not asked about again",
        two_reports_lost,
    ),
    Case::new(
        "unprotected",
        "the look-up of the replica: nothing is made up for a page that has none",
        unprotected,
    ),
];

fn every_door(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 40)?;
    let everywhere = file::keyed("/sys/kernel/kmirror/events", "restored")?;
    for (page, door) in (0..).step_by(8).zip(Door::ALL) {
        rig.must_restore(door, page, 1)?;
        // It is an ordinary page afterwards.
        rig.fill(page, 2)?;
        rig.must_be(page, 2)?;
    }
    for page in (0..40).filter(|page| page % 8 != 0) {
        rig.must_be(page, 1)?;
    }
    let restored = file::keyed("/sys/kernel/kmirror/events", "restored")? - everywhere;
    ensure!(restored == 5, "{restored} restored, by kmirror/events");
    Ok(())
}

fn again(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 4)?;
    let first = rig.frame(1)?;
    rig.must_restore(Door::Fail, 1, 1)?;
    ensure!(
        mirror::replica_of(first)?.is_none(),
        "the replica of a retired frame is kept"
    );
    rig.sync()?;
    rig.must_be_mirrored(1)?;
    rig.must_restore(Door::Mce, 1, 1)?;
    rig.fill(1, 2)?;
    rig.sync()?;
    rig.must_restore(Door::FailRequired, 1, 2)?;
    Ok(())
}

fn two_reports(cx: &Context) -> Result<()> {
    let firsts = Door::ALL;
    let mut rig = Rig::synced(cx, firsts.len() as u64 * 5)?;
    let mut page = 0;
    for first in firsts {
        for second in Door::ALL {
            let old = rig.frame(page)?;
            let new = rig.must_restore(first, page, 1)?;
            let before = rig.counters()?;
            let door = format!("keep_{second}");
            let result = inject::strike(&rig.cgroup, &door, old)?;
            // It may say that there was an error already, nothing else.
            if let Err(error) = result {
                let errno = error.raw_os_error();
                ensure!(
                    errno == Some(Errno::EHWPOISON as i32),
                    "{first}, {door}: {error}"
                );
            }
            rig.must_be(page, 1)?;
            ensure!(rig.frame(page)? == new, "{first}, {door}: moved again");
            let after = rig.counters()?;
            ensure!(
                after == before,
                "{first}, {door}: {after:?}, not {before:?}"
            );
            page += 1;
        }
    }
    Ok(())
}

/// The first report finds a page that was written, and refuses it. Nobody has touched it since, so
/// all that speaks against a second refusal is that the frame is poisoned already.
fn two_reports_lost(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, Door::ALL.len() as u64)?;
    for (page, first) in (0..).zip(Door::ALL) {
        rig.fill(page, 2)?;
        let before = rig.counters()?;
        let old = rig.strike(first, page)?.old;
        let lost = rig.counters()?;
        ensure!(
            lost.unrestorable == before.unrestorable + 1,
            "{first}: {lost:?} after {before:?}"
        );
        for second in Door::ALL {
            let door = format!("keep_{second}");
            if let Err(error) = inject::strike(&rig.cgroup, &door, old)? {
                let errno = error.raw_os_error();
                ensure!(
                    errno == Some(Errno::EHWPOISON as i32),
                    "{first}, {door}: {error}"
                );
            }
            let after = rig.counters()?;
            ensure!(after == lost, "{first}, {door}: {after:?}, not {lost:?}");
        }
        let seen = rig.seen(page, 2)?;
        ensure!(seen == Seen::Lost, "{first}: page {page} is {seen:?}");
    }
    Ok(())
}

fn unprotected(cx: &Context) -> Result<()> {
    let mut rig = Rig::new(cx, 8)?;
    rig.mirror.set("mode", "off")?;
    for (page, door) in (0..).zip(Door::ALL) {
        let before = rig.counters()?;
        rig.must_lose(door, page)?;
        let after = rig.counters()?;
        ensure!(after.restored == before.restored && after.unrestorable == before.unrestorable);
    }
    rig.must_be(7, 1)
}
