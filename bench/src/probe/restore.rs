// SPDX-License-Identifier: GPL-2.0

//! How long a restore takes, beside `soft_offline_page()` of a like page: both move a page to a new
//! frame and retire the old one, and both are asked for by the same kind of file in sysfs.

use super::{protected, Times};
use anyhow::{ensure, Context, Result};
use kmirror_selftests::memory::Seen;
use kmirror_selftests::victim::Victim;
use kmirror_selftests::{file, pagemap, PAGE};
use serde::Serialize;

/// Of each.
const TIMES: u64 = 101;

#[derive(Debug, Serialize)]
pub(super) struct Restores {
    restore: Times,
    soft_offline: Times,
}

pub(super) fn measure() -> Result<Restores> {
    let (cgroup, mirror) = protected("restore", 64 << 20)?;
    let mut victim = Victim::start(&cgroup, 2 * TIMES, 1)?;
    mirror.sync()?;
    let mut restores = Restores {
        restore: Times::default(),
        soft_offline: Times::default(),
    };
    // In turn, on neighbours: what makes one slow makes the other.
    for page in 0..2 * TIMES {
        let addr = victim.mem.addr(page);
        let old = pagemap::frame(victim.pid, addr)?;
        let (door, times) = if page % 2 == 0 {
            ("hard", &mut restores.restore)
        } else {
            ("soft", &mut restores.soft_offline)
        };
        let (path, frame) = (
            format!("/sys/devices/system/memory/{door}_offline_page"),
            format!("{:#x}", old * PAGE),
        );
        times.take(|| file::write(&path, &frame))?;
        let new = pagemap::frame(victim.pid, addr)?;
        ensure!(
            new != old && pagemap::flags(old)? & pagemap::HWPOISON != 0,
            "page {page}: {door}_offline_page has left it where it was"
        );
    }
    let restored = mirror.event("restored")?;
    ensure!(restored == TIMES, "{restored} restores of {TIMES}");
    for page in 0..2 * TIMES {
        let raw = victim.call(
            |scene, page, version| Ok(scene.mem.check(page, version).to_raw()),
            page,
            1,
        )?;
        let seen = Seen::from_raw(raw);
        ensure!(seen == Seen::Right, "page {page}: {seen:?}");
    }
    victim.end().context("ending the victim")?;
    Ok(restores)
}
