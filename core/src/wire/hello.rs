// SPDX-License-Identifier: GPL-2.0

//! HELLO: which version both speak, what the service can, which parts of the host's memory break
//! apart from each other.

use super::bytes::{Reader, Writer};
use super::code::Code;
use super::header::Rubbish;

/// What a service may be able to do, and a guest may ask for. A bit that only one of them has is
/// not used.
pub mod features {
    /// STORE, FETCH and DROP: the pool has room.
    pub const POOL: u64 = 1 << 0;
    /// PLACE can choose a node: the host has more than one with memory.
    pub const PLACE: u64 = 1 << 1;
    /// HEAL.
    pub const HEAL: u64 = 1 << 2;
    /// RESCUE.
    pub const RESCUE: u64 = 1 << 3;
    /// All that have a meaning.
    pub const ALL: u64 = POOL | PLACE | HEAL | RESCUE;
}

/// A request HELLO, 16 bytes after the header:
///
/// ```text
///  0       2       4               8                              16
///  +-------+-------+---------------+-------------------------------+
///  |lowest |highest|     flags     |           features            |
///  +-------+-------+---------------+-------------------------------+
/// ```
///
/// `flags`: bit 0 *keep*: the pool's contents are still known to the guest. Without it the pool is
/// emptied: a guest that has booted afresh knows none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The lowest version that the guest speaks.
    pub lowest: u16,
    /// The highest, not below.
    pub highest: u16,
    /// Keep what is in the pool.
    pub keep: bool,
    /// What the guest knows of [`features`]. Other bits may be set: a later guest has more.
    pub features: u64,
}

impl Hello {
    /// Bytes of it.
    pub const BYTES: usize = 16;

    /// Reads what follows the header.
    ///
    /// # Errors
    ///
    /// [`Code::Length`], or [`Code::Value`] for unknown flags or `lowest` above `highest`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Code> {
        let (hello, flags) = Self::read(bytes).ok_or(Code::Length)?;
        if flags > 1 || hello.lowest > hello.highest {
            return Err(Code::Value);
        }
        Ok(hello)
    }

    fn read(bytes: &[u8]) -> Option<(Self, u32)> {
        let mut reader = Reader::new(bytes);
        let (lowest, highest) = (reader.u16()?, reader.u16()?);
        let (flags, features) = (reader.u32()?, reader.u64()?);
        reader.end()?;
        let hello = Self {
            lowest,
            highest,
            keep: flags & 1 != 0,
            features,
        };
        Some((hello, flags))
    }

    /// The body as it is sent.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        Writer::new()
            .u16(self.lowest)
            .u16(self.highest)
            .u32(self.keep.into())
            .u64(self.features)
            .finish()
    }

    /// The version to be spoken with a side that speaks `versions`, lowest and highest: the highest
    /// in common. `None` when there is none.
    pub fn agree(&self, versions: (u16, u16)) -> Option<u16> {
        let highest = self.highest.min(versions.1);
        (highest >= self.lowest && highest >= versions.0).then_some(highest)
    }
}

/// Failure domains in one answer at most. A host that has more shows those that matter to the
/// guest first.
pub const MAX_DOMAINS: usize = 16;

/// A node number that stands for none.
pub const NO_NODE: u32 = u32::MAX;

/// A failure domain of the host, which is one NUMA node, 16 bytes:
///
/// ```text
///  0               4               8                              16
///  +---------------+---------------+-------------------------------+
///  |     node      |     flags     |             pages             |
///  +---------------+---------------+-------------------------------+
/// ```
///
/// `flags`: bit 0 the pool is there, bit 1 PLACE puts memory there, bit 2 the guest has primaries
/// there, which is all of its memory but what it has placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Domain {
    /// The host's number of the node.
    pub node: u32,
    /// See above; further bits are for later versions.
    pub flags: u32,
    /// HELLO: pages of the guest there. PLACE: pages of the ranges there. 4 KiB each.
    pub pages: u64,
}

impl Domain {
    /// Bytes of it.
    pub const BYTES: usize = 16;
    /// The pool is there.
    pub const POOL: u32 = 1 << 0;
    /// PLACE puts memory there.
    pub const PLACE: u32 = 1 << 1;
    /// The guest has primaries there.
    pub const PRIMARIES: u32 = 1 << 2;

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            node: reader.u32()?,
            flags: reader.u32()?,
            pages: reader.u64()?,
        })
    }
}

/// Up to [`MAX_DOMAINS`] domains; a place of the array that is not used is all 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Domains {
    all: [Domain; MAX_DOMAINS],
    count: usize,
}

impl Domains {
    /// Bytes of the array.
    pub const BYTES: usize = MAX_DOMAINS * Domain::BYTES;

    /// Appends a domain; `false` when there are [`MAX_DOMAINS`] already.
    pub fn push(&mut self, domain: Domain) -> bool {
        match self.all.get_mut(self.count) {
            Some(place) => {
                *place = domain;
                self.count += 1;
                true
            }
            None => false,
        }
    }

    /// Those that are used.
    pub fn as_slice(&self) -> &[Domain] {
        self.all.get(..self.count).unwrap_or(&[])
    }

    pub(super) fn read(reader: &mut Reader<'_>, count: u32) -> Option<Self> {
        let count = usize::try_from(count).ok().filter(|&n| n <= MAX_DOMAINS)?;
        let mut all = [Domain::default(); MAX_DOMAINS];
        for (at, place) in all.iter_mut().enumerate() {
            let domain = Domain::read(reader)?;
            if at < count {
                *place = domain;
            }
        }
        Some(Self { all, count })
    }

    pub(super) fn write<const N: usize>(&self, writer: Writer<N>) -> Writer<N> {
        self.all.iter().fold(writer, |writer, domain| {
            writer.u32(domain.node).u32(domain.flags).u64(domain.pages)
        })
    }

    pub(super) fn count(&self) -> u32 {
        // At most MAX_DOMAINS.
        self.count as u32
    }
}

/// The answer to HELLO, 296 bytes after the header:
///
/// ```text
///  0       2       4               8                              16
///  +-------+-------+---------------+-------------------------------+
///  |version| resvd |    domains    |           features            |
///  +-------+-------+---------------+-------------------------------+
///  |             slots             |          place bytes          |
///  +-------------------------------+-------------------------------+
///  |             frame             |   16 domains of 16 bytes ...  |
///  +-------------------------------+-------------------------------+
/// 32                              40                             296
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloAnswer {
    /// The version of all that follows.
    pub version: u16,
    /// What the service can, and the guest knows of.
    pub features: u64,
    /// Slots of the pool. Their numbers are below.
    pub slots: u64,
    /// Bytes of all ranges of one PLACE at most.
    pub place_bytes: u64,
    /// Bytes of the largest page that backs the guest's memory: what breaks at once.
    pub frame_bytes: u64,
    /// The host's nodes that have memory.
    pub domains: Domains,
}

impl HelloAnswer {
    /// Bytes of it.
    pub const BYTES: usize = 40 + Domains::BYTES;

    /// Reads what follows the header.
    ///
    /// # Errors
    ///
    /// [`Rubbish`] when it is too short, or has more domains than there is room for.
    pub fn parse(bytes: &[u8]) -> Result<Self, Rubbish> {
        Self::read(bytes).ok_or(Rubbish)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let version = reader.u16()?;
        reader.u16()?;
        let count = reader.u32()?;
        let answer = Self {
            version,
            features: reader.u64()?,
            slots: reader.u64()?,
            place_bytes: reader.u64()?,
            frame_bytes: reader.u64()?,
            domains: Domains::read(&mut reader, count)?,
        };
        reader.end()?;
        Some(answer)
    }

    /// The body as it is sent.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let writer = Writer::new()
            .u16(self.version)
            .u16(0)
            .u32(self.domains.count())
            .u64(self.features)
            .u64(self.slots)
            .u64(self.place_bytes)
            .u64(self.frame_bytes);
        self.domains.write(writer).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden() {
        let hello = Hello {
            lowest: 1,
            highest: 0x0203,
            keep: true,
            features: 0x0102_0304_0506_0708,
        };
        let bytes = [1, 0, 3, 2, 1, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1];
        assert_eq!(hello.encode(), bytes);
        assert_eq!(Hello::parse(&bytes), Ok(hello));

        let mut domains = Domains::default();
        let (node, flags, pages) = (0x0102_0304, Domain::PRIMARIES, 0x1112);
        assert!(domains.push(Domain { node, flags, pages }));
        let answer = HelloAnswer {
            version: 1,
            features: 3,
            slots: 0x1_0000,
            place_bytes: 1 << 30,
            frame_bytes: 2 << 20,
            domains,
        };
        let mut bytes = [0; 296];
        bytes[..56].copy_from_slice(&[
            1, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, // version to features
            0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, // slots, place bytes
            0, 0, 0x20, 0, 0, 0, 0, 0, // frame
            4, 3, 2, 1, 4, 0, 0, 0, 0x12, 0x11, 0, 0, 0, 0, 0, 0, // a domain
        ]);
        assert_eq!(answer.encode(), bytes);
        assert_eq!(HelloAnswer::parse(&bytes), Ok(answer));
        assert_eq!(HelloAnswer::parse(&bytes[..295]), Err(Rubbish));
        bytes[4] = 17;
        assert_eq!(HelloAnswer::parse(&bytes), Err(Rubbish));
    }

    #[test]
    fn wrong_lengths_and_values_are_refused() {
        let right = [1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(Hello::parse(&right).is_ok());
        assert_eq!(Hello::parse(&right[..15]), Err(Code::Length));
        assert_eq!(Hello::parse(&[0; 17]), Err(Code::Length));
        for (at, value) in [(4, 2), (7, 1), (0, 2)] {
            let mut wrong = right;
            wrong[at] = value;
            assert_eq!(Hello::parse(&wrong), Err(Code::Value), "byte {at}");
        }
    }

    #[test]
    fn the_highest_in_common_is_agreed_on() {
        for (theirs, ours, want) in [
            ((1, 1), (1, 1), Some(1)),
            ((1, 9), (1, 3), Some(3)),
            ((2, 3), (1, 9), Some(3)),
            ((2, 3), (1, 1), None),
            ((1, 1), (2, 3), None),
        ] {
            let hello = Hello {
                lowest: theirs.0,
                highest: theirs.1,
                keep: false,
                features: 0,
            };
            assert_eq!(hello.agree(ours), want, "{theirs:?} {ours:?}");
        }
    }

    #[test]
    fn there_is_room_for_sixteen_domains() {
        let mut domains = Domains::default();
        for node in 0..20 {
            let domain = Domain {
                node,
                ..Domain::default()
            };
            assert_eq!(domains.push(domain), node < 16);
        }
        assert_eq!(domains.as_slice().len(), 16);
        assert_eq!(domains.as_slice()[15].node, 15);
    }

    proptest! {
        #[test]
        fn parse_takes_only_what_encode_gives(bytes in any::<[u8; 16]>(), flags in 0u8..3) {
            let mut bytes = bytes;
            bytes[4..8].copy_from_slice(&[flags, 0, 0, 0]);
            if let Ok(hello) = Hello::parse(&bytes) {
                prop_assert_eq!(hello.encode(), bytes);
            }
        }

        #[test]
        fn any_bytes_can_be_parsed(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Hello::parse(&bytes);
            if let Ok(answer) = HelloAnswer::parse(&bytes) {
                prop_assert!(answer.domains.as_slice().len() <= MAX_DOMAINS);
            }
        }
    }
}
