// SPDX-License-Identifier: GPL-2.0

//! `kmirrorctl events`.

use super::{json, print, Context};
use crate::cli::EventsArgs;
use crate::error::{Error, Result};
use crate::event_watch::Watch;
use crate::group::Group;
use crate::rate::Event;
use crate::snapshot;
use crate::{table, tree, units};
use serde::Serialize;

/// One line of `events --follow --json`.
#[derive(Serialize)]
struct Line<'a> {
    time: f64,
    #[serde(flatten)]
    event: &'a Event,
}

pub(super) fn run(cx: &Context, args: &EventsArgs) -> Result<()> {
    let path = cx.resolve(args.path.as_deref())?;
    if args.follow {
        return follow(cx, &path);
    }
    let groups: Vec<Group> = tree::walk(&cx.system, &path)?
        .into_iter()
        .filter(|group| group.path == path || group.events.iter().any(|(_, n)| n > 0))
        .collect();
    let events: Vec<_> = groups
        .iter()
        .flat_map(|group| {
            group.events.iter().map(|(event, total)| Event {
                cgroup: group.path.clone(),
                event: event.to_owned(),
                new: 0,
                total,
            })
        })
        .collect();
    cx.print(&events, |paint| {
        let rows: Vec<Vec<String>> = events
            .iter()
            .map(|event| {
                vec![
                    event.cgroup.clone(),
                    event.event.clone(),
                    units::count(event.total),
                ]
            })
            .collect();
        table::rows(&["CGROUP", "EVENT", "TOTAL"], &rows, paint)
    })
}

/// Prints a line for each event until it is ended.
fn follow(cx: &Context, path: &str) -> Result<()> {
    let mut watch = Watch::start(&cx.system, path)?;
    loop {
        let events = watch.wait()?;
        if events.is_empty() && watch.is_over() {
            return Err(Error::missing(format!(
                "the cgroup {path} has gone, or kmirror was unloaded; start again when it is back"
            )));
        }
        for event in &events {
            if cx.json {
                let time = snapshot::now();
                print(&format!("{}\n", json(&Line { time, event }, false)?))?;
            } else {
                print(&format!("{}\n", sentence(event)))?;
            }
        }
    }
}

/// An event as a line for a terminal or a journal, which has its own clock.
pub(crate) fn sentence(event: &Event) -> String {
    let pages = units::plural(event.new, "page");
    let what = match event.event.as_str() {
        "restored" => format!("{pages} restored after a memory error"),
        "unrestorable" => format!("{pages} lost to a memory error and not restored"),
        "replica_lost" => format!(
            "{} lost to a memory error in the region",
            units::plural(event.new, "replica")
        ),
        other => format!("{} new: {other}", event.new),
    };
    format!("{}: {what} ({} in all)", event.cgroup, event.total)
}
