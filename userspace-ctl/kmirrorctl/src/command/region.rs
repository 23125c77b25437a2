// SPDX-License-Identifier: GPL-2.0

//! `kmirrorctl region`.

use super::Context;
use crate::cli::RegionArgs;
use crate::error::{Error, Kind, Result};
use crate::region::{self, Region};
use crate::units;
use kmirror_core::RegionSize;

pub(super) fn run(cx: &Context, args: &RegionArgs) -> Result<()> {
    cx.system.require_mirror()?;
    if let Some(size) = &args.size {
        let before = Region::read(&cx.system)?;
        if let (Ok(new), false) = (RegionSize::parse(size.as_bytes()), args.yes) {
            // Blocks with the fewest replicas go first, but their replicas go with them.
            if new.bytes() < before.used() {
                return Err(Error::new(
                    Kind::Unconfirmed,
                    format!(
                        "{} of the region are in use, and what does not fit into {} will not be covered any more; add --yes if that is meant",
                        units::bytes(before.used()),
                        units::bytes(new.bytes())
                    ),
                ));
            }
        }
        region::resize(&cx.system, size)?;
    }
    let region = Region::read(&cx.system)?;
    cx.print(&region, |_| {
        let node = match region.node {
            Some(node) => node.to_string(),
            None => "any".into(),
        };
        format!(
            "total  {}\nfree   {}\nnode   {node}\n",
            units::bytes(region.total),
            units::bytes(region.free)
        )
    })
}
