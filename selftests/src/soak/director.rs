// SPDX-License-Identifier: GPL-2.0

//! Runs steps, one after the other. What processes do is gathered and goes on side by side; the
//! director's own steps, and the errors, come while they are at it. A step that would read or write
//! what another process is just using waits until all are done: so what must be in a page is known
//! at every moment, although nobody knows when exactly anything happens.

use super::kind::KINDS;
use super::ledger::{Ledger, Tally};
use super::machine::Machine;
use super::model::{Model, Object, Touch};
use super::sandbox::{Hand, Sandbox};
use super::step::{Step, Verb};
use super::verdict::fail;
use super::wire::{Order, What};
use crate::cgroup::Cgroup;
use anyhow::{bail, Context, Result};
use std::collections::BTreeMap;
use std::time::Instant;

/// Pages that somebody is using now.
struct Use {
    proc: u64,
    object: Object,
    from: u64,
    len: u64,
    delicate: bool,
}

/// Who runs the steps.
pub(super) struct Director<'a> {
    pub(super) machine: &'a mut Machine,
    pub(super) tally: &'a mut Tally,
    // Before the cgroups, which must be empty when they go.
    pub(super) hands: BTreeMap<u64, Hand>,
    pub(super) sandbox: Sandbox,
    pub(super) model: Model,
    pub(super) ledger: Ledger,
    /// Errors that come next.
    pub(super) strikes: Vec<Step>,
    /// The frame that broke last.
    pub(super) last: Option<u64>,
    pub(super) round: u64,
    /// Whether each step and what becomes of it is printed.
    pub(super) verbose: bool,
    in_use: Vec<Use>,
    handles: BTreeMap<u64, (usize, u64)>,
    number: usize,
}

impl<'a> Director<'a> {
    /// With cgroups below `parent`.
    pub(super) fn new(
        machine: &'a mut Machine,
        tally: &'a mut Tally,
        parent: &Cgroup,
        plant: Option<Verb>,
    ) -> Result<Self> {
        let model = Model {
            plant,
            ..Model::default()
        };
        Ok(Self {
            machine,
            tally,
            hands: BTreeMap::new(),
            sandbox: Sandbox::new(parent)?,
            model,
            ledger: Ledger::default(),
            strikes: Vec::new(),
            last: None,
            round: 0,
            verbose: std::env::var_os("SOAK_VERBOSE").is_some(),
            in_use: Vec::new(),
            handles: BTreeMap::new(),
            number: 0,
        })
    }

    /// Does a step, or leaves it out if it has no meaning here.
    pub(super) fn step(&mut self, step: &Step) -> Result<()> {
        self.number += 1;
        if step.verb != Verb::Strike {
            self.break_frames()?;
        }
        let Some(touch) = self.model.apply(step) else {
            return Ok(());
        };
        self.tally.steps += 1;
        if self.verbose {
            println!("# round {}: {step}", self.round);
        }
        if step.verb.is_ones_own() {
            return self.order(step, touch);
        }
        match step.verb {
            Verb::Round => self.barrier(),
            Verb::Spawn => {
                let [id, family, ..] = step.args;
                let cgroup = &self.sandbox.families[family as usize].groups[0];
                let start = Instant::now();
                let hand = Hand::start(&self.machine.listener, cgroup, id)?;
                self.tally.spend("spawn", start);
                self.hands.insert(id, hand);
                Ok(())
            }
            Verb::Kill => {
                self.barrier()?;
                let hand = self.hands.remove(&step.args[0]);
                hand.context("nobody to kill")?.kill()
            }
            Verb::Strike => {
                if self.is_delicate(step.args[0], step.args[1]) {
                    self.barrier()?;
                }
                self.strikes.push(*step);
                Ok(())
            }
            _ => {
                self.launch()?;
                let start = Instant::now();
                self.influence(step)?;
                self.tally.spend(step.verb.name(), start);
                Ok(())
            }
        }
    }

    /// Whether somebody is doing something to an area of which the end has to be waited for.
    fn is_delicate(&self, proc: u64, area: u64) -> bool {
        let object = self.model.object(proc, area);
        self.in_use
            .iter()
            .any(|usage| usage.delicate && Some(usage.object) == object)
    }

    /// Whether a step can only be begun when all that was begun before is done.
    fn must_wait(&self, step: &Step, touch: &Touch) -> bool {
        let proc = step.args[0];
        let clash = touch.pages.is_some_and(|(object, from, len)| {
            self.in_use.iter().any(|usage| {
                let apart = usage.from + usage.len <= from || from + len <= usage.from;
                usage.object == object && usage.proc != proc && !apart
            })
        });
        // A peer may only just have been told to map the area or to move it.
        let peer = matches!(step.verb, Verb::VmWrite | Verb::ProcMem)
            && self.is_delicate(step.args[6], step.args[1]);
        clash || peer || matches!(step.verb, Verb::Fork | Verb::Exit)
    }

    fn order(&mut self, step: &Step, touch: Touch) -> Result<()> {
        let proc = step.args[0];
        // Before its use is noted, which a barrier forgets.
        if self.must_wait(step, &touch) {
            self.barrier()?;
        }
        if let Some((object, from, len)) = touch.pages {
            self.in_use.push(Use {
                proc,
                object,
                from,
                len,
                delicate: step.verb.is_delicate(),
            });
        }
        let extra = match step.verb {
            Verb::Map => [self.handle(step)?, 0],
            Verb::VmWrite | Verb::ProcMem => {
                let peer = self.hands.get(&step.args[6]).context("no peer")?;
                let place = peer
                    .places
                    .get(&step.args[1])
                    .context("a peer without the area")?;
                [u64::try_from(peer.pid)?, *place]
            }
            _ => [0, 0],
        };
        let order = Order {
            step: *step,
            extra,
            before: touch.before,
        };
        let hand = self.hands.get_mut(&proc).context("nobody to tell")?;
        hand.queue.push((self.number, order));
        match step.verb {
            Verb::Fork => self.fork(proc, step.args[1]),
            Verb::Exit => {
                let mut hand = self.hands.remove(&proc).context("nobody to tell")?;
                hand.launch()?;
                hand.leave()
            }
            _ => Ok(()),
        }
    }

    /// What is needed to map an area.
    fn handle(&mut self, step: &Step) -> Result<u64> {
        let [_, area, ..] = step.args;
        if let Some(&(_, handle)) = self.handles.get(&area) {
            return Ok(handle);
        }
        let area_is = &self.model.areas[&area];
        let handle = area_is.kind().make(area, area_is.pages)?;
        self.handles.insert(area, (area_is.kind, handle));
        Ok(handle)
    }

    fn fork(&mut self, proc: u64, child: u64) -> Result<()> {
        let hand = self.hands.get_mut(&proc).context("nobody to tell")?;
        hand.launch()?;
        let (findings, trouble) = hand.answer()?;
        hand.busy.clear();
        let pid = findings.iter().find_map(|finding| match finding.what {
            What::Child(pid) => Some(pid),
            _ => None,
        });
        let pid = i32::try_from(pid.with_context(|| format!("no child: {trouble}"))?)?;
        let twin = Hand::adopt(&self.machine.listener, hand, child, pid)?;
        self.hands.insert(child, twin);
        self.ledger.fork(proc, child);
        Ok(())
    }

    /// Lets all begin with what they were told.
    pub(super) fn launch(&mut self) -> Result<()> {
        let waiting = self.hands.iter().filter(|(_, hand)| !hand.queue.is_empty());
        for id in waiting.map(|(&id, _)| id).collect::<Vec<_>>() {
            if !self.hands[&id].busy.is_empty() {
                self.collect(id)?;
            }
            let hand = self.hands.get_mut(&id).context("it is gone")?;
            if let Err(error) = hand.launch() {
                return Err(self.death(id, &error));
            }
        }
        Ok(())
    }

    /// Waits until all have done what they were told.
    pub(super) fn barrier(&mut self) -> Result<()> {
        self.break_frames()?;
        self.launch()?;
        let busy = self.hands.iter().filter(|(_, hand)| !hand.busy.is_empty());
        for id in busy.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.collect(id)?;
        }
        self.in_use.clear();
        self.round += 1;
        Ok(())
    }

    /// Takes the answer of a process, and looks whether that may be.
    fn collect(&mut self, id: u64) -> Result<()> {
        let hand = self.hands.get_mut(&id).context("it is gone")?;
        let start = Instant::now();
        let (findings, trouble) = match hand.answer() {
            Ok(answer) => answer,
            Err(error) => return Err(self.death(id, &error)),
        };
        self.tally.spend("processes", start);
        let orders = std::mem::take(&mut hand.busy);
        for finding in &findings {
            let (number, order) = orders.get(finding.order).context("no such order")?;
            if let What::At(place) = finding.what {
                let hand = self.hands.get_mut(&id).context("it is gone")?;
                hand.places.insert(order.step.args[1], place);
                if order.step.verb == Verb::Map {
                    self.must_be_whole(id, order.step.args[1], place)?;
                }
            } else {
                self.judge(*number, &order.step, finding)?;
            }
        }
        if !trouble.is_empty() {
            fail!("process {id}: {trouble}");
        }
        for (_, order) in &orders {
            let step = &order.step;
            if step.verb == Verb::Unmap {
                if let Some(hand) = self.hands.get_mut(&id) {
                    hand.places.remove(&step.args[1]);
                }
            }
            self.tally.compared += order.before.len() as u64;
            if step.verb != Verb::Check {
                continue;
            }
            if let Some(object) = self.model.object(id, step.args[1]) {
                for (page, _) in &order.before {
                    self.ledger.clear(object, *page, self.round);
                }
            }
        }
        Ok(())
    }

    /// Ends the run: everything that was asked for is done and looked at.
    pub(super) fn end(mut self) -> Result<()> {
        self.barrier()?;
        self.machine.listen()?;
        if self.hands.values().any(|hand| !hand.queue.is_empty()) {
            bail!("steps were left over");
        }
        Ok(())
    }
}

impl Drop for Director<'_> {
    fn drop(&mut self) {
        // In the cgroup's own time, not one after the other.
        for family in &self.sandbox.families {
            let _ = family.cgroup.kill();
        }
        for (area, (kind, handle)) in std::mem::take(&mut self.handles) {
            let _ = KINDS[kind].unmake(area, handle);
        }
    }
}
