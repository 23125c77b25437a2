// SPDX-License-Identifier: GPL-2.0

//! Which pages may be lost, because they were hit and not restored; and the figures at the end.

use super::kind::KINDS;
use super::model::Object;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A page that was hit and not restored.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// When.
    round: u64,
    /// The kernel has left it mapped, or moved it: the injector's bytes may be seen, until they are
    /// written over, and the page may be lost at any time later.
    garbage: bool,
}

/// What may be found lost.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    marks: BTreeMap<(Object, u64), Mark>,
}

impl Ledger {
    /// A page may be lost.
    pub(super) fn mark(&mut self, object: Object, page: u64, round: u64, garbage: bool) {
        let mark = self
            .marks
            .entry((object, page))
            .or_insert(Mark { round, garbage });
        mark.round = round;
        mark.garbage |= garbage;
    }

    /// Whether it may.
    pub(super) fn may_be_lost(&self, object: Object, page: u64) -> bool {
        self.marks.contains_key(&(object, page))
    }

    /// Whether it may have the injector's bytes.
    pub(super) fn may_be_garbage(&self, object: Object, page: u64) -> bool {
        let mark = self.marks.get(&(object, page));
        mark.is_some_and(|mark| mark.garbage)
    }

    /// It was found lost, and has another frame since.
    pub(super) fn found(&mut self, object: Object, page: u64) {
        if let Some(mark) = self.marks.get_mut(&(object, page)) {
            mark.garbage = false;
        }
    }

    /// It was looked at whole: what was hit before that has been found, and repaired.
    pub(super) fn clear(&mut self, object: Object, page: u64, round: u64) {
        let mark = self.marks.get(&(object, page));
        if mark.is_some_and(|mark| mark.round < round && !mark.garbage) {
            self.marks.remove(&(object, page));
        }
    }

    /// A child has what its parent has.
    pub(super) fn fork(&mut self, parent: u64, child: u64) {
        let of_parent = self
            .marks
            .iter()
            .filter(|((object, _), _)| object.1 == parent);
        let copies: Vec<_> = of_parent
            .map(|(&((area, _), page), &mark)| (((area, child), page), mark))
            .collect();
        self.marks.extend(copies);
    }
}

/// Figures of one kind of memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    /// Frames that were broken.
    pub(super) errors: u64,
    /// Pages that came back.
    pub(super) restored: u64,
    /// Pages that did not, by reason.
    pub(super) refused: BTreeMap<String, u64>,
    /// Losses that programs met with.
    pub(super) met: u64,
    /// Pages that were the injector's bytes, since the kernel had left them mapped or moved them.
    pub(super) garbage: u64,
    /// Pages that came back from disk as they were before.
    pub(super) older: u64,
    /// Bytes that were neither right nor owned up to.
    pub(super) wrong: u64,
}

/// All figures.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// By kind.
    pub(super) kinds: BTreeMap<&'static str, Figures>,
    /// Frames of the region that were broken.
    pub(super) replicas: u64,
    /// Second reports.
    pub(super) again: u64,
    /// Strikes that found no page.
    pub(super) missed: u64,
    /// Large folios that could not be split, and so kept a lost page.
    pub(super) unsplit: u64,
    /// Strikes that would have hit another page, which had just been given the frame.
    pub(super) moved: u64,
    /// Processes that the kernel has killed for an error, or for want of memory.
    pub(super) died: u64,
    /// Steps done.
    pub(super) steps: u64,
    /// Pages compared.
    pub(super) compared: u64,
    /// Where the time goes.
    pub(super) spent: BTreeMap<&'static str, Duration>,
}

impl Tally {
    /// The figures of a kind.
    pub(super) fn of(&mut self, kind: usize) -> &mut Figures {
        self.kinds.entry(KINDS[kind].name()).or_default()
    }

    /// From `start` until now something took its time.
    pub(super) fn spend(&mut self, on: &'static str, start: Instant) {
        *self.spent.entry(on).or_default() += start.elapsed();
    }

    /// All errors so far, those in the region too.
    pub(super) fn errors(&self) -> u64 {
        self.replicas
            + self
                .kinds
                .values()
                .map(|figures| figures.errors)
                .sum::<u64>()
    }

    /// One line: so far.
    pub(super) fn progress(&self) -> String {
        let kinds = self
            .kinds
            .iter()
            .map(|(name, figures)| format!(" {name} {}/{}", figures.restored, figures.errors));
        format!(
            "{} errors, {} of them in the region; restored:{}",
            self.errors(),
            self.replicas,
            kinds.collect::<Vec<_>>().join(",")
        )
    }

    /// Lines that a program adds up: `figure NAME KEY NUMBER`.
    pub(super) fn figures(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, figures) in &self.kinds {
            let mut line = |key: &str, value: u64| {
                lines.push(format!("figure {name} {key} {value}"));
            };
            line("errors", figures.errors);
            line("restored", figures.restored);
            line("refused", figures.refused.values().sum());
            line("met", figures.met);
            line("garbage", figures.garbage);
            line("older", figures.older);
            line("wrong", figures.wrong);
            for (why, count) in &figures.refused {
                line(&format!("why:{}", why.replace(' ', "_")), *count);
            }
        }
        for (key, value) in [
            ("replicas", self.replicas),
            ("again", self.again),
            ("missed", self.missed),
            ("moved", self.moved),
            ("unsplit", self.unsplit),
            ("died", self.died),
            ("steps", self.steps),
            ("compared", self.compared),
        ] {
            lines.push(format!("figure all {key} {value}"));
        }
        for (on, time) in &self.spent {
            lines.push(format!("figure all spent:{on} {}", time.as_millis()));
        }
        lines
    }
}
