// SPDX-License-Identifier: GPL-2.0

//! The host saves L2 after an error.

use crate::case::{Case, Context};
use crate::memory::Seen;
use crate::nested::port::Host;
use crate::nested::strike;
use crate::rig::Rig;
use anyhow::{ensure, Result};

pub(super) const CASES: &[Case] = &[Case::new(
    "mce_save",
    "an attempt to save the guest while a frame is broken does not end it",
    save,
)];

fn save(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    let mut rig = Rig::synced(cx, 4)?;
    let hit = strike::under_reader(&mut rig, &mut host, 0, 1)?;
    ensure!(hit.seen == Seen::Right, "{hit:?}");
    // QEMU may refuse. It must not touch what is lost, which would be the end of it.
    let said = host.order("save")?.join(" ");
    println!("QEMU, asked to save the guest: {said}");
    rig.must_be(0, 1)?;
    for page in 1..4 {
        rig.must_be(page, 1)?;
    }
    let hit = strike::under_reader(&mut rig, &mut host, 1, 1)?;
    ensure!(hit.seen == Seen::Right, "{hit:?}");
    Ok(())
}
