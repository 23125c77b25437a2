// SPDX-License-Identifier: GPL-2.0

//! PLACE: keep memory of the guest on another node than its primaries, locked; and say where it is.

use super::bytes::{Reader, Writer};
use super::code::Code;
use super::header::Rubbish;
use super::hello::Domains;

/// Ranges of one PLACE at most.
pub const MAX_RANGES: usize = 64;

/// Guest-physical memory, 16 bytes. Both numbers are multiples of 4096, `bytes` is not 0 and the
/// sum fits in 64 bits:
///
/// ```text
///  0                               8                              16
///  +-------------------------------+-------------------------------+
///  |             start             |             bytes             |
///  +-------------------------------+-------------------------------+
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    start: u64,
    bytes: u64,
}

impl Range {
    /// Bytes of it on the wire.
    pub const BYTES: usize = 16;

    /// `None` unless it is as described above.
    pub const fn new(start: u64, bytes: u64) -> Option<Self> {
        if start % 4096 != 0 || bytes % 4096 != 0 || bytes == 0 {
            return None;
        }
        match start.checked_add(bytes) {
            Some(_) => Some(Self { start, bytes }),
            None => None,
        }
    }

    /// The first address.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// How many bytes.
    pub const fn bytes(self) -> u64 {
        self.bytes
    }

    /// The address after the last.
    pub const fn end(self) -> u64 {
        // Does not overflow, see new().
        self.start.wrapping_add(self.bytes)
    }

    fn parse(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        Self::new(reader.u64()?, reader.u64()?)
    }

    /// The range as it is sent.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        Writer::new().u64(self.start).u64(self.bytes).finish()
    }
}

/// A request PLACE, 8 bytes and 16 for each range, after the header:
///
/// ```text
///  0               4               8
///  +---------------+---------------+-------------------------------+
///  |     flags     |     count     |  1 to 64 ranges of 16 bytes   |
///  +---------------+---------------+-------------------------------+
/// ```
///
/// `flags`: bit 0 *empty*: the ranges hold nothing of value, and nobody uses them until the answer
/// is there. Then their pages are dropped and made afresh where they should be; they read as 0.
/// Without it pages are only moved, as far as the host lets the service move what QEMU maps too.
///
/// Ranges do not overlap each other.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The ranges hold nothing of value.
    pub empty: bool,
    ranges: &'a [u8],
}

impl<'a> Place<'a> {
    /// Bytes of a body with `ranges`.
    pub const fn bytes(ranges: usize) -> usize {
        8 + ranges * Range::BYTES
    }

    /// Reads what follows the header.
    ///
    /// # Errors
    ///
    /// [`Code::Length`], or [`Code::Value`] for unknown flags, no range or too many, ranges that
    /// are not as described or that overlap.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Code> {
        let mut reader = Reader::new(bytes);
        let (flags, count) = Self::head(&mut reader).ok_or(Code::Length)?;
        let count = usize::try_from(count).map_err(|_| Code::Value)?;
        if flags > 1 || count == 0 || count > MAX_RANGES {
            return Err(Code::Value);
        }
        let ranges = reader.rest();
        if ranges.len() != count * Range::BYTES {
            return Err(Code::Length);
        }
        let place = Self {
            empty: flags & 1 != 0,
            ranges,
        };
        if place.ranges().count() != count || place.overlap() {
            return Err(Code::Value);
        }
        Ok(place)
    }

    fn head(reader: &mut Reader<'_>) -> Option<(u32, u32)> {
        Some((reader.u32()?, reader.u32()?))
    }

    /// At most 64 ranges, so each is compared with each.
    fn overlap(&self) -> bool {
        self.ranges().enumerate().any(|(at, one)| {
            self.ranges()
                .take(at)
                .any(|other| one.start < other.end() && other.start < one.end())
        })
    }

    /// The ranges, in the order in which they were sent.
    pub fn ranges(&self) -> impl Iterator<Item = Range> + 'a {
        self.ranges.chunks_exact(Range::BYTES).filter_map(|bytes| {
            let bytes = bytes.first_chunk::<{ Range::BYTES }>()?;
            Range::parse(bytes)
        })
    }

    /// Bytes of all ranges.
    pub fn total(&self) -> u64 {
        self.ranges().fold(0, |sum, range| {
            // Cannot overflow since they do not overlap.
            sum.saturating_add(range.bytes)
        })
    }

    /// The first 8 bytes of a body as it is sent; `count` ranges follow.
    pub fn encode_head(empty: bool, count: u32) -> [u8; 8] {
        Writer::new().u32(empty.into()).u32(count).finish()
    }
}

/// What has been done for all ranges of a PLACE: bits of [`PlaceAnswer::done`].
pub mod placed {
    /// New pages will come from the wanted node.
    pub const BOUND: u32 = 1 << 0;
    /// All pages are locked: the host does not swap them out.
    pub const LOCKED: u32 = 1 << 1;
    /// No page is merged with another of the same contents.
    pub const UNMERGED: u32 = 1 << 2;
    /// All pages are present.
    pub const PRESENT: u32 = 1 << 3;
    /// All pages are on nodes without primaries.
    pub const APART: u32 = 1 << 4;
}

/// The answer to PLACE, 312 bytes after the header. Pages are of 4 KiB:
///
/// ```text
///  0               4               8                              16
///  +---------------+---------------+-------------------------------+
///  |     done      |  wanted node  |             pages             |
///  +---------------+---------------+-------------------------------+
///  |            present            |             apart             |
///  +-------------------------------+-------------------------------+
///  |             huge              |             fresh             |
///  +-------------------------------+---------------+---------------+
///  |    domains    |   reserved    |   16 domains of 16 bytes ...  |
///  +---------------+---------------+-------------------------------+
/// 48              52              56                             312
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceAnswer {
    /// See [`placed`].
    pub done: u32,
    /// The node that pages are wanted on; [`NO_NODE`](super::NO_NODE) when the host has no other
    /// than that of the primaries.
    pub wanted: u32,
    /// Pages of all ranges.
    pub pages: u64,
    /// Of these: those that have a frame of the host.
    pub present: u64,
    /// Of these: those on a node on which the guest has no primaries.
    pub apart: u64,
    /// Pages behind huge pages of the host.
    pub huge: u64,
    /// Pages that were made afresh.
    pub fresh: u64,
    /// On which node how many are, as the host's kernel says.
    pub domains: Domains,
}

impl PlaceAnswer {
    /// Bytes of it.
    pub const BYTES: usize = 56 + Domains::BYTES;

    /// Reads what follows the header.
    ///
    /// # Errors
    ///
    /// [`Rubbish`] when it is too short or long, or has more domains than there is room for.
    pub fn parse(bytes: &[u8]) -> Result<Self, Rubbish> {
        Self::read(bytes).ok_or(Rubbish)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (done, wanted) = (reader.u32()?, reader.u32()?);
        let (pages, present, apart) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (huge, fresh) = (reader.u64()?, reader.u64()?);
        let count = reader.u32()?;
        reader.u32()?;
        let domains = Domains::read(&mut reader, count)?;
        reader.end()?;
        Some(Self {
            done,
            wanted,
            pages,
            present,
            apart,
            huge,
            fresh,
            domains,
        })
    }

    /// The body as it is sent.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let writer = Writer::new()
            .u32(self.done)
            .u32(self.wanted)
            .u64(self.pages)
            .u64(self.present)
            .u64(self.apart)
            .u64(self.huge)
            .u64(self.fresh)
            .u32(self.domains.count())
            .u32(0);
        self.domains.write(writer).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::hello::Domain;
    use super::*;
    use proptest::prelude::*;

    fn body(flags: u32, ranges: &[(u64, u64)]) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(flags.to_le_bytes());
        body.extend((ranges.len() as u32).to_le_bytes());
        for (start, bytes) in ranges {
            body.extend(start.to_le_bytes());
            body.extend(bytes.to_le_bytes());
        }
        body
    }

    fn parse(bytes: &[u8]) -> Result<(bool, Vec<Range>), Code> {
        Place::parse(bytes).map(|place| (place.empty, place.ranges().collect()))
    }

    #[test]
    fn golden() {
        let bytes = [
            1, 0, 0, 0, 1, 0, 0, 0, // head
            0, 0, 0x20, 0, 1, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, // a range
        ];
        let range = Range::new(0x1_0020_0000, 4096).unwrap();
        assert_eq!(parse(&bytes), Ok((true, vec![range])));
        assert_eq!(Place::encode_head(true, 1), bytes[..8]);
        assert_eq!(range.encode(), bytes[8..]);
        assert_eq!(Place::bytes(1), bytes.len());

        let mut domains = Domains::default();
        let (node, flags, pages) = (1, Domain::PLACE, 512);
        domains.push(Domain { node, flags, pages });
        let answer = PlaceAnswer {
            done: placed::BOUND | placed::APART,
            wanted: 1,
            pages: 0x200,
            present: 0x201,
            apart: 0x202,
            huge: 0x203,
            fresh: 0x204,
            domains,
        };
        let mut bytes = [0; 312];
        bytes[0] = 0x11;
        bytes[4] = 1;
        for (at, low) in [(8, 0), (16, 1), (24, 2), (32, 3), (40, 4)] {
            bytes[at] = low;
            bytes[at + 1] = 2;
        }
        bytes[48] = 1;
        bytes[56..68].copy_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0, 0, 2, 0, 0]);
        assert_eq!(answer.encode(), bytes);
        assert_eq!(PlaceAnswer::parse(&bytes), Ok(answer));
        assert_eq!(PlaceAnswer::parse(&bytes[..311]), Err(Rubbish));
    }

    #[test]
    fn wrong_lengths_and_values_are_refused() {
        const M: u64 = 2 << 20;
        let right = body(0, &[(0, M), (4 * M, M), (M, 3 * M)]);
        assert!(parse(&right).is_ok());
        assert_eq!(Place::parse(&right).unwrap().total(), 5 * M);
        for (wrong, code) in [
            (right[..right.len() - 1].to_vec(), Code::Length),
            (vec![0; 7], Code::Length),
            ([&right[..], &[0; 16]].concat(), Code::Length),
            (body(2, &[(0, M)]), Code::Value),
            (body(0, &[]), Code::Value),
            (body(0, &[(1, M)]), Code::Value),
            (body(0, &[(0, M + 1)]), Code::Value),
            (body(0, &[(0, 0)]), Code::Value),
            (body(0, &[(u64::MAX - 4095, 8192)]), Code::Value),
            (body(0, &[(0, M), (M - 4096, M)]), Code::Value),
            (body(0, &[(M, M), (0, 4 * M)]), Code::Value),
        ] {
            assert_eq!(parse(&wrong), Err(code), "{wrong:?}");
        }
        let many: Vec<_> = (0..65).map(|n| (n * M, M)).collect();
        assert!(parse(&body(0, &many[..64])).is_ok());
        assert_eq!(parse(&body(0, &many)), Err(Code::Value));
    }

    proptest! {
        #[test]
        fn ranges_survive(empty: bool, sizes in proptest::collection::vec(1u64..1 << 40, 1..64)) {
            let mut start = 0;
            let mut want = Vec::new();
            let mut bytes = Place::encode_head(empty, sizes.len() as u32).to_vec();
            for size in sizes {
                let range = Range::new(start, size << 12).unwrap();
                bytes.extend(range.encode());
                start = range.end();
                want.push(range);
            }
            prop_assert_eq!(parse(&bytes), Ok((empty, want)));
        }

        #[test]
        fn what_is_parsed_is_sound(bytes in proptest::collection::vec(any::<u8>(), 0..200), few: u8) {
            let mut bytes = bytes;
            if let Some(head) = bytes.first_chunk_mut::<8>() {
                *head = Place::encode_head(false, (few % 16).into());
            }
            if let Ok((_, ranges)) = parse(&bytes) {
                prop_assert_eq!(bytes.len(), Place::bytes(ranges.len()));
                for range in ranges {
                    prop_assert!(range.start() < range.end());
                }
            }
        }
    }
}
