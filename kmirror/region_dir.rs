// SPDX-License-Identifier: GPL-2.0

//! The mirror region: `/sys/kernel/kmirror/region/`. See docs/abi/.

use crate::{errno, host_place::Placement, Kmirror};
use kernel::{
    fmt::Write,
    prelude::*,
    sync::Arc, //
};
use kernel_ext::kobject::{Attributes, File, Page};
use kmirror_core::{RegionSize, BLOCK_BYTES};

/// Bytes of a replica.
const PAGE: u64 = kernel::page::PAGE_SIZE as u64;

/// What the directory shows.
pub(crate) struct RegionDir(pub(crate) Arc<Kmirror>);

impl Attributes for RegionDir {
    const FILES: &'static [File<Self>] = &[
        File {
            name: c"total",
            show: Some(show_total),
            store: Some(store_total),
        },
        File {
            name: c"free",
            show: Some(show_free),
            store: None,
        },
        File {
            name: c"node",
            show: Some(show_node),
            store: None,
        },
        File {
            name: c"placement",
            show: Some(show_placement),
            store: None,
        },
    ];
}

fn show_total(dir: &RegionDir, page: &mut Page<'_>) -> Result {
    writeln!(
        page,
        "{}",
        u64::from(dir.0.store.totals().blocks) * BLOCK_BYTES
    )?;
    Ok(())
}

fn store_total(dir: &RegionDir, text: &[u8]) -> Result {
    let size = RegionSize::parse(text).map_err(errno)?;
    dir.0.store.resize(&dir.0.host, size)
}

fn show_free(dir: &RegionDir, page: &mut Page<'_>) -> Result {
    writeln!(page, "{}", dir.0.store.totals().free() * PAGE)?;
    Ok(())
}

fn show_node(dir: &RegionDir, page: &mut Page<'_>) -> Result {
    match dir.0.store.node() {
        Some(node) => writeln!(page, "{node}")?,
        None => writeln!(page, "-1")?,
    }
    Ok(())
}

fn show_placement(dir: &RegionDir, page: &mut Page<'_>) -> Result {
    let placement = dir.0.host.placement().unwrap_or_else(Placement::none);
    for (name, value) in placement.entries() {
        writeln!(page, "{name} {value}")?;
    }
    for (node, pages) in placement.nodes() {
        writeln!(page, "node{node} {pages}")?;
    }
    Ok(())
}
