// SPDX-License-Identifier: GPL-2.0

//! Whether a cgroup is protected.

use crate::text::{self, ParseError};

/// A cgroup's `mirror.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// As its parent.
    #[default]
    Inherit,
    /// Not protected.
    Off,
    /// Mirrored by way of the dirty bits of its page tables.
    Tracked,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Inherit, Self::Off, Self::Tracked];

    /// Reads what is written to `mirror.mode`.
    ///
    /// # Errors
    ///
    /// [`ParseError::Invalid`] for anything that [`as_str`](Self::as_str) never gives.
    pub fn parse(text: &[u8]) -> Result<Self, ParseError> {
        let name = text::trim(text);
        Self::ALL
            .into_iter()
            .find(|mode| mode.as_str().as_bytes() == name)
            .ok_or(ParseError::Invalid)
    }

    /// The mode's name in sysfs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inherit => "inherit",
            Self::Off => "off",
            Self::Tracked => "tracked",
        }
    }

    /// What the mode comes to below a parent for which `parent` came out: [`Off`](Self::Off) or
    /// [`Tracked`](Self::Tracked).
    ///
    /// Nothing is inherited from [`Inherit`](Self::Inherit): it stands for the root's parent here,
    /// and comes to `Off`.
    #[must_use]
    pub const fn effective(self, parent: Self) -> Self {
        match (self, parent) {
            (Self::Off, _) | (Self::Inherit, Self::Off | Self::Inherit) => Self::Off,
            (Self::Tracked, _) | (Self::Inherit, Self::Tracked) => Self::Tracked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for mode in Mode::ALL {
            assert_eq!(Mode::parse(mode.as_str().as_bytes()), Ok(mode));
            let written = format!("  {}\t\n", mode.as_str());
            assert_eq!(Mode::parse(written.as_bytes()), Ok(mode));
        }
    }

    #[test]
    fn anything_else_is_invalid() {
        for text in [
            &b""[..],
            b"\n",
            b"Off",
            b"of",
            b"offf",
            b"off\n\n",
            b"off,tracked",
            b"strict",
            b"1",
            b"off\0",
            b"\xff",
        ] {
            assert_eq!(Mode::parse(text), Err(ParseError::Invalid), "{text:?}");
        }
    }

    #[test]
    fn children_follow_their_parent_until_told_otherwise() {
        use Mode::{Inherit, Off, Tracked};
        for (own, parent, want) in [
            (Inherit, Inherit, Off),
            (Inherit, Off, Off),
            (Inherit, Tracked, Tracked),
            (Off, Tracked, Off),
            (Off, Off, Off),
            (Off, Inherit, Off),
            (Tracked, Off, Tracked),
            (Tracked, Tracked, Tracked),
            (Tracked, Inherit, Tracked),
        ] {
            assert_eq!(own.effective(parent), want, "{own:?} below {parent:?}");
        }
    }
}
