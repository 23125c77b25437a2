// SPDX-License-Identifier: GPL-2.0

//! What each request and each answer begins with.

use super::bytes::{Reader, Writer};

/// Bytes of the header of a request, and of an answer.
pub const HEADER_BYTES: usize = 32;

const MAGIC: [u8; 4] = *b"KMIR";

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Kind {
    /// Which version, what the service can and holds.
    Hello = 1,
    /// Keep memory on another node, locked; where is it?
    Place = 2,
    /// Fresh backing for a broken frame.
    Heal = 3,
    /// Keep 4 KiB under a slot's number.
    Store = 4,
    /// Give them back.
    Fetch = 5,
    /// Forget them.
    Drop = 6,
    /// Counters.
    Status = 7,
    /// The bytes behind a frame that cannot be read.
    Rescue = 8,
}

impl Kind {
    /// All of them, by number.
    pub const ALL: [Self; 8] = [
        Self::Hello,
        Self::Place,
        Self::Heal,
        Self::Store,
        Self::Fetch,
        Self::Drop,
        Self::Status,
        Self::Rescue,
    ];

    /// Its number on the wire.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// `None` for a number that has no meaning.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// Its name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Place => "place",
            Self::Heal => "heal",
            Self::Store => "store",
            Self::Fetch => "fetch",
            Self::Drop => "drop",
            Self::Status => "status",
            Self::Rescue => "rescue",
        }
    }

    /// Bytes of body and data in the answer when it is [`Code::Ok`].
    pub const fn answer_bytes(self) -> usize {
        match self {
            Self::Hello => super::HelloAnswer::BYTES,
            Self::Place => super::PlaceAnswer::BYTES,
            Self::Heal => super::HealAnswer::BYTES,
            Self::Store => 0,
            Self::Fetch => super::FetchAnswer::BYTES + super::DATA_BYTES,
            Self::Drop => super::DropAnswer::BYTES,
            Self::Status => super::Status::BYTES,
            Self::Rescue => super::DATA_BYTES,
        }
    }
}

/// How a request has ended. Unless it is [`Ok`](Self::Ok), nothing has changed on the host but
/// where a code says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Code {
    /// As asked.
    Ok = 0,
    /// A kind of request that the service does not know.
    Kind = 1,
    /// The request, or the room for the answer, is too short or too long.
    Length = 2,
    /// A value that is never right: a reserved field, an unaligned address, too many ranges.
    Value = 3,
    /// Another version than the one agreed on; in answer to HELLO: none in common.
    Version = 4,
    /// Another instance than this, or no HELLO yet. Everything stored is gone; say HELLO.
    Instance = 5,
    /// Too much under way; ask again.
    Busy = 6,
    /// A slot that the pool does not have.
    Slot = 7,
    /// No memory for it on the host.
    Full = 8,
    /// Nothing is stored under the slot's number.
    Empty = 9,
    /// The bytes do not fit their hash. STORE: the slot is empty now. FETCH: so it is.
    Corrupt = 10,
    /// No memory of the guest that it shares with the service.
    Memory = 11,
    /// Not for memory of this kind.
    Unsupported = 12,
    /// The rest of a host huge page is in use and cannot be kept; nothing was changed.
    Neighbours = 13,
    /// The host does not allow it to the service.
    Denied = 14,
    /// The host has failed. What the request would have changed is unknown.
    Failed = 15,
}

impl Code {
    /// All of them, by number.
    pub const ALL: [Self; 16] = [
        Self::Ok,
        Self::Kind,
        Self::Length,
        Self::Value,
        Self::Version,
        Self::Instance,
        Self::Busy,
        Self::Slot,
        Self::Full,
        Self::Empty,
        Self::Corrupt,
        Self::Memory,
        Self::Unsupported,
        Self::Neighbours,
        Self::Denied,
        Self::Failed,
    ];

    /// Its number on the wire.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// `None` for a number that has no meaning.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }

    /// Its name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Kind => "kind",
            Self::Length => "length",
            Self::Value => "value",
            Self::Version => "version",
            Self::Instance => "instance",
            Self::Busy => "busy",
            Self::Slot => "slot",
            Self::Full => "full",
            Self::Empty => "empty",
            Self::Corrupt => "corrupt",
            Self::Memory => "memory",
            Self::Unsupported => "unsupported",
            Self::Neighbours => "neighbours",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

/// The header of a request, 32 bytes:
///
/// ```text
///  0               4       6       8                              16
///  +---------------+-------+-------+-------------------------------+
///  | magic "KMIR"  |version| kind  |              id               |
///  +---------------+-------+-------+-------------------------------+
///  |    length     |   reserved    |           instance            |
///  +---------------+---------------+-------------------------------+
/// 16              20              24                              32
/// ```
///
/// `length` counts what follows the header, data included. `version` and `instance` are 0 in HELLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The version agreed on.
    pub version: u16,
    /// Number of the kind, see [`Kind`].
    pub kind: u16,
    /// Chosen by the guest; the answer has the same.
    pub id: u64,
    /// Bytes that follow.
    pub length: u32,
    /// The instance of the service that the guest means.
    pub instance: u64,
}

impl RequestHeader {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// [`Code::Value`] without the magic, or when the reserved field is not 0.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Code> {
        let (header, reserved) = Self::read(bytes).ok_or(Code::Value)?;
        if reserved != 0 {
            return Err(Code::Value);
        }
        Ok(header)
    }

    fn read(bytes: &[u8; HEADER_BYTES]) -> Option<(Self, u32)> {
        let mut reader = Reader::new(bytes);
        if *reader.array()? != MAGIC {
            return None;
        }
        let (version, kind) = (reader.u16()?, reader.u16()?);
        let (id, length) = (reader.u64()?, reader.u32()?);
        let (reserved, instance) = (reader.u32()?, reader.u64()?);
        let header = Self {
            version,
            kind,
            id,
            length,
            instance,
        };
        Some((header, reserved))
    }

    /// The header as it is sent.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        Writer::new()
            .put(&MAGIC)
            .u16(self.version)
            .u16(self.kind)
            .u64(self.id)
            .u32(self.length)
            .u32(0)
            .u64(self.instance)
            .finish()
    }
}

/// The answer is not one to this request. The guest trusts the service with nothing from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rubbish;

/// The header of an answer, 32 bytes:
///
/// ```text
///  0               4       6       8                              16
///  +---------------+-------+-------+-------------------------------+
///  | magic "KMIR"  |version| kind  |              id               |
///  +---------------+-------+-------+-------------------------------+
///  |    length     |     code      |           instance            |
///  +---------------+---------------+-------------------------------+
/// 16              20              24                              32
/// ```
///
/// `version` is the service's highest in an answer to HELLO, and the agreed one in all others;
/// `kind` and `id` are the request's; `length` counts what follows. That is
/// [`Kind::answer_bytes`] with [`Code::Ok`], also with [`Code::Neighbours`], and else 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerHeader {
    /// See above.
    pub version: u16,
    /// The request's.
    pub kind: u16,
    /// The request's.
    pub id: u64,
    /// Bytes that follow.
    pub length: u32,
    /// How it ended.
    pub code: Code,
    /// The instance of the service.
    pub instance: u64,
}

impl AnswerHeader {
    /// Reads the header of the answer to `request`, of which `used` bytes have been written in all.
    ///
    /// # Errors
    ///
    /// [`Rubbish`] when it is none: wrong magic, kind or id, a code without meaning, a length that
    /// such an answer does not have or that was not written.
    pub fn parse(
        bytes: &[u8; HEADER_BYTES],
        used: usize,
        request: &RequestHeader,
    ) -> Result<Self, Rubbish> {
        let answer = Self::read(bytes).ok_or(Rubbish)?;
        if answer.kind != request.kind || answer.id != request.id {
            return Err(Rubbish);
        }
        let body = match (answer.code, Kind::from_number(answer.kind)) {
            (Code::Ok, None) => return Err(Rubbish),
            (Code::Ok | Code::Neighbours, Some(kind)) => kind.answer_bytes(),
            _ => 0,
        };
        if answer.length as usize != body || used != HEADER_BYTES + body {
            return Err(Rubbish);
        }
        Ok(answer)
    }

    fn read(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if *reader.array()? != MAGIC {
            return None;
        }
        Some(Self {
            version: reader.u16()?,
            kind: reader.u16()?,
            id: reader.u64()?,
            length: reader.u32()?,
            code: Code::from_number(reader.u32()?)?,
            instance: reader.u64()?,
        })
    }

    /// The header as it is sent.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        Writer::new()
            .put(&MAGIC)
            .u16(self.version)
            .u16(self.kind)
            .u64(self.id)
            .u32(self.length)
            .u32(self.code.number())
            .u64(self.instance)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REQUEST: RequestHeader = RequestHeader {
        version: 0x0102,
        kind: 4,
        id: 0x1112_1314_1516_1718,
        length: 0x2122_2324,
        instance: 0x3132_3334_3536_3738,
    };

    #[test]
    fn golden() {
        let bytes = *b"KMIR\x02\x01\x04\x00\x18\x17\x16\x15\x14\x13\x12\x11\
            \x24\x23\x22\x21\x00\x00\x00\x00\x38\x37\x36\x35\x34\x33\x32\x31";
        assert_eq!(REQUEST.encode(), bytes);
        assert_eq!(RequestHeader::parse(&bytes), Ok(REQUEST));
        let mut answer = bytes;
        answer[16..24].copy_from_slice(&[0, 0, 0, 0, 10, 0, 0, 0]);
        let want = AnswerHeader {
            version: 0x0102,
            kind: 4,
            id: REQUEST.id,
            length: 0,
            code: Code::Corrupt,
            instance: REQUEST.instance,
        };
        assert_eq!(AnswerHeader::parse(&answer, 32, &REQUEST), Ok(want));
        assert_eq!(want.encode(), answer);
    }

    #[test]
    fn every_bit_of_magic_and_reserved_counts() {
        for bit in (0..4 * 8).chain(20 * 8..24 * 8) {
            let mut bytes = REQUEST.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RequestHeader::parse(&bytes), Err(Code::Value), "bit {bit}");
        }
    }

    #[test]
    fn numbers_have_one_meaning() {
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind.number() as usize, at + 1);
            assert_eq!(Kind::from_number(kind.number()), Some(kind));
        }
        assert_eq!(Kind::from_number(0), None);
        assert_eq!(Kind::from_number(9), None);
        for (at, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code.number() as usize, at);
            assert_eq!(Code::from_number(code.number()), Some(code));
        }
        assert_eq!(Code::from_number(16), None);
        assert_eq!(Code::from_number(u32::MAX), None);
    }

    #[test]
    fn an_answer_to_something_else_is_rubbish() {
        let right = AnswerHeader {
            version: 1,
            kind: Kind::Fetch.number(),
            id: 7,
            length: 4104,
            code: Code::Ok,
            instance: 9,
        };
        let request = RequestHeader {
            version: 1,
            kind: right.kind,
            id: 7,
            length: 8,
            instance: 9,
        };
        let parse =
            |answer: AnswerHeader, used| AnswerHeader::parse(&answer.encode(), used, &request);
        assert_eq!(parse(right, 4136), Ok(right));
        assert_eq!(parse(AnswerHeader { id: 8, ..right }, 4136), Err(Rubbish));
        assert_eq!(parse(AnswerHeader { kind: 4, ..right }, 4136), Err(Rubbish));
        // Fewer bytes, or more, than such an answer has, said or written.
        assert_eq!(parse(right, 4135), Err(Rubbish));
        assert_eq!(parse(right, 4137), Err(Rubbish));
        let short = AnswerHeader { length: 0, ..right };
        assert_eq!(parse(short, 32), Err(Rubbish));
        let code = Code::Empty;
        assert_eq!(parse(AnswerHeader { code, ..right }, 4136), Err(Rubbish));
        assert!(parse(AnswerHeader { code, ..short }, 32).is_ok());
        let mut unknown = right.encode();
        unknown[20] = 16;
        assert_eq!(AnswerHeader::parse(&unknown, 4136, &request), Err(Rubbish));
    }

    proptest! {
        #[test]
        fn a_request_survives(version: u16, kind: u16, id: u64, length: u32, instance: u64) {
            let header = RequestHeader { version, kind, id, length, instance };
            prop_assert_eq!(RequestHeader::parse(&header.encode()), Ok(header));
        }

        #[test]
        fn parse_takes_only_what_encode_gives(bytes: [u8; 32]) {
            let mut bytes = bytes;
            bytes[..4].copy_from_slice(b"KMIR");
            match RequestHeader::parse(&bytes) {
                Ok(header) => prop_assert_eq!(header.encode(), bytes),
                Err(code) => prop_assert_eq!(code, Code::Value),
            }
        }
    }
}
