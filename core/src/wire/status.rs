// SPDX-License-Identifier: GPL-2.0

//! STATUS: what the service has and has done.

use super::bytes::{Reader, Writer};
use super::header::Rubbish;

/// The answer to STATUS, which has no body of its own: 128 bytes after the header, 16 numbers.
/// Those that count begin at 0 with the instance:
///
/// ```text
///   0  uptime, seconds             64  healed, frames
///   8  slots of the pool           72  healed, host huge pages
///  16  slots in use                80  not healed
///  24  stored                      88  rescued
///  32  fetched                     96  refused requests
///  40  dropped                    104  reserved
///  48  corrupt                    112  reserved
///  56  placed, pages of 4 KiB     120  reserved
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Seconds since the service was started.
    pub uptime: u64,
    /// Slots of the pool.
    pub slots: u64,
    /// Slots that hold something.
    pub used: u64,
    /// STOREs that succeeded.
    pub stored: u64,
    /// FETCHes that succeeded.
    pub fetched: u64,
    /// Slots that a DROP has emptied.
    pub dropped: u64,
    /// STOREs and FETCHes whose bytes did not fit their hash.
    pub corrupt: u64,
    /// Pages that are placed now.
    pub placed: u64,
    /// HEALs of a page of 4 KiB that succeeded.
    pub healed: u64,
    /// HEALs of a huge page that succeeded.
    pub healed_huge: u64,
    /// HEALs that did not.
    pub unhealed: u64,
    /// RESCUEs that succeeded.
    pub rescued: u64,
    /// Requests that were malformed.
    pub refused: u64,
}

impl Status {
    /// Bytes of it.
    pub const BYTES: usize = 128;

    /// Reads what follows the header. Reserved numbers are for later versions.
    ///
    /// # Errors
    ///
    /// [`Rubbish`] when it has another length.
    pub fn parse(bytes: &[u8]) -> Result<Self, Rubbish> {
        Self::read(bytes.try_into().map_err(|_| Rubbish)?).ok_or(Rubbish)
    }

    fn read(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let mut next = || reader.u64();
        Some(Self {
            uptime: next()?,
            slots: next()?,
            used: next()?,
            stored: next()?,
            fetched: next()?,
            dropped: next()?,
            corrupt: next()?,
            placed: next()?,
            healed: next()?,
            healed_huge: next()?,
            unhealed: next()?,
            rescued: next()?,
            refused: next()?,
        })
    }

    /// The body as it is sent.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        [
            self.uptime,
            self.slots,
            self.used,
            self.stored,
            self.fetched,
            self.dropped,
            self.corrupt,
            self.placed,
            self.healed,
            self.healed_huge,
            self.unhealed,
            self.rescued,
            self.refused,
        ]
        .into_iter()
        .fold(Writer::new(), Writer::u64)
        .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let status = Status {
            uptime: 1,
            slots: 2,
            used: 3,
            stored: 4,
            fetched: 5,
            dropped: 6,
            corrupt: 7,
            placed: 8,
            healed: 9,
            healed_huge: 10,
            unhealed: 11,
            rescued: 12,
            refused: 13,
        };
        let mut bytes = [0; 128];
        for (at, value) in (1..=13).enumerate() {
            bytes[at * 8] = value;
        }
        assert_eq!(status.encode(), bytes);
        assert_eq!(Status::parse(&bytes), Ok(status));
        assert_eq!(Status::parse(&bytes[1..]), Err(Rubbish));
    }
}
