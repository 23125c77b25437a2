// SPDX-License-Identifier: GPL-2.0

//! The host has L2's memory in huge pages, and one of them is lost: 512 frames at once.

use crate::case::{skip, Case, Context};
use crate::cases::huge::huge_rig;
use crate::memory::Seen;
use crate::nested::port::Host;
use crate::nested::strike;
use anyhow::{ensure, Result};

pub(super) const CASES: &[Case] = &[Case::new(
    "mce_huge_backing",
    "each frame behind the lost huge page is restored when it is met, and counted",
    huge_backing,
)
.limit(240)];

const PAGES: u64 = 512;

fn huge_backing(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    // One huge page of the victim is behind one of the host's: nobody else is hit.
    let mut rig = huge_rig(cx, "victim", PAGES, false)?;
    let first = rig.frame(0)?;
    let backing = host.number(&format!("page {first}"))?;
    if backing != 2 << 20 {
        skip!("the memory of L2 is in pages of {backing} bytes");
    }
    ensure!(first % PAGES == 0, "frame {first:#x} begins no huge page");
    let before = rig.counters()?;
    let checks = strike::machine_checks()?;
    host.poison(first + 7)?;
    let (mut right, mut lost) = (0, 0);
    for page in 0..PAGES {
        match rig.seen(page, 1)? {
            Seen::Right => right += 1,
            Seen::Lost => lost += 1,
            Seen::Wrong(word) => anyhow::bail!("page {page} is wrong from word {word} on"),
        }
    }
    let after = rig.counters()?;
    println!(
        "one huge page lost at the host: {right} pages right, {lost} lost, {} restored, {} machine checks",
        after.restored - before.restored,
        strike::machine_checks()? - checks
    );
    ensure!(lost == 0, "{lost} pages are lost");
    ensure!(after.restored > before.restored, "nothing was restored");
    Ok(())
}
