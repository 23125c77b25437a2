// SPDX-License-Identifier: GPL-2.0

//! Where the mirror region is on the host: to be put on other memory than its primaries, locked.

use crate::{
    host::Host,
    host_queue::Fault, //
};
use kernel::prelude::*;
use kmirror_core::{
    wire::{
        features, placed, Domain, Domains, Kind, Place, PlaceAnswer, Range, MAX_RANGES, NO_NODE,
    },
    BLOCK_BYTES, //
};

/// What the host has said about the whole region. Pages are of 4 KiB.
#[derive(Clone, Copy)]
pub(crate) struct Placement {
    done: u32,
    wanted: u32,
    pages: u64,
    present: u64,
    apart: u64,
    huge: u64,
    domains: Domains,
}

impl Placement {
    /// That of no memory.
    pub(crate) fn none() -> Self {
        Self {
            done: u32::MAX,
            wanted: NO_NODE,
            pages: 0,
            present: 0,
            apart: 0,
            huge: 0,
            domains: Domains::default(),
        }
    }

    /// Takes in what was said about a further part.
    fn add(&mut self, part: &PlaceAnswer) {
        self.done &= part.done;
        self.wanted = part.wanted;
        self.pages += part.pages;
        self.present += part.present;
        self.apart += part.apart;
        self.huge += part.huge;
        let mut domains = Domains::default();
        let (old, new) = (self.domains.as_slice(), part.domains.as_slice());
        for domain in old {
            let more = new.iter().find(|other| other.node == domain.node);
            domains.push(Domain {
                pages: domain
                    .pages
                    .saturating_add(more.map_or(0, |more| more.pages)),
                ..*domain
            });
        }
        for domain in new {
            if !old.iter().any(|other| other.node == domain.node) {
                domains.push(*domain);
            }
        }
        self.domains = domains;
    }

    /// Names and values, as they are shown, but for the nodes.
    pub(crate) fn entries(&self) -> [(&'static str, i64); 9] {
        let bit = |bit: u32| i64::from(self.pages > 0 && self.done & bit != 0);
        let count = |pages: u64| i64::try_from(pages).unwrap_or(i64::MAX);
        let wanted = match self.wanted {
            NO_NODE => -1,
            node => i64::from(node),
        };
        [
            ("pages", count(self.pages)),
            ("present", count(self.present)),
            ("apart", count(self.apart)),
            ("huge", count(self.huge)),
            ("wanted_node", wanted),
            ("bound", bit(placed::BOUND)),
            ("locked", bit(placed::LOCKED)),
            ("unmerged", bit(placed::UNMERGED)),
            ("all_apart", bit(placed::APART)),
        ]
    }

    /// How many pages are on which node of the host.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let domains = self.domains.as_slice().iter();
        domains.map(|domain| (domain.node, domain.pages))
    }
}

/// Has the blocks that begin with these frames placed by the host. If they are `empty`, they are made afresh, and nobody may use them until this returns.
///
/// # Errors
///
/// Those of [`Host::plain`]; [`Fault::Gone`] also if there was no service.
///
/// Context: may sleep, and take long.
pub(crate) fn place(host: &Host, firsts: &[usize], empty: bool) -> Result<Placement, Fault> {
    let session = host.session().ok_or(Fault::Gone)?;
    if !session.has(features::PLACE) && empty {
        // Nothing to be chosen; where they are is asked later.
        return Ok(Placement::none());
    }
    let blocks = (session.hello.place_bytes / BLOCK_BYTES).max(1);
    let mut sum = Placement::none();
    let mut rest = firsts;
    while !rest.is_empty() {
        let mut ranges = KVec::with_capacity(MAX_RANGES, GFP_KERNEL).map_err(|_| Fault::Local)?;
        rest = take_ranges(&mut ranges, rest, blocks);
        let mut body = KVec::with_capacity(Place::bytes(ranges.len()), GFP_KERNEL)
            .map_err(|_| Fault::Local)?;
        let mut put = |bytes: &[u8]| {
            body.extend_from_slice(bytes, GFP_KERNEL)
                .map_err(|_| Fault::Local)
        };
        put(&Place::encode_head(empty, ranges.len() as u32))?;
        for range in &ranges {
            put(&range.encode())?;
        }
        let part = host.plain(Kind::Place, &body, true, |answer| {
            PlaceAnswer::parse(answer).map_err(|_| Fault::Rubbish)
        })?;
        sum.add(&part);
    }
    Ok(sum)
}

/// Takes blocks off the front of `firsts`, up to `blocks` of them, those in a row as one range.
/// Returns what is left.
fn take_ranges<'a>(ranges: &mut KVec<Range>, firsts: &'a [usize], blocks: u64) -> &'a [usize] {
    let mut taken = 0;
    while let Some(&first) = firsts.get(taken) {
        if taken as u64 >= blocks {
            break;
        }
        let start = (first as u64) << 12;
        let joined = ranges
            .last()
            .filter(|last| last.end() == start)
            .and_then(|last| Range::new(last.start(), last.bytes() + BLOCK_BYTES));
        match (joined, ranges.last_mut()) {
            (Some(joined), Some(last)) => *last = joined,
            _ => {
                let fits = Range::new(start, BLOCK_BYTES)
                    .is_some_and(|range| ranges.push_within_capacity(range).is_ok());
                if !fits {
                    break;
                }
            }
        }
        taken += 1;
    }
    &firsts[taken.max(1).min(firsts.len())..]
}
