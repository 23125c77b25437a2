// SPDX-License-Identifier: GPL-2.0

//! The host's NUMA nodes, each a failure domain, and which of them the guest's primaries are on.

use std::collections::BTreeMap;

use crate::ram::Ram;

/// The nodes that have memory, in ascending order; never none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nodes(Vec<u32>);

impl Nodes {
    /// Those of this host. A kernel without NUMA has node 0.
    pub fn of_this_host() -> Self {
        let list = std::fs::read_to_string("/sys/devices/system/node/has_memory");
        Self::parse(&list.unwrap_or_default())
    }

    /// Reads a list as the kernel writes it, `0-1,4`. What cannot be read is left out.
    pub fn parse(list: &str) -> Self {
        let mut nodes: Vec<u32> = list
            .trim()
            .split(',')
            .filter_map(|part| {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
                (last <= crate::sys::numa::MAX_NODE).then_some(first..=last)
            })
            .flatten()
            .collect();
        nodes.sort_unstable();
        nodes.dedup();
        if nodes.is_empty() {
            nodes.push(0);
        }
        Self(nodes)
    }

    /// All of them.
    pub fn as_slice(&self) -> &[u32] {
        &self.0
    }

    /// Is there a choice?
    pub fn several(&self) -> bool {
        self.0.len() > 1
    }

    /// The node with the fewest of the guest's primaries; of several the one with the highest
    /// number, since hosts and guests fill the low ones first. `None` without a choice.
    pub fn away_from(&self, primaries: &Survey) -> Option<u32> {
        if !self.several() {
            return None;
        }
        self.0
            .iter()
            .rev()
            .copied()
            .min_by_key(|node| primaries.pages(*node))
    }
}

/// An estimate of how many pages of the guest are on each node, from a sample: asking for each page
/// of a large guest would take seconds.
#[derive(Clone, Debug, Default)]
pub struct Survey(BTreeMap<u32, u64>);

impl Survey {
    const SAMPLES: u64 = 512;

    /// Looks at pages of `ram` at equal distances, but for those that `leave_out` names.
    pub fn of(ram: &Ram, leave_out: impl Fn(u64) -> bool) -> Self {
        let step = (ram.bytes() / Self::SAMPLES).max(4096) & !4095;
        let mut found = BTreeMap::<u32, u64>::new();
        for region in ram.regions() {
            for offset in (0..region.mapping().bytes()).step_by(step as usize) {
                if leave_out(region.address() + offset) {
                    continue;
                }
                if let Some(node) = region.mapping().sample(offset) {
                    *found.entry(node).or_default() += step / 4096;
                }
            }
        }
        Self(found)
    }

    /// Pages on `node`.
    pub fn pages(&self, node: u32) -> u64 {
        self.0.get(&node).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        for (list, want) in [
            ("0\n", vec![0]),
            ("0-2,5,7-8\n", vec![0, 1, 2, 5, 7, 8]),
            ("", vec![0]),
            ("nonsense,1", vec![1]),
            ("0-99999999", vec![0]),
        ] {
            assert_eq!(Nodes::parse(list).as_slice(), want, "{list:?}");
        }
    }

    #[test]
    fn the_node_with_fewest_primaries_is_chosen() {
        let survey = |pages: &[(u32, u64)]| Survey(pages.iter().copied().collect());
        let nodes = Nodes::parse("0-2");
        assert_eq!(nodes.away_from(&survey(&[(0, 9)])), Some(2));
        assert_eq!(nodes.away_from(&survey(&[(0, 9), (2, 3)])), Some(1));
        assert_eq!(nodes.away_from(&survey(&[(0, 9), (1, 4), (2, 5)])), Some(1));
        assert_eq!(Nodes::parse("0").away_from(&survey(&[])), None);
    }
}
