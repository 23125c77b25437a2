// SPDX-License-Identifier: GPL-2.0

//! The directory of a cgroup: `/sys/kernel/kmirror/cgroup/[PATH/]`. See docs/abi/.

use crate::{
    errno,
    group::{self, Group},
    track,
    Kmirror, //
};
use kernel::{
    fmt::Write,
    prelude::*,
    sync::Arc, //
};
use kernel_ext::kobject::{Attributes, File, Page};
use kmirror_core::{Interval, Limit, Mode, Place, Refusal};

/// Bytes of a replica.
const PAGE: u64 = kernel::page::PAGE_SIZE as u64;

/// What the directory shows.
pub(crate) struct CgroupDir {
    pub(crate) kmirror: Arc<Kmirror>,
    pub(crate) group: Arc<Group>,
}

impl Attributes for CgroupDir {
    const FILES: &'static [File<Self>] = &[
        File {
            name: c"mirror.mode",
            show: Some(show_mode),
            store: Some(store_mode),
        },
        File {
            name: c"mirror.interval_ms",
            show: Some(show_interval),
            store: Some(store_interval),
        },
        File {
            name: c"mirror.store",
            show: Some(show_place),
            store: Some(store_place),
        },
        File {
            name: c"mirror.max",
            show: Some(show_max),
            store: Some(store_max),
        },
        File {
            name: c"mirror.current",
            show: Some(show_current),
            store: None,
        },
        File {
            name: c"mirror.coverage",
            show: Some(show_coverage),
            store: None,
        },
        File {
            name: c"mirror.stat",
            show: Some(show_stat),
            store: None,
        },
        File {
            name: c"mirror.events",
            show: Some(show_events),
            store: None,
        },
        File {
            name: c"mirror.sync",
            show: None,
            store: Some(store_sync),
        },
    ];
}

fn show_mode(dir: &CgroupDir, page: &mut Page<'_>) -> Result {
    writeln!(page, "{}", dir.group.settings().mode.as_str())?;
    Ok(())
}

fn store_mode(dir: &CgroupDir, text: &[u8]) -> Result {
    let mode = Mode::parse(text).map_err(errno)?;
    dir.kmirror.groups.set_mode(&dir.kmirror, &dir.group, mode)
}

fn show_interval(dir: &CgroupDir, page: &mut Page<'_>) -> Result {
    writeln!(page, "{}", dir.group.interval().as_ms())?;
    Ok(())
}

fn store_interval(dir: &CgroupDir, text: &[u8]) -> Result {
    let interval = Interval::parse(text).map_err(errno)?;
    if interval.is_none() && dir.group.parent.is_none() {
        return Err(EINVAL);
    }
    let below = dir
        .kmirror
        .groups
        .list(|group| group.is_below(&dir.group))?;
    dir.group.set(|settings| settings.interval = interval);
    // Who sleeps by the old interval looks at the new one now.
    for group in below {
        group.signal.hurry();
    }
    Ok(())
}

fn show_place(dir: &CgroupDir, page: &mut Page<'_>) -> Result {
    writeln!(page, "{}", dir.group.place().as_str())?;
    Ok(())
}

fn store_place(dir: &CgroupDir, text: &[u8]) -> Result {
    let place = Place::parse(text).map_err(errno)?;
    dir.kmirror
        .groups
        .set_place(&dir.kmirror, &dir.group, place)
}

fn show_max(dir: &CgroupDir, page: &mut Page<'_>) -> Result {
    match dir.group.settings().limit.bytes() {
        Some(bytes) => writeln!(page, "{bytes}")?,
        None => writeln!(page, "max")?,
    }
    Ok(())
}

fn store_max(dir: &CgroupDir, text: &[u8]) -> Result {
    let limit = Limit::parse(text).map_err(errno)?;
    let below = dir
        .kmirror
        .groups
        .list(|group| group.is_below(&dir.group))?;
    let owners = group::owners(&below)?;
    dir.group.set(|settings| settings.limit = limit);
    dir.kmirror.store.reduce(&dir.group, &owners);
    Ok(())
}

fn show_current(dir: &CgroupDir, page: &mut Page<'_>) -> Result {
    writeln!(page, "{}", dir.group.used_slots() * PAGE)?;
    Ok(())
}

fn show_coverage(dir: &CgroupDir, page: &mut Page<'_>) -> Result {
    let survey = track::survey(&dir.kmirror, &dir.group)?;
    // Nothing would survive of a cgroup that nobody mirrors.
    let ppm = if survey.protected() == 0 && !dir.group.is_tracked() {
        0
    } else {
        survey.coverage_ppm()
    };
    writeln!(page, "{ppm}")?;
    Ok(())
}

fn show_stat(dir: &CgroupDir, page: &mut Page<'_>) -> Result {
    let now = track::survey(&dir.kmirror, &dir.group)?;
    let progress = track::progress(&dir.kmirror, &dir.group)?;

    writeln!(page, "protected {}", now.protected())?;
    writeln!(page, "current {}", now.current())?;
    for why in Refusal::ALL {
        let pages = match why {
            // As they are now.
            Refusal::Stale
            | Refusal::Lazyfree
            | Refusal::Huge
            | Refusal::Notifier
            | Refusal::ShadowStack => now.refused(why),
            // Among the stale ones, as the last epoch has met them.
            _ => progress.refused.refused(why),
        };
        writeln!(page, "{} {}", why.as_str(), pages)?;
    }
    for (name, value) in progress.total.entries() {
        writeln!(page, "{name} {value}")?;
    }
    Ok(())
}

fn show_events(dir: &CgroupDir, page: &mut Page<'_>) -> Result {
    for (name, value) in dir.group.events.entries() {
        writeln!(page, "{name} {value}")?;
    }
    Ok(())
}

fn store_sync(dir: &CgroupDir, text: &[u8]) -> Result {
    if text.trim_ascii() != b"1" {
        return Err(EINVAL);
    }
    // The worker in charge here, and those of the groups below that have their own.
    let governor = dir.group.governor();
    let workers = dir.kmirror.groups.list(|group| {
        group.settings().mode == Mode::Tracked
            && (core::ptr::eq(group, governor) || group.is_below(&dir.group))
    })?;
    let mut waits = KVec::with_capacity(workers.len(), GFP_KERNEL)?;
    for group in workers.iter() {
        waits.push(group.signal.request(), GFP_KERNEL)?;
    }
    for (group, number) in workers.iter().zip(waits.iter()) {
        let result = number.ok_or(ENODEV).and_then(|n| group.signal.wait(n));
        match result {
            // A cgroup below that has gone has nothing left to be copied.
            Err(e) if e == ENODEV && !core::ptr::eq(&**group, governor) => {}
            result => result?,
        }
    }
    Ok(())
}
