// SPDX-License-Identifier: GPL-2.0

//! A mirror region in memory of its own.

use crate::case::{skip, Case, Context};
use crate::nested::port::Host;
use crate::nested::strike;
use crate::rig::Rig;
use crate::wait::{self, BOUND};
use crate::{file, mirror, module};
use anyhow::{bail, ensure, Context as _, Result};
use std::path::Path;

pub(super) const CASES: &[Case] = &[Case::new(
    "region_elsewhere",
    "RegionSpec: the mirror region is in memory of its own, and node 0 is restored from it",
    region_elsewhere,
)];

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
        strike::must_survive(&mut rig, &mut host, page, 1)?;
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
        strike::must_survive(&mut rig, &mut host, page, 1)?;
    }
    Ok(())
}
