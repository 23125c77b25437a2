// SPDX-License-Identifier: GPL-2.0

//! Under what a workload is measured.

use crate::peer::Kind;
use anyhow::{bail, Context, Result};
use std::fmt;
use std::time::Duration;

/// What protects the workload meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing: kmirror is not loaded. All others are compared with this.
    Absent,
    /// kmirror is loaded, and switched off.
    Off,
    /// kmirror, with epochs of so many milliseconds.
    Tracked(u32),
    /// No kmirror, but a program that copies in such intervals.
    Peer(Kind, u32),
}

impl Mode {
    /// By its name in settings and results.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        let interval = |ms: &str| ms.parse().with_context(|| format!("mode {name}"));
        Ok(match name.rsplit_once('-') {
            None if name == "absent" => Self::Absent,
            None if name == "off" => Self::Off,
            Some(("tracked", ms)) => Self::Tracked(interval(ms)?),
            Some((kind, ms)) => Self::Peer(Kind::parse(kind)?, interval(ms)?),
            None => bail!("there is no mode {name}"),
        })
    }

    /// Whether kmirror.ko has to be there.
    pub(crate) fn needs_module(self) -> bool {
        matches!(self, Self::Off | Self::Tracked(_))
    }

    /// Length of an epoch, if there are any.
    pub(crate) fn interval(self) -> Option<Duration> {
        match self {
            Self::Absent | Self::Off => None,
            Self::Tracked(ms) | Self::Peer(_, ms) => Some(Duration::from_millis(ms.into())),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Off => f.write_str("off"),
            Self::Tracked(ms) => write!(f, "tracked-{ms}"),
            Self::Peer(kind, ms) => write!(f, "{}-{ms}", kind.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_has_the_name_it_was_asked_by() {
        for name in [
            "absent",
            "off",
            "tracked-1000",
            "soft-dirty-100",
            "pagemap-scan-20",
        ] {
            assert_eq!(Mode::parse(name).unwrap().to_string(), name);
        }
    }

    #[test]
    fn nonsense_is_no_mode() {
        for name in [
            "",
            "tracked",
            "tracked-",
            "tracked-x",
            "soft-100",
            "off-1",
            "-1",
        ] {
            assert!(Mode::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn only_kmirror_needs_the_module() {
        assert!(Mode::Off.needs_module() && Mode::Tracked(10).needs_module());
        assert!(!Mode::Absent.needs_module() && !Mode::Peer(Kind::SoftDirty, 10).needs_module());
    }
}
