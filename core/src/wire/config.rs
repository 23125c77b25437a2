// SPDX-License-Identifier: GPL-2.0

//! The device's configuration space: is this kmirror's service?

use super::bytes::{Reader, Writer};
use super::VERSIONS;

/// The configuration space of the device, 16 bytes, read-only:
///
/// ```text
///  0                               8       10       12              16
///  +-------------------------------+--------+--------+---------------+
///  | magic "kmirrord"              | lowest | highest|   reserved    |
///  +-------------------------------+--------+--------+---------------+
/// ```
///
/// The number of the device is an experimental one that others may use too. A driver that does not
/// find the magic leaves the device alone. QEMU shows it with `config_size=16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The lowest version of the format that the service speaks.
    pub lowest: u16,
    /// The highest.
    pub highest: u16,
}

impl Config {
    /// Bytes of it.
    pub const BYTES: usize = 16;

    const MAGIC: [u8; 8] = *b"kmirrord";

    /// What this code speaks.
    pub const fn ours() -> Self {
        Self {
            lowest: VERSIONS.0,
            highest: VERSIONS.1,
        }
    }

    /// Reads the space. `None` when the device is another than kmirror's. Reserved bytes are for
    /// later versions, and not looked at.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if *reader.array()? != Self::MAGIC {
            return None;
        }
        Some(Self {
            lowest: reader.u16()?,
            highest: reader.u16()?,
        })
    }

    /// The space as the service shows it.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        Writer::new()
            .put(&Self::MAGIC)
            .u16(self.lowest)
            .u16(self.highest)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let bytes = *b"kmirrord\x01\x00\x01\x00\x00\x00\x00\x00";
        assert_eq!(Config::ours().encode(), bytes);
        assert_eq!(Config::parse(&bytes), Some(Config::ours()));
        assert_eq!(Config::parse(&[0; 16]), None);
    }
}
