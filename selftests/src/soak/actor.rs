// SPDX-License-Identifier: GPL-2.0

//! A process of the soak: it does what it is told, batch by batch, and says what it has found.

use super::deed::Tools;
use super::kind::{DIR, KINDS};
use super::lost;
use super::step::Verb;
use super::uring::Ring;
use super::view::View;
use super::wire::{self, Finding, Order, What};
use anyhow::{Context, Result};
use nix::unistd::{fork, ForkResult};
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;

/// Where the director listens.
pub(super) fn socket_path() -> String {
    format!("{DIR}/socket")
}

/// A process.
pub(super) struct Actor {
    pub(super) id: u64,
    socket: UnixStream,
    pub(super) views: BTreeMap<u64, View>,
    pub(super) ring: Option<Ring>,
    pub(super) tools: Tools,
    findings: Vec<Finding>,
}

fn connect(id: u64) -> Result<UnixStream> {
    let mut socket = UnixStream::connect(socket_path()).context("the director's socket")?;
    wire::send(&mut socket, &[id])?;
    Ok(socket)
}

/// The life of a process, started by the director with its number.
pub(super) fn serve(id: u64) -> Result<()> {
    lost::install()?;
    // Children that end are nobody's concern.
    // SAFETY: No handler is installed.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let mut actor = Actor {
        id,
        socket: connect(id)?,
        views: BTreeMap::new(),
        ring: None,
        tools: Tools::new()?,
        findings: Vec::new(),
    };
    // Until the director is gone.
    while let Ok(words) = wire::receive(&mut actor.socket) {
        let orders = wire::decode_orders(words)?;
        if orders.iter().any(|order| order.step.verb == Verb::Exit) {
            break;
        }
        let me = actor.id;
        let mut trouble = String::new();
        for (index, order) in orders.iter().enumerate() {
            if let Err(error) = actor.obey(index, order) {
                trouble = format!("{}: {error:#}", order.step);
                break;
            }
        }
        // A child has orders of its own from here on; the answer is its parent's.
        if actor.id == me {
            let answer = wire::encode_answer(&actor.findings, &trouble);
            wire::send(&mut actor.socket, &answer)?;
        }
        actor.findings.clear();
    }
    Ok(())
}

impl Actor {
    /// Says something about a page.
    pub(super) fn find(&mut self, order: usize, page: u64, what: What) {
        let finding = Finding { order, page, what };
        self.findings.push(finding);
    }

    /// The area that a step is about.
    pub(super) fn view(&mut self, area: u64) -> Result<&mut View> {
        self.views.get_mut(&area).context("not mapped")
    }

    fn obey(&mut self, index: usize, order: &Order) -> Result<()> {
        let [_, area, first, count, ..] = order.step.args;
        match order.step.verb {
            Verb::Map => {
                let kind = *KINDS.get(usize::try_from(first)?).context("no such kind")?;
                let mut view = View::new(kind, area, order.extra[0], count)?;
                self.find(index, 0, What::At(view.mem.addr(0)));
                for (page, content) in &order.before {
                    view.repair(*page, &content.now)?;
                }
                let is_new = !order.before.is_empty();
                if let (true, Some(file)) = (kind.is_on_disk() && is_new, &view.file) {
                    file.sync_all()?;
                }
                self.views.insert(area, view);
            }
            Verb::Unmap => {
                self.unpin(area);
                let view = self.views.remove(&area).context("not mapped")?;
                view.unmap()?;
            }
            Verb::Fork => self.fork(index, area)?,
            Verb::Check => {
                for (page, may) in &order.before {
                    let found = self.view(area)?.check(*page, may)?;
                    self.find_any(index, *page, found);
                }
            }
            Verb::Pin => self.pin(area, first)?,
            Verb::Unpin => self.ring = None,
            verb if verb.is_deed() => self.deed(index, order)?,
            _ => self.advise(index, order)?,
        }
        Ok(())
    }

    /// Says what was found, if anything.
    pub(super) fn find_any(&mut self, order: usize, page: u64, what: Option<What>) {
        if let Some(what) = what {
            self.find(order, page, what);
        }
    }

    /// Gives back a page of an area that is registered with io_uring.
    pub(super) fn unpin(&mut self, area: u64) {
        self.ring.take_if(|ring| ring.area == area);
    }

    fn pin(&mut self, area: u64, page: u64) -> Result<()> {
        self.ring = None;
        // If it cannot be had, the page is written in another way later.
        self.ring = Ring::new(area, page, self.view(area)?).ok();
        Ok(())
    }

    fn fork(&mut self, index: usize, child: u64) -> Result<()> {
        // SAFETY: There is no other thread.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                self.find(index, 0, What::Child(u64::try_from(child.as_raw())?));
            }
            ForkResult::Child => {
                self.id = child;
                // The ring is the parent's; giving it up here must not touch it.
                std::mem::forget(self.ring.take());
                self.tools = Tools::new()?;
                self.socket = connect(child)?;
            }
        }
        Ok(())
    }
}
