// SPDX-License-Identifier: GPL-2.0

//! Memory that is taken besides the replicas themselves, as the machine's own accounts see it.

use super::protected;
use crate::tenant::Tenant;
use anyhow::{ensure, Context, Result};
use kmirror_selftests::cgroup::Cgroup;
use kmirror_selftests::mirror::{self, Mirror};
use kmirror_selftests::victim::Victim;
use kmirror_selftests::{file, module, PAGE};
use serde::Serialize;

const SMALL: u64 = 64 << 20;
const LARGE: u64 = 320 << 20;
/// Nearly all of the large region.
const PAGES: u64 = (288 << 20) / PAGE;

#[derive(Debug, Serialize)]
pub(super) struct Metadata {
    /// Bytes for each slot of a region, used or not: what a large one takes more than a small one.
    slot_bytes: f64,
    /// Pages that were copied.
    pages: u64,
    /// Bytes for each of these besides: what is free, and what is in slabs, before and after.
    index_bytes: f64,
    slab_bytes: f64,
    /// Pages that hold one value over and over, and bytes of the region that they take.
    same_filled_pages: u64,
    same_filled_replica_bytes: u64,
}

/// Bytes that are free, those too that each CPU keeps ready for itself, which `MemFree` leaves out:
/// a block of the region more or less there is more than what is looked for.
fn free() -> Result<u64> {
    file::write("/proc/sys/vm/drop_caches", "3")?;
    let zones = file::read("/proc/zoneinfo")?;
    let counts = zones.lines().filter_map(|line| {
        let pages = line.trim_start().strip_prefix("count:")?;
        pages.trim().parse::<u64>().ok()
    });
    Ok((file::meminfo("MemFree")? << 10) + counts.sum::<u64>() * PAGE)
}

fn with_region(bytes: u64) -> Result<u64> {
    let before = free()?;
    module::load_kmirror(&format!("region={bytes}"))?;
    ensure!(mirror::region("total")? == bytes, "another region");
    let taken = before.checked_sub(free()?);
    module::unload("kmirror").context("unloading kmirror")?;
    taken.context("there is more memory with a region than without")
}

pub(super) fn measure() -> Result<Metadata> {
    // Whatever is only done when it is loaded for the first time.
    with_region(SMALL)?;
    let (small, large) = (with_region(SMALL)?, with_region(LARGE)?);
    let slots = (LARGE - SMALL) / PAGE;
    let slot_bytes = (large as f64 - small as f64) / slots as f64 - PAGE as f64;

    module::load_kmirror(&format!("region={LARGE}"))?;
    let cgroup = Cgroup::at("/").child("metadata")?;
    let mirror = Mirror::of(&cgroup);
    let victim = Victim::start(&cgroup, PAGES, 1)?;
    let before = (free()?, file::meminfo("Slab")?);
    mirror.track()?;
    mirror.sync()?;
    let after = (free()?, file::meminfo("Slab")?);
    let pages = mirror.number("current")? / PAGE;
    ensure!(pages >= PAGES, "{pages} pages copied of {PAGES}");
    let per_page = |bytes: f64| bytes / pages as f64;
    let index_bytes = per_page(before.0 as f64 - after.0 as f64);
    let slab_bytes = per_page((after.1 as f64 - before.1 as f64) * 1024.0);
    victim.end()?;
    cgroup.remove_tree()?;

    let (cgroup, mirror) = protected("same", LARGE)?;
    let tenant = Tenant::start("same-filled", cgroup, false)?;
    mirror.sync()?;
    let same_filled_pages = mirror.stat("protected")?;
    let same_filled_replica_bytes = mirror.number("current")?;
    tenant.stop()?;
    Ok(Metadata {
        slot_bytes,
        pages,
        index_bytes,
        slab_bytes,
        same_filled_pages,
        same_filled_replica_bytes,
    })
}
