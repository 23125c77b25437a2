// SPDX-License-Identifier: GPL-2.0

//! Huge pages of hugetlb: copied, tracked and restored as a whole.

use crate::case::{skip, Case, Context};
use crate::inject::Door;
use crate::memory::Mapping;
use crate::rig::Rig;
use crate::{file, mirror};
use anyhow::{ensure, Result};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "hugetlb_restore",
        "a hugetlb page is restored as a whole, private and shared",
        restore,
    ),
    Case::new(
        "hugetlb_stale",
        "one store makes all of a hugetlb page stale",
        stale,
    ),
];

const HUGE: u64 = 512;
/// Huge pages in the pool: what a victim has, and what it is restored to.
const POOL: &str = "12";

fn rig(cx: &Context, shared: bool) -> Result<Rig> {
    let name = if shared { "shared" } else { "private" };
    let mut rig = Rig::named(cx, name, 1)?;
    let addr = rig.victim.call(
        |scene, shared, _| {
            let sharing = if shared == 1 {
                libc::MAP_SHARED
            } else {
                libc::MAP_PRIVATE
            };
            let flags = sharing | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;
            scene.mem = Mapping::new(HUGE * 4, flags, -1)?;
            (0..HUGE * 4).for_each(|page| scene.mem.fill(page, 1));
            Ok(scene.mem.addr(0))
        },
        u64::from(shared),
        0,
    )?;
    rig.victim.mem = Mapping::at(addr, HUGE * 4);
    rig.sync()?;
    for page in [0, 1, HUGE, HUGE * 4 - 1] {
        rig.must_be_mirrored(page)?;
    }
    Ok(rig)
}

/// Room for the victims, which the machine may not have.
fn pool() -> Result<file::Setting> {
    let pool = file::Setting::change("/proc/sys/vm/nr_hugepages", POOL)?;
    let have = file::meminfo("HugePages_Free")?;
    if have.to_string() != POOL {
        skip!("{have} huge pages in place of {POOL}");
    }
    Ok(pool)
}

fn restore(cx: &Context) -> Result<()> {
    let _pool = pool()?;
    ensure!(mirror::region("total")? >= 32 << 20, "the region is small");
    for shared in [false, true] {
        let mut rig = rig(cx, shared)?;
        for (huge, door) in (0..3).zip([Door::Fail, Door::Mce, Door::FailCounted]) {
            rig.must_restore(door, huge * HUGE + 7, 1)?;
            for page in 0..HUGE {
                rig.must_be(huge * HUGE + page, 1)?;
            }
        }
        rig.sync()?;
        rig.must_restore(Door::Fail, 0, 1)?;
        rig.victim.end()?;
    }
    Ok(())
}

fn stale(cx: &Context) -> Result<()> {
    let _pool = pool()?;
    for shared in [false, true] {
        let mut rig = rig(cx, shared)?;
        rig.fill(3, 2)?;
        // A victim that touched it would die: a handler cannot put a small page there.
        let before = rig.counters()?;
        rig.strike(Door::Fail, 9)?;
        let after = rig.counters()?;
        ensure!(
            after.restored == before.restored && after.unrestorable == before.unrestorable + 1,
            "a huge page that was written is restored: {after:?}"
        );
        // Another was not written, and one is written and copied again.
        rig.must_restore(Door::Fail, HUGE + 9, 1)?;
        rig.fill(HUGE * 2, 2)?;
        rig.sync()?;
        rig.must_restore(Door::Fail, HUGE * 2 + 1, 1)?;
        rig.must_be(HUGE * 2, 2)?;
        rig.victim.end()?;
    }
    Ok(())
}
