// SPDX-License-Identifier: GPL-2.0

//! PLACE: memory of the guest on a node without its primaries, locked; and where it really is.

use std::collections::BTreeMap;

use kmirror_core::wire::{placed, Code, Domain, Domains, Place, PlaceAnswer, NO_NODE};
use tracing::debug;

use crate::nodes::{Nodes, Survey};
use crate::ram::{Backing, Ram};

/// Bytes of one PLACE at most. Making that many pages takes tens of milliseconds, in which other
/// requests wait.
pub const MAX_BYTES: u64 = 128 << 20;

/// Guest-physical ranges that do not touch each other: start to end.
#[derive(Clone, Debug, Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    fn contains(&self, address: u64) -> bool {
        let before = self.0.range(..=address).next_back();
        before.is_some_and(|(_, end)| address < *end)
    }

    fn insert(&mut self, mut start: u64, mut end: u64) {
        while let Some((&s, &e)) = self.0.range(..=end).next_back() {
            if e < start {
                break;
            }
            self.0.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        self.0.insert(start, end);
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }
}

/// What has been placed, and where what comes goes to.
#[derive(Debug)]
pub struct Placer {
    nodes: Nodes,
    /// As the administrator says; else the node with the fewest primaries.
    fixed: Option<u32>,
    /// Bytes that may be placed at once.
    limit: u64,
    ranges: Ranges,
    primaries: Survey,
}

impl Placer {
    /// Nothing is placed yet.
    pub fn new(nodes: Nodes, fixed: Option<u32>, limit: u64) -> Self {
        Self {
            nodes,
            fixed,
            limit,
            ranges: Ranges::default(),
            primaries: Survey::default(),
        }
    }

    /// Pages that are placed.
    pub fn pages(&self) -> u64 {
        self.ranges.bytes() / 4096
    }

    /// Forgets what was placed: the guest's memory is another.
    pub fn clear(&mut self) {
        self.ranges = Ranges::default();
        self.primaries = Survey::default();
    }

    /// Is there a node to choose?
    pub fn can_choose(&self) -> bool {
        self.fixed.is_some() || self.nodes.several()
    }

    /// The node that memory is put on.
    fn wanted(&self) -> Option<u32> {
        self.fixed.or_else(|| self.nodes.away_from(&self.primaries))
    }

    /// Looks where the guest's primaries are.
    pub fn survey(&mut self, ram: &Ram) {
        self.primaries = Survey::of(ram, |address| self.ranges.contains(address));
    }

    /// The host's nodes, with the primaries that the last survey found there. Those that matter
    /// come first, in case they are too many.
    pub fn domains(&self, pool: Option<u32>) -> Domains {
        let wanted = self.wanted();
        let mut all: Vec<Domain> = self
            .nodes
            .as_slice()
            .iter()
            .map(|&node| {
                let pages = self.primaries.pages(node);
                let mut flags = 0;
                if pool == Some(node) {
                    flags |= Domain::POOL;
                }
                if wanted == Some(node) {
                    flags |= Domain::PLACE;
                }
                if pages > 0 {
                    flags |= Domain::PRIMARIES;
                }
                Domain { node, flags, pages }
            })
            .collect();
        all.sort_by_key(|domain| (domain.flags == 0, domain.node));
        let mut domains = Domains::default();
        all.into_iter().all(|domain| domains.push(domain));
        domains
    }

    /// Does what is asked, as far as the host lets it; the answer says how far that is.
    ///
    /// # Errors
    ///
    /// [`Code::Value`] for more than [`MAX_BYTES`]; [`Code::Memory`] when part of a range is not
    /// shared with the service; [`Code::Full`] past the administrator's limit. Nothing has changed
    /// then.
    pub fn place(&mut self, ram: &Ram, place: &Place<'_>) -> Result<PlaceAnswer, Code> {
        if place.total() > MAX_BYTES {
            return Err(Code::Value);
        }
        let mut pieces = Vec::new();
        let mut ranges = self.ranges.clone();
        for range in place.ranges() {
            pieces.extend(ram.pieces(range)?);
            ranges.insert(range.start(), range.end());
        }
        if ranges.bytes() > self.limit {
            return Err(Code::Full);
        }
        self.ranges = ranges;
        self.survey(ram);
        let wanted = self.wanted();

        let mut done = placed::BOUND | placed::LOCKED | placed::UNMERGED;
        let mut succeeded = |bit: u32, what: &str, result: std::io::Result<()>| {
            if let Err(error) = &result {
                debug!(%error, "place: {what}");
                done &= !bit;
            }
            result.is_ok()
        };
        let mut answer = PlaceAnswer {
            done: 0,
            wanted: wanted.unwrap_or(NO_NODE),
            pages: place.total() / 4096,
            present: 0,
            apart: 0,
            huge: 0,
            fresh: 0,
            domains: Domains::default(),
        };
        let mut found = BTreeMap::<u32, u64>::new();
        for (region, range) in &pieces {
            let mapping = region.mapping();
            let pages = (range.end - range.start) / 4096;
            let bound = match wanted {
                // Preferred, not bound: a full node must not end the guest.
                Some(node) => mapping.prefer(range, node, !place.empty),
                None => Err(std::io::ErrorKind::Unsupported.into()),
            };
            succeeded(placed::BOUND, "mbind", bound);
            // A part of a page of hugetlbfs would only be zeroed.
            let page = region.backing().page_bytes();
            let whole = region.file_offset(range.start) % page == 0
                && (range.end - range.start) % page == 0
                && region.backing() != Backing::Other;
            if place.empty && whole && succeeded(0, "fallocate", region.punch(range)) {
                answer.fresh += pages;
            }
            succeeded(placed::UNMERGED, "madvise", mapping.unmerge(range));
            succeeded(0, "populate", mapping.populate(range));
            succeeded(placed::LOCKED, "mlock", mapping.lock(range));
            let looked = mapping.nodes(range, |node| {
                if let Some(node) = node {
                    *found.entry(node).or_default() += 1;
                }
            });
            succeeded(0, "move_pages", looked);
            if page > 4096 {
                answer.huge += pages;
            }
        }
        for (node, pages) in found {
            let mut flags = 0;
            if wanted == Some(node) {
                flags |= Domain::PLACE;
            }
            match self.primaries.pages(node) {
                0 => answer.apart += pages,
                _ => flags |= Domain::PRIMARIES,
            }
            answer.present += pages;
            answer.domains.push(Domain { node, flags, pages });
        }
        if answer.present == answer.pages {
            done |= placed::PRESENT;
        }
        if answer.apart == answer.pages {
            done |= placed::APART;
        }
        answer.done = done;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_are_a_set(inserts in proptest::collection::vec((0u64..60, 1u64..12), 0..20)) {
            let mut ranges = Ranges::default();
            let mut model = std::collections::BTreeSet::new();
            for (start, bytes) in inserts {
                ranges.insert(start, start + bytes);
                model.extend(start..start + bytes);
                prop_assert_eq!(ranges.bytes(), model.len() as u64);
                for address in 0..80 {
                    prop_assert_eq!(ranges.contains(address), model.contains(&address));
                }
            }
        }
    }
}
