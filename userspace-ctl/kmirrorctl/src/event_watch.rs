// SPDX-License-Identifier: GPL-2.0

//! Waiting for events: `mirror.events` wakes those who poll it for POLLPRI.

use crate::error::{Error, Result};
use crate::group::{Group, INHERIT};
use crate::keyed::Keyed;
use crate::rate::{self, Event};
use crate::system::System;
use crate::tree;
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;

/// A cgroup is watched, and what happens below is counted there too: its file wakes for all of it.
/// Which cgroup an event belongs to is found by reading the others then.
#[derive(Debug)]
pub struct Watch {
    system: System,
    path: String,
    file: File,
    known: BTreeMap<String, Group>,
    over: bool,
}

impl Watch {
    /// Begins to watch the cgroup at `path`.
    pub fn start(system: &System, path: &str) -> Result<Self> {
        let name = system.mirror_of(path).join("mirror.events");
        let file = File::open(&name).map_err(|error| Error::file(&name, &error))?;
        let mut watch = Self {
            system: system.clone(),
            path: path.to_owned(),
            file,
            known: BTreeMap::new(),
            over: false,
        };
        watch.arm();
        watch.known = watch.groups()?;
        Ok(watch)
    }

    /// Waits for the next events, of the innermost cgroups that have counted them.
    pub fn wait(&mut self) -> Result<Vec<Event>> {
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLPRI)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                return Err(Error::failed(format!(
                    "events cannot be waited for: {error}; read `kmirrorctl events` instead"
                )))
            }
        }
        // Reading arms it again. An event after that wakes the next wait, whatever is read below.
        self.arm();
        let now = self.groups()?;
        self.over = !now.contains_key(&self.path);
        let events = changes(&self.known, &now);
        self.known = now;
        Ok(events)
    }

    /// Whether the cgroup has gone.
    pub fn is_over(&self) -> bool {
        self.over
    }

    fn arm(&mut self) {
        let mut text = String::new();
        // An error means that it has gone, which the next look at the tree tells.
        let _ = self.file.rewind();
        let _ = self.file.read_to_string(&mut text);
    }

    fn groups(&self) -> Result<BTreeMap<String, Group>> {
        if self.system.require_mirror().is_err() {
            return Ok(BTreeMap::new());
        }
        let groups = tree::walk(&self.system, &self.path)?;
        Ok(groups
            .into_iter()
            .map(|group| (group.path.clone(), group))
            .collect())
    }
}

/// What has happened, each event once: a parent counts what its children count, so of its new events
/// those of its children are taken away.
fn changes(before: &BTreeMap<String, Group>, after: &BTreeMap<String, Group>) -> Vec<Event> {
    let mut events = Vec::new();
    for group in after.values() {
        let fresh = fresh(group);
        let old = before.get(&group.path).unwrap_or(&fresh);
        for mut event in rate::events(old, group) {
            let below: u64 = children(after, &group.path)
                .map(|child| {
                    let old = before
                        .get(&child.path)
                        .map_or(0, |old| old.events.get(&event.event));
                    rate::grown(old, child.events.get(&event.event))
                })
                .sum();
            event.new = event.new.saturating_sub(below);
            if event.new > 0 {
                events.push(event);
            }
        }
    }
    events
}

/// The cgroups right below `path`.
fn children<'a>(
    groups: &'a BTreeMap<String, Group>,
    path: &'a str,
) -> impl Iterator<Item = &'a Group> {
    let prefix = format!("{}/", path.trim_end_matches('/'));
    groups.values().filter(move |group| {
        let rest = group.path.strip_prefix(&prefix);
        rest.is_some_and(|rest| !rest.is_empty() && !rest.contains('/'))
    })
}

/// A cgroup to which nothing has happened.
fn fresh(group: &Group) -> Group {
    Group {
        mode: INHERIT.into(),
        events: Keyed::default(),
        ..group.clone()
    }
}
