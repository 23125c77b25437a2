// SPDX-License-Identifier: GPL-2.0

//! The list of replicas in debugfs, `docs/abi/debugfs-kmirror`.

use crate::error::{Error, Result};
use crate::system::{self, System};
use serde::Serialize;

/// Where it is.
pub const PATH: &str = "/sys/kernel/debug/kmirror/replicas";

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Replica {
    /// The frame of the page.
    pub primary: u64,
    /// The frame that its copy is in; `None` if it is at the host, or is one word.
    pub frame: Option<u64>,
    /// The number of the cgroup that it belongs to, 0 if that is gone.
    pub cgroup: u64,
}

impl Replica {
    /// Reads a line. What a later kernel adds to it is skipped.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let primary = words.next()?.parse().ok()?;
        let frame = match words.next()? {
            elsewhere if elsewhere.contains(':') => None,
            frame => Some(frame.parse().ok()?),
        };
        Some(Self {
            primary,
            frame,
            cgroup: words.next()?.parse().ok()?,
        })
    }
}

/// All replicas.
pub fn read(system: &System) -> Result<Vec<Replica>> {
    let path = system.path(PATH);
    let Some(text) = system::read_if_there(&path)? else {
        return Err(Error::missing(format!(
            "there is no {}; `mount -t debugfs debugfs /sys/kernel/debug` may help",
            path.display()
        )));
    };
    text.lines()
        .map(|line| {
            Replica::parse(line).ok_or_else(|| {
                system::strange(&path, line, "a line of a frame, a place and a cgroup")
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let replica = Replica::parse("12 34 56").unwrap();
        assert_eq!(
            (replica.primary, replica.frame, replica.cgroup),
            (12, Some(34), 56)
        );
        for line in ["12 host:3.4 56", "12 fill:0x0 56"] {
            assert_eq!(Replica::parse(line).unwrap().frame, None);
        }
        assert!(Replica::parse("12 34 56 host").is_some());
        for line in ["", "1 2", "1 2 x", "0x1 2 3"] {
            assert_eq!(Replica::parse(line), None, "{line:?}");
        }
    }
}
