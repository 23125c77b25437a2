// SPDX-License-Identifier: GPL-2.0

//! Sizes that users write: of the mirror region, and of what a cgroup may use of it.

use crate::slot::BLOCK_BYTES;
use crate::text::{self, ParseError};

/// Size of the mirror region in bytes: 0, or at least one block and at most all of physical memory
/// (2^52 bytes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionSize(u64);

impl RegionSize {
    /// No region: nothing is mirrored until it grows.
    pub const EMPTY: Self = Self(0);

    const MAX_BYTES: u64 = 1 << 52;

    /// Reads what is written to `region/total`: bytes in decimal or `0x`, with an optional suffix
    /// `K`, `M`, `G`, `T`, `P` or `E` in either case.
    ///
    /// # Errors
    ///
    /// [`ParseError::Range`] for a size that is not 0 and less than one block of 2 MiB, of which
    /// nothing could be reserved, and for one above 2^52; [`ParseError::Invalid`] for what is no
    /// size, such as a number with a leading zero.
    pub fn parse(text: &[u8]) -> Result<Self, ParseError> {
        Self::parse_trimmed(text::trim(text))
    }

    fn parse_trimmed(text: &[u8]) -> Result<Self, ParseError> {
        match text::bytes(text)? {
            bytes @ (0 | BLOCK_BYTES..=Self::MAX_BYTES) => Ok(Self(bytes)),
            _ => Err(ParseError::Range),
        }
    }

    /// Bytes asked for.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// Whole blocks of 2 MiB in it, so never more than was asked for.
    pub fn blocks(self) -> u32 {
        // At most 2^52 / 2^21.
        (self.0 / BLOCK_BYTES) as u32
    }
}

/// The module parameter `region=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionSpec {
    /// How large the mirror region is.
    pub size: RegionSize,
    /// The NUMA node that it is on; `None` leaves that to the page allocator.
    pub node: Option<u32>,
}

impl RegionSpec {
    /// The greatest node number of any kernel (`CONFIG_NODES_SHIFT` is at most 10).
    pub const MAX_NODE: u32 = 1023;

    /// Reads `<size>[@<node>]`: a size as [`RegionSize::parse`] takes it, a node in decimal, no
    /// blanks between.
    ///
    /// # Errors
    ///
    /// As [`RegionSize::parse`]; [`ParseError::Range`] for a node above
    /// [`MAX_NODE`](Self::MAX_NODE).
    pub fn parse(text: &[u8]) -> Result<Self, ParseError> {
        let text = text::trim(text);
        let mut parts = text.splitn(2, |&byte| byte == b'@');
        let size = RegionSize::parse_trimmed(parts.next().unwrap_or_default())?;
        let node = parts.next().map(Self::parse_node).transpose()?;
        Ok(Self { size, node })
    }

    fn parse_node(text: &[u8]) -> Result<u32, ParseError> {
        match u32::try_from(text::decimal(text)?) {
            Ok(node) if node <= Self::MAX_NODE => Ok(node),
            _ => Err(ParseError::Range),
        }
    }
}

/// The most that a cgroup may use of the mirror region, `mirror.max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(u64);

impl Limit {
    /// No limit, `max`.
    pub const MAX: Self = Self(u64::MAX);

    /// Reads what is written to `mirror.max`: `max`, or bytes as [`RegionSize::parse`] takes them,
    /// rounded down to whole slots as `memory.max` is to pages.
    ///
    /// # Errors
    ///
    /// [`ParseError::Range`] past 64 bits, [`ParseError::Invalid`] for what is no size.
    pub fn parse(text: &[u8]) -> Result<Self, ParseError> {
        match text::trim(text) {
            b"max" => Ok(Self::MAX),
            number => Ok(Self(text::bytes(number)? / 4096)),
        }
    }

    /// In slots of 4 KiB; `u64::MAX` for no limit.
    pub fn slots(self) -> u64 {
        self.0
    }

    /// In bytes; `None` for no limit.
    pub fn bytes(self) -> Option<u64> {
        // Every number of slots but that of `MAX` came from 64 bits of bytes.
        self.0.checked_mul(4096)
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ParseError::{Invalid, Range};

    fn spec(text: &[u8]) -> Result<(u64, u32, Option<u32>), ParseError> {
        RegionSpec::parse(text).map(|spec| (spec.size.bytes(), spec.size.blocks(), spec.node))
    }

    #[test]
    fn reads_a_region() {
        for (text, want) in [
            (&b"0"[..], Ok((0, 0, None))),
            (b"256M", Ok((256 << 20, 128, None))),
            (b" 256m@1\n", Ok((256 << 20, 128, Some(1)))),
            (b"0@0", Ok((0, 0, Some(0)))),
            (b"0x200000@1023", Ok((2 << 20, 1, Some(1023)))),
            (b"2097152", Ok((2 << 20, 1, None))),
            (b"2097151", Err(Range)),
            (b"1", Err(Range)),
            // Never more than asked.
            (b"4194303", Ok((4194303, 1, None))),
            (b"4P", Ok((1 << 52, 1 << 31, None))),
            (b"0x10000000000001", Err(Range)),
            (b"16E", Err(Range)),
            (b"256M@1024", Err(Range)),
            (b"256M@99999999999999999999", Err(Range)),
            (b"", Err(Invalid)),
            (b"@", Err(Invalid)),
            (b"@1", Err(Invalid)),
            (b"256M@", Err(Invalid)),
            (b"256M@-1", Err(Invalid)),
            (b"256M@0x1", Err(Invalid)),
            (b"256M@01", Err(Invalid)),
            (b"256M@1@2", Err(Invalid)),
            (b"256M @1", Err(Invalid)),
            (b"256M@ 1", Err(Invalid)),
            (b"256MB", Err(Invalid)),
            (b"-1", Err(Invalid)),
            (b"max", Err(Invalid)),
        ] {
            assert_eq!(spec(text), want, "{:?}", String::from_utf8_lossy(text));
        }
        assert_eq!(RegionSize::parse(b"256M@1"), Err(Invalid));
        assert_eq!(RegionSize::parse(b"2M\n").map(RegionSize::blocks), Ok(1));
    }

    #[test]
    fn reads_a_limit() {
        assert_eq!(Limit::parse(b"max\n"), Ok(Limit::MAX));
        assert_eq!(Limit::MAX.bytes(), None);
        assert_eq!(Limit::default().slots(), u64::MAX);
        let limit = Limit::parse(b"10000").unwrap();
        assert_eq!((limit.slots(), limit.bytes()), (2, Some(8192)));
        assert_eq!(Limit::parse(b"0").map(Limit::slots), Ok(0));
        let most = Limit::parse(b"18446744073709551615").unwrap();
        assert_eq!(most.bytes(), Some(u64::MAX - 4095));
        assert_eq!(Limit::parse(b"18446744073709551616"), Err(Range));
        for text in [&b""[..], b"Max", b"maximum", b"-1", b"1G@0", b"max max"] {
            assert_eq!(Limit::parse(text), Err(Invalid), "{text:?}");
        }
    }
}
