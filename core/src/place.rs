// SPDX-License-Identifier: GPL-2.0

//! Where the replicas of a cgroup are kept.

use crate::text::{self, ParseError};

/// The stores of a cgroup's replicas: what `mirror.store` is, unless it is inherited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// The mirror region, in the guest's own memory.
    #[default]
    Guest,
    /// The pool of the host's service.
    Host,
    /// Both: each page has two replicas.
    Both,
}

impl Place {
    /// Every place.
    pub const ALL: [Self; 3] = [Self::Guest, Self::Host, Self::Both];

    /// Reads what is written to `mirror.store`; `None` for `inherit`.
    ///
    /// # Errors
    ///
    /// [`ParseError::Invalid`] for anything else that [`as_str`](Self::as_str) never gives.
    pub fn parse(text: &[u8]) -> Result<Option<Self>, ParseError> {
        let name = text::trim(text);
        if name == b"inherit" {
            return Ok(None);
        }
        Self::ALL
            .into_iter()
            .find(|place| place.as_str().as_bytes() == name)
            .map(Some)
            .ok_or(ParseError::Invalid)
    }

    /// The place's name in sysfs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Host => "host",
            Self::Both => "guest+host",
        }
    }

    /// Whether the mirror region is one of the stores.
    pub const fn in_guest(self) -> bool {
        matches!(self, Self::Guest | Self::Both)
    }

    /// Whether the host's pool is one of the stores.
    pub const fn at_host(self) -> bool {
        matches!(self, Self::Host | Self::Both)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for place in Place::ALL {
            let name = place.as_str();
            assert_eq!(Place::parse(name.as_bytes()), Ok(Some(place)));
            let written = format!(" {name}\t\n");
            assert_eq!(Place::parse(written.as_bytes()), Ok(Some(place)));
            assert_eq!(place.in_guest(), name.contains("guest"));
            assert_eq!(place.at_host(), name.contains("host"));
        }
        assert_eq!(Place::parse(b"inherit\n"), Ok(None));
    }

    #[test]
    fn anything_else_is_invalid() {
        for text in [
            &b""[..],
            b"\n",
            b"Guest",
            b"hos",
            b"hostt",
            b"host+guest",
            b"guest + host",
            b"guest,host",
            b"guest+host+host",
            b"host\0",
            b"\xff",
        ] {
            assert_eq!(Place::parse(text), Err(ParseError::Invalid), "{text:?}");
        }
    }
}
