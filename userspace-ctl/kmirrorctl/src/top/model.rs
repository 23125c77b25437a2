// SPDX-License-Identifier: GPL-2.0

//! What `top` shows: the last two snapshots, and a little history.

use crate::rate::{self, Event, Rate};
use crate::snapshot::Snapshot;
use std::collections::{BTreeMap, VecDeque};

/// Samples of coverage that are kept of each cgroup.
const KEPT: usize = 240;
/// Events that are kept.
const EVENTS: usize = 100;

/// What the lines are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Path.
    Path,
    /// Coverage, the worst first.
    Coverage,
    /// CPU, the most first.
    Cpu,
}

/// The state of the display.
#[derive(Debug)]
pub struct Model {
    /// The last snapshot.
    pub now: Snapshot,
    /// What happened since the one before, by path.
    pub rates: BTreeMap<String, Rate>,
    /// Coverage in parts per million over time, by path.
    pub coverage: BTreeMap<String, VecDeque<u64>>,
    /// What has happened, the newest last, with the seconds since 1970.
    pub events: VecDeque<(f64, Event)>,
    /// The path of the line that is chosen.
    pub chosen: String,
    /// What the lines are sorted by.
    pub order: Order,
    /// Whether it stands still.
    pub paused: bool,
}

impl Model {
    /// Begins with a first snapshot.
    pub fn new(first: Snapshot) -> Self {
        let mut model = Self {
            chosen: first
                .groups
                .first()
                .map_or("/".into(), |group| group.path.clone()),
            now: first,
            rates: BTreeMap::new(),
            coverage: BTreeMap::new(),
            events: VecDeque::new(),
            order: Order::Path,
            paused: false,
        };
        model.remember();
        model
    }

    /// Takes the next snapshot.
    pub fn update(&mut self, next: Snapshot) {
        for group in &next.groups {
            if let Some(old) = self.now.group(&group.path) {
                for event in rate::events(old, group) {
                    self.events.push_back((next.time, event));
                }
            }
        }
        while self.events.len() > EVENTS {
            self.events.pop_front();
        }
        self.rates = next
            .groups
            .iter()
            .filter_map(|group| {
                let rate = Rate::between(&self.now, &next, &group.path)?;
                Some((group.path.clone(), rate))
            })
            .collect();
        self.now = next;
        self.remember();
        if self.now.group(&self.chosen).is_none() {
            self.step(0);
        }
    }

    fn remember(&mut self) {
        let here: Vec<&str> = self
            .now
            .groups
            .iter()
            .map(|group| group.path.as_str())
            .collect();
        self.coverage
            .retain(|path, _| here.contains(&path.as_str()));
        for group in &self.now.groups {
            let line = self.coverage.entry(group.path.clone()).or_default();
            line.push_back(u64::from(group.coverage_ppm.unwrap_or(0)));
            if line.len() > KEPT {
                line.pop_front();
            }
        }
    }

    /// The indices of the cgroups in the order in which they are shown.
    pub fn lines(&self) -> Vec<usize> {
        let groups = &self.now.groups;
        let mut lines: Vec<usize> = (0..groups.len()).collect();
        let cpu = |at: &usize| {
            self.rates
                .get(&groups[*at].path)
                .map_or(0.0, |rate| rate.cpu)
        };
        match self.order {
            Order::Path => {}
            Order::Coverage => lines.sort_by_key(|&at| groups[at].coverage_ppm.unwrap_or(u32::MAX)),
            Order::Cpu => lines.sort_by(|a, b| cpu(b).total_cmp(&cpu(a))),
        }
        lines
    }

    /// Chooses another line, `by` further down.
    pub fn step(&mut self, by: isize) {
        let lines = self.lines();
        let paths: Vec<&str> = lines
            .iter()
            .map(|&at| self.now.groups[at].path.as_str())
            .collect();
        let at = paths
            .iter()
            .position(|path| *path == self.chosen)
            .unwrap_or(0);
        let last = paths.len().saturating_sub(1);
        let to = at.saturating_add_signed(by).min(last);
        if let Some(path) = paths.get(to) {
            self.chosen = (*path).to_owned();
        }
    }

    /// Sorts by the next key.
    pub fn turn(&mut self) {
        self.order = match self.order {
            Order::Path => Order::Coverage,
            Order::Coverage => Order::Cpu,
            Order::Cpu => Order::Path,
        };
    }
}
