// SPDX-License-Identifier: GPL-2.0

//! The host's service, as the guest knows it, and where the host says that the region is.

use crate::finding::Finding;
use crate::keyed::Keyed;
use crate::system::{self, System};
use crate::units;
use kmirror_core::wire::DATA_BYTES;
use serde::Serialize;

/// What is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Bytes of its pool.
    pub pool: u64,
    /// Of these: those that hold replicas.
    pub used: u64,
    /// Where it says that the region is; `None` if it has not said so.
    pub placement: Option<Placement>,
}

/// `region/placement`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// Pages of the region that it knows.
    pub pages: u64,
    /// Of these: those on a node of the host on which the guest has no other memory.
    pub apart: u64,
    /// The host's node that they are wanted on; `None` if it has no other than the guest's.
    pub wanted_node: Option<u32>,
    /// Whether the host swaps none of them out.
    pub locked: bool,
    /// Whether none is merged with others (KSM).
    pub unmerged: bool,
}

impl Service {
    /// Finds out; `None` if there is none that answers.
    pub fn read(system: &System) -> Option<Self> {
        let text = |name: &str| system::read_if_there(&system.mirror(name)).ok().flatten();
        let stat = Keyed::parse(&text("stat")?)?;
        let bytes = |key| stat.get(key).saturating_mul(DATA_BYTES as u64);
        (stat.get("host_connected") == 1).then(|| Self {
            pool: bytes("host_slots"),
            used: bytes("host_used"),
            placement: Placement::parse(&text("region/placement").unwrap_or_default()),
        })
    }

    /// What that means.
    pub fn findings(&self) -> Vec<Finding> {
        let mut found = vec![Finding::good(format!(
            "the host's service is there, with a pool of {}, {} of it used",
            units::bytes(self.pool),
            units::bytes(self.used)
        ))];
        if let Some(placement) = &self.placement {
            placement.findings(&mut found);
        }
        found
    }
}

impl Placement {
    /// Reads the text of the file; `None` if it says nothing of any page.
    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            lines.find(|&(name, _)| name == key).map(|(_, value)| value)
        };
        let number = |key| value(key).and_then(|text| text.parse().ok()).unwrap_or(0);
        (number("pages") > 0).then(|| Self {
            pages: number("pages"),
            apart: number("apart"),
            wanted_node: value("wanted_node").and_then(|text| text.parse().ok()),
            locked: number("locked") == 1,
            unmerged: number("unmerged") == 1,
        })
    }

    /// Whether no page of the region is on a node of the host that has other memory of the guest.
    pub fn all_apart(&self) -> bool {
        self.apart == self.pages
    }

    fn findings(&self, found: &mut Vec<Finding>) {
        if self.all_apart() {
            found.push(Finding::good(
                "the host has the region on a node where the guest has no other memory",
            ));
        } else {
            found.push(Finding::note(
                format!(
                    "the host has {} of the region on nodes that have other memory of the guest, too",
                    units::pages(self.pages.saturating_sub(self.apart))
                ),
                match self.wanted_node {
                    Some(node) => format!("they are wanted on its node {node}; kmirrord's log says why they are not there"),
                    None => "it has no other node; an error that takes more than one page at a time may take both".to_owned(),
                },
            ));
        }
        if !self.unmerged {
            found.push(Finding::note(
                "KSM on the host may merge a page with its replica, and one error then takes both",
                "start this machine with -machine mem-merge=off; kmirrord's log says why it could not stop that",
            ));
        }
        if !self.locked {
            found.push(Finding::note(
                "the host may swap replicas out, and a restore then waits for its disk",
                "kmirrord's log says why it could not lock the region; LimitMEMLOCK= of its unit sets the limit",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_region_is_is_read() {
        let text = "pages 8\npresent 8\napart 6\nhuge 0\nwanted_node -1\nbound 0\nlocked 1\nunmerged 0\nall_apart 0\nnode0 8\n";
        let placement = Placement::parse(text).unwrap();
        let expected = Placement {
            pages: 8,
            apart: 6,
            wanted_node: None,
            locked: true,
            unmerged: false,
        };
        assert_eq!(placement, expected);
        assert!(!placement.all_apart());
        assert_eq!(
            Placement::parse("pages 1\nwanted_node 3")
                .unwrap()
                .wanted_node,
            Some(3)
        );
        assert_eq!(Placement::parse("pages 0\nlocked 1\n"), None);
        assert_eq!(Placement::parse("nonsense"), None);
    }
}
