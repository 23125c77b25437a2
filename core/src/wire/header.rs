// SPDX-License-Identifier: GPL-2.0

//! What each request and each answer begins with.

use super::bytes::{Reader, Writer};
use super::code::Code;
use super::kind::Kind;

/// Bytes of the header of a request, and of an answer.
pub const HEADER_BYTES: usize = 32;

const MAGIC: [u8; 4] = *b"KMIR";

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
