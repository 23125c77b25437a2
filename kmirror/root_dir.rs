// SPDX-License-Identifier: GPL-2.0

//! The whole system: `/sys/kernel/kmirror/`. See docs/abi/.

use crate::{track, Kmirror};
use kernel::{
    fmt::Write,
    prelude::*,
    sync::Arc, //
};
use kernel_ext::kobject::{Attributes, File, Page};

/// The version of the interface: grows with each change that a tool could notice.
const VERSION: u32 = 2;

/// What the directory shows.
pub(crate) struct RootDir(pub(crate) Arc<Kmirror>);

impl Attributes for RootDir {
    const FILES: &'static [File<Self>] = &[
        File {
            name: c"version",
            show: Some(show_version),
            store: None,
        },
        File {
            name: c"stat",
            show: Some(show_stat),
            store: None,
        },
        File {
            name: c"events",
            show: Some(show_events),
            store: None,
        },
    ];
}

fn show_version(_dir: &RootDir, page: &mut Page<'_>) -> Result {
    writeln!(page, "{VERSION}")?;
    Ok(())
}

fn show_stat(dir: &RootDir, page: &mut Page<'_>) -> Result {
    let totals = dir.0.store.totals();
    writeln!(page, "slots {}", totals.slots())?;
    writeln!(page, "used {}", totals.used)?;
    writeln!(page, "free {}", totals.free())?;
    writeln!(page, "retired {}", totals.bad)?;
    let host = &dir.0.host;
    let pool = dir.0.store.host_totals();
    let traffic = &host.traffic;
    writeln!(
        page,
        "host_connected {}",
        u8::from(host.session().is_some())
    )?;
    writeln!(page, "host_slots {}", pool.slots())?;
    writeln!(page, "host_used {}", pool.used)?;
    for (name, counter) in [
        ("host_sessions", &host.sessions),
        ("host_lost", &host.lost),
        ("host_requests", &traffic.requests),
        ("host_timeouts", &traffic.timeouts),
        ("host_rubbish", &traffic.rubbish),
        ("host_refused", &traffic.refused),
        ("kicks_hypercall", &traffic.hypercalls),
        ("kicks_notify", &traffic.notifications),
        ("healed", &dir.0.healing.healed),
        ("not_healed", &dir.0.healing.retired),
        ("rescued", &dir.0.healing.rescued),
    ] {
        writeln!(page, "{name} {}", counter.get())?;
    }
    writeln!(page, "healing {}", dir.0.healing.waiting())?;
    for (name, value) in track::total(&dir.0)?.entries() {
        writeln!(page, "{name} {value}")?;
    }
    Ok(())
}

fn show_events(dir: &RootDir, page: &mut Page<'_>) -> Result {
    for (name, value) in dir.0.events.entries() {
        writeln!(page, "{name} {value}")?;
    }
    Ok(())
}
