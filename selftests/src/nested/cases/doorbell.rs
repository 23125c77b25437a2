// SPDX-License-Identifier: GPL-2.0

//! The doorbell: that it is the hypercall which rings, and what is done where KVM does not know it.

use super::service::rig;
use crate::case::{Case, Context};
use crate::cases::service::connected;
use crate::memory::Seen;
use crate::mirror::stat;
use crate::nested::port::Host;
use crate::nested::strike;
use crate::wait::{self, BOUND};
use anyhow::{ensure, Result};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "doorbell",
        "the hypercall: HostQueue::kick() here, kvm_kmirror_kick() there",
        doorbell,
    ),
    Case::new(
        "doorbell_unknown",
        "HostQueue::kick() tries the hypercall once, and notifies from then on",
        doorbell_unknown,
    ),
];

/// How often the service was rung for: what L1's KVM has seen, and what kmirror has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rung {
    kicks: u64,
    hypercalls: u64,
    notifications: u64,
}

impl Rung {
    fn now(host: &mut Host) -> Result<Self> {
        Ok(Self {
            kicks: host.number("kicks")?,
            hypercalls: stat("kicks_hypercall")?,
            notifications: stat("kicks_notify")?,
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            kicks: self.kicks - before.kicks,
            hypercalls: self.hypercalls - before.hypercalls,
            notifications: self.notifications - before.notifications,
        }
    }
}

fn doorbell(cx: &Context) -> Result<()> {
    const PAGES: u64 = 64;
    let mut host = Host::connect()?;
    connected()?;
    let before = Rung::now(&mut host)?;
    let requests = stat("host_requests")?;
    let mut rig = rig(cx, "host", PAGES)?;
    let mut rung = Rung::now(&mut host)?.since(before);
    // The module asks once a second by itself, perhaps between two of these numbers.
    wait::until("both have counted the same", BOUND, || {
        rung = Rung::now(&mut host)?.since(before);
        Ok(rung.kicks == rung.hypercalls)
    })?;
    let requests = stat("host_requests")? - requests;
    println!("{requests} requests: {rung:?}");
    ensure!(requests >= PAGES, "{requests} requests for {PAGES} pages");
    ensure!(rung.hypercalls >= PAGES / 2, "{rung:?}");
    ensure!(rung.notifications == 0, "{rung:?}");
    // What was asked has been done.
    let hit = strike::under_reader(&mut rig, &mut host, 0, 1)?;
    ensure!(hit.seen == Seen::Right, "{hit:?}");
    Ok(())
}

fn doorbell_unknown(cx: &Context) -> Result<()> {
    const PAGES: u64 = 64;
    let mut host = Host::connect()?;
    connected()?;
    let before = Rung::now(&mut host)?;
    ensure!(before.kicks == 1, "not tried once: {before:?}");
    ensure!(before.hypercalls == 0, "one was answered: {before:?}");
    let _rig = rig(cx, "host", PAGES)?;
    let rung = Rung::now(&mut host)?.since(before);
    println!("after the first: {rung:?}");
    ensure!(rung.kicks == 0, "tried again: {rung:?}");
    ensure!(rung.hypercalls == 0, "{rung:?}");
    ensure!(rung.notifications >= PAGES / 2, "{rung:?}");
    Ok(())
}
