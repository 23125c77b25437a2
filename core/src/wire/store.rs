// SPDX-License-Identifier: GPL-2.0

//! STORE, FETCH and DROP: replicas that the host holds, each under the number of the guest's slot.

use super::bytes::{Reader, Writer};
use super::code::Code;
use super::header::Rubbish;
use super::DATA_BYTES;

/// A request STORE, 16 bytes after the header, and 4096 of data:
///
/// ```text
///  0                               8                              16
///  +-------------------------------+-------------------------------+
///  |             slot              |             hash              |
///  +-------------------------------+-------------------------------+
///  | data, 4096 bytes                                              |
///  +---------------------------------------------------------------+
/// ```
///
/// `hash` is XXH64 with seed 0 of the data. What was under the number is replaced. If the request
/// fails in any way nothing is under it afterwards; so it is after a crash of the service.
#[derive(Clone, Copy, Debug)]
pub struct Store<'a> {
    /// The number, below [`HelloAnswer::slots`](super::HelloAnswer::slots).
    pub slot: u64,
    /// Hash of the data.
    pub hash: u64,
    /// The data.
    pub data: &'a [u8; DATA_BYTES],
}

impl<'a> Store<'a> {
    /// Bytes of it without data.
    pub const BYTES: usize = 16;

    /// Reads what follows the header.
    ///
    /// # Errors
    ///
    /// [`Code::Length`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Code> {
        Self::read(bytes).ok_or(Code::Length)
    }

    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let store = Self {
            slot: reader.u64()?,
            hash: reader.u64()?,
            data: reader.array()?,
        };
        reader.end()?;
        Some(store)
    }

    /// The body as it is sent, without the data, which follow it.
    pub fn encode_head(slot: u64, hash: u64) -> [u8; Store::BYTES] {
        Writer::new().u64(slot).u64(hash).finish()
    }
}

/// A request FETCH, 8 bytes after the header:
///
/// ```text
///  0                               8
///  +-------------------------------+
///  |             slot              |
///  +-------------------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The number, below [`HelloAnswer::slots`](super::HelloAnswer::slots).
    pub slot: u64,
}

impl Fetch {
    /// Bytes of it.
    pub const BYTES: usize = 8;

    /// Reads what follows the header.
    ///
    /// # Errors
    ///
    /// [`Code::Length`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Code> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().map_err(|_| Code::Length)?;
        Ok(Self {
            slot: u64::from_le_bytes(*bytes),
        })
    }

    /// The body as it is sent.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        self.slot.to_le_bytes()
    }
}

/// The answer to FETCH, 8 bytes after the header, and 4096 of data, which fit the hash:
///
/// ```text
///  0                               8
///  +-------------------------------+
///  |             hash              |
///  +-------------------------------+
///  | data, 4096 bytes              |
///  +-------------------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchAnswer {
    /// As stored. The guest compares it, and that of what has arrived, with its own.
    pub hash: u64,
}

impl FetchAnswer {
    /// Bytes of it without data.
    pub const BYTES: usize = 8;

    /// Reads the first 8 bytes after the header.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Self {
        Self {
            hash: u64::from_le_bytes(*bytes),
        }
    }

    /// The body as it is sent, without the data, which follow it.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        self.hash.to_le_bytes()
    }
}

/// A request DROP, 16 bytes after the header:
///
/// ```text
///  0                               8                              16
///  +-------------------------------+-------------------------------+
///  |             slot              |             count             |
///  +-------------------------------+-------------------------------+
/// ```
///
/// It names `count` numbers from `slot` on, at least one; all of them are below
/// [`HelloAnswer::slots`](super::HelloAnswer::slots). Those that are empty do no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drop {
    /// The first number.
    pub slot: u64,
    /// How many, not 0; `slot + count` fits in 64 bits.
    pub count: u64,
}

impl Drop {
    /// Bytes of it.
    pub const BYTES: usize = 16;

    /// Reads what follows the header.
    ///
    /// # Errors
    ///
    /// [`Code::Length`], or [`Code::Value`] for no slots, or more than there are numbers.
    pub fn parse(bytes: &[u8]) -> Result<Self, Code> {
        let drop = Self::read(bytes).ok_or(Code::Length)?;
        if drop.count == 0 || drop.slot.checked_add(drop.count).is_none() {
            return Err(Code::Value);
        }
        Ok(drop)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let drop = Self {
            slot: reader.u64()?,
            count: reader.u64()?,
        };
        reader.end()?;
        Some(drop)
    }

    /// The body as it is sent.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        Writer::new().u64(self.slot).u64(self.count).finish()
    }
}

/// The answer to DROP, 8 bytes after the header:
///
/// ```text
///  0                               8
///  +-------------------------------+
///  |            dropped            |
///  +-------------------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropAnswer {
    /// How many were not empty.
    pub dropped: u64,
}

impl DropAnswer {
    /// Bytes of it.
    pub const BYTES: usize = 8;

    /// Reads what follows the header.
    ///
    /// # Errors
    ///
    /// [`Rubbish`] when it has another length.
    pub fn parse(bytes: &[u8]) -> Result<Self, Rubbish> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().map_err(|_| Rubbish)?;
        Ok(Self {
            dropped: u64::from_le_bytes(*bytes),
        })
    }

    /// The body as it is sent.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        self.dropped.to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden() {
        let head = [1, 2, 3, 0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1];
        assert_eq!(Store::encode_head(0x0003_0201, 0x0102_0304_0506_0708), head);
        let data = [7; DATA_BYTES];
        let sent = [&head[..], &data].concat();
        let store = Store::parse(&sent).unwrap();
        assert_eq!(
            (store.slot, store.hash),
            (0x0003_0201, 0x0102_0304_0506_0708)
        );
        assert_eq!(store.data, &data);

        let fetch = Fetch { slot: 0x0102 };
        assert_eq!(fetch.encode(), [2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Fetch::parse(&fetch.encode()), Ok(fetch));
        let answer = FetchAnswer { hash: 0x0102 };
        assert_eq!(answer.encode(), fetch.encode());
        assert_eq!(FetchAnswer::parse(&answer.encode()), answer);

        let drop = Drop {
            slot: 1,
            count: 256,
        };
        let bytes = [1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(drop.encode(), bytes);
        assert_eq!(Drop::parse(&bytes), Ok(drop));
        let answer = DropAnswer { dropped: 3 };
        assert_eq!(answer.encode(), [3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(DropAnswer::parse(&answer.encode()), Ok(answer));
    }

    #[test]
    fn wrong_lengths_and_values_are_refused() {
        for length in [0, 15, 16, 4111, 4113, 8208] {
            assert_eq!(Store::parse(&vec![0; length]).err(), Some(Code::Length));
        }
        assert!(Store::parse(&[0; 4112]).is_ok());
        assert_eq!(Fetch::parse(&[0; 7]), Err(Code::Length));
        assert_eq!(Fetch::parse(&[0; 9]), Err(Code::Length));
        assert_eq!(Drop::parse(&[1; 15]), Err(Code::Length));
        assert_eq!(Drop::parse(&[1; 17]), Err(Code::Length));
        assert_eq!(Drop::parse(&[0; 16]), Err(Code::Value));
        assert_eq!(Drop::parse(&[0xff; 16]), Err(Code::Value));
        assert_eq!(DropAnswer::parse(&[0; 7]), Err(Rubbish));
    }

    proptest! {
        #[test]
        fn what_is_sent_arrives(slot: u64, hash: u64, byte: u8, count: u64) {
            let sent = [&Store::encode_head(slot, hash)[..], &[byte; DATA_BYTES]].concat();
            let store = Store::parse(&sent).unwrap();
            prop_assert_eq!((store.slot, store.hash, store.data[4095]), (slot, hash, byte));
            let drop = Drop { slot, count };
            match Drop::parse(&drop.encode()) {
                Ok(parsed) => prop_assert_eq!(parsed, drop),
                Err(code) => {
                    prop_assert_eq!(code, Code::Value);
                    prop_assert!(count == 0 || slot > u64::MAX - count);
                }
            }
        }
    }
}
