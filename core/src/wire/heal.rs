// SPDX-License-Identifier: GPL-2.0

//! HEAL: fresh backing for a broken frame. RESCUE: the bytes behind a frame that cannot be read.
//!
//! When memory of the host breaks, all that one page of the host holds becomes unreadable to the
//! guest: 4 KiB, or with huge pages 2 MiB, of which most is unharmed. RESCUE gives the unharmed
//! bytes of a frame. HEAL replaces the page of the host. The *neighbours* of a frame are the others
//! in its 2 MiB of guest-physical memory.

use super::bytes::{Reader, Writer};
use super::code::Code;
use super::header::Rubbish;
use super::DATA_BYTES;
use crate::slot::SLOTS_PER_BLOCK;

/// One bit for each 4 KiB frame of the 2 MiB of guest-physical memory around an address, 64 bytes:
/// frame `n` is bit `n % 8` of byte `n / 8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames([u8; Self::BYTES]);

impl Frames {
    /// Bytes of it.
    pub const BYTES: usize = SLOTS_PER_BLOCK / 8;
    /// No frame.
    pub const NONE: Self = Self([0; Self::BYTES]);
    /// All of them.
    pub const ALL: Self = Self([0xff; Self::BYTES]);

    /// The number of the frame at guest-physical `address` among those around it.
    pub const fn index(address: u64) -> usize {
        (address >> 12) as usize % SLOTS_PER_BLOCK
    }

    /// Adds a frame. Numbers of 512 and more are not those of frames; nothing happens.
    pub fn set(&mut self, index: usize) {
        if let Some(byte) = self.0.get_mut(index / 8) {
            *byte |= 1 << (index % 8);
        }
    }

    /// Is the frame one of them?
    pub fn get(&self, index: usize) -> bool {
        self.0
            .get(index / 8)
            .is_some_and(|byte| byte & 1 << (index % 8) != 0)
    }

    /// How many.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|byte| byte.count_ones()).sum()
    }
}

/// A request HEAL, 80 bytes after the header, and 4096 of data if it fills:
///
/// ```text
///  0                               8              12              16
///  +-------------------------------+---------------+---------------+
///  |            address            |     flags     |   reserved    |
///  +-------------------------------+---------------+---------------+
///  |                        idle frames, 64 bytes                  |
///  +---------------------------------------------------------------+
///  | data, 4096 bytes, if flags has bit 0                          |
///  +---------------------------------------------------------------+
/// ```
///
/// `address` is the guest-physical address of the frame. `flags`: bit 0 *fill*: the frame holds the
/// data afterwards, else 0. The *idle* frames are those around it that hold nothing of value, and
/// that nobody in the guest reads or writes until the answer is there; the frame itself is idle
/// whatever its bit says. If the page of the host is larger than 4 KiB, it is replaced only when all
/// frames in it are idle; they are 0 afterwards. Else nothing is done ([`Code::Neighbours`]), and
/// the guest moves the others away with what RESCUE reads, which nobody can write any more. A page
/// that is whole again is filled at the frame's place only.
#[derive(Clone, Copy, Debug)]
pub struct Heal<'a> {
    /// Guest-physical address of the frame, a multiple of 4096.
    pub address: u64,
    /// Frames around it that nobody uses.
    pub idle: Frames,
    /// What the frame is to hold; 0 if there is none.
    pub fill: Option<&'a [u8; DATA_BYTES]>,
}

impl<'a> Heal<'a> {
    /// Bytes of it without data.
    pub const BYTES: usize = 16 + Frames::BYTES;

    /// Reads what follows the header.
    ///
    /// # Errors
    ///
    /// [`Code::Length`], or [`Code::Value`] for unknown flags, a reserved field that is not 0, an
    /// address that is not that of a frame.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Code> {
        let mut reader = Reader::new(bytes);
        let (address, flags, reserved, idle) = Self::head(&mut reader).ok_or(Code::Length)?;
        if flags > 1 || reserved != 0 || address % DATA_BYTES as u64 != 0 {
            return Err(Code::Value);
        }
        let fill = match flags {
            0 => None,
            _ => Some(reader.array().ok_or(Code::Length)?),
        };
        reader.end().ok_or(Code::Length)?;
        Ok(Self {
            address,
            idle,
            fill,
        })
    }

    fn head(reader: &mut Reader<'_>) -> Option<(u64, u32, u32, Frames)> {
        let (address, flags) = (reader.u64()?, reader.u32()?);
        Some((address, flags, reader.u32()?, Frames(*reader.array()?)))
    }

    /// The body as it is sent, without the data, which follow it if there are any.
    pub fn encode(&self) -> [u8; Heal::BYTES] {
        Writer::new()
            .u64(self.address)
            .u32(self.fill.is_some().into())
            .u32(0)
            .put(&self.idle.0)
            .finish()
    }
}

/// The answer to HEAL, 80 bytes after the header, with [`Code::Ok`] and [`Code::Neighbours`]:
///
/// ```text
///  0                               8                              16
///  +-------------------------------+-------------------------------+
///  |          page bytes           |             kept              |
///  +-------------------------------+-------------------------------+
///  |                        lost frames, 64 bytes                  |
///  +---------------------------------------------------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealAnswer {
    /// Bytes of the host's page behind the frame.
    pub page_bytes: u64,
    /// How many neighbours are not idle and keep what they hold; with [`Code::Neighbours`] RESCUE
    /// can read them.
    pub kept: u64,
    /// With [`Code::Neighbours`]: the frames that are neither idle nor readable any more.
    pub lost: Frames,
}

impl HealAnswer {
    /// Bytes of it.
    pub const BYTES: usize = 16 + Frames::BYTES;

    /// Reads what follows the header.
    ///
    /// # Errors
    ///
    /// [`Rubbish`] when it has another length.
    pub fn parse(bytes: &[u8]) -> Result<Self, Rubbish> {
        Self::read(bytes).ok_or(Rubbish)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let answer = Self {
            page_bytes: reader.u64()?,
            kept: reader.u64()?,
            lost: Frames(*reader.array()?),
        };
        reader.end()?;
        Some(answer)
    }

    /// The body as it is sent.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        Writer::new()
            .u64(self.page_bytes)
            .u64(self.kept)
            .put(&self.lost.0)
            .finish()
    }
}

/// A request RESCUE, 8 bytes after the header:
///
/// ```text
///  0                               8
///  +-------------------------------+
///  |            address            |
///  +-------------------------------+
/// ```
///
/// The answer has 4096 bytes of data: what is stored behind the frame at the guest-physical
/// `address` at some time between request and answer. It is what was last written there if nobody
/// writes meanwhile, for which the guest has to see. [`Code::Empty`] when the frame itself is lost,
/// [`Code::Unsupported`] when it is not known that QEMU maps the file shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rescue {
    /// Guest-physical address of the frame, a multiple of 4096.
    pub address: u64,
}

impl Rescue {
    /// Bytes of it.
    pub const BYTES: usize = 8;

    /// Reads what follows the header.
    ///
    /// # Errors
    ///
    /// [`Code::Length`], or [`Code::Value`] for an address that is not that of a frame.
    pub fn parse(bytes: &[u8]) -> Result<Self, Code> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().map_err(|_| Code::Length)?;
        let address = u64::from_le_bytes(*bytes);
        if address % DATA_BYTES as u64 != 0 {
            return Err(Code::Value);
        }
        Ok(Self { address })
    }

    /// The body as it is sent.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        self.address.to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden() {
        let mut idle = Frames::NONE;
        idle.set(0);
        idle.set(9);
        idle.set(511);
        idle.set(512);
        let data = [0x5a; DATA_BYTES];
        let heal = Heal {
            address: 0x1234_5000,
            idle,
            fill: Some(&data),
        };
        let mut bytes = [0; 80];
        bytes[..9].copy_from_slice(&[0, 0x50, 0x34, 0x12, 0, 0, 0, 0, 1]);
        (bytes[16], bytes[17], bytes[79]) = (1, 2, 0x80);
        assert_eq!(heal.encode(), bytes);
        let sent = [&bytes[..], &data].concat();
        let parsed = Heal::parse(&sent).unwrap();
        assert_eq!(
            (parsed.address, parsed.idle, parsed.fill),
            (0x1234_5000, idle, Some(&data))
        );
        assert_eq!(idle.count(), 3);

        let answer = HealAnswer {
            page_bytes: 2 << 20,
            kept: 0x1ff,
            lost: idle,
        };
        let mut bytes = [0; 80];
        (bytes[2], bytes[8], bytes[9]) = (0x20, 0xff, 1);
        (bytes[16], bytes[17], bytes[79]) = (1, 2, 0x80);
        assert_eq!(answer.encode(), bytes);
        assert_eq!(HealAnswer::parse(&bytes), Ok(answer));
        assert_eq!(HealAnswer::parse(&bytes[1..]), Err(Rubbish));

        let rescue = Rescue { address: 0x3000 };
        assert_eq!(rescue.encode(), [0, 0x30, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Rescue::parse(&rescue.encode()), Ok(rescue));
    }

    #[test]
    fn wrong_lengths_and_values_are_refused() {
        let code = |bytes: &[u8]| Heal::parse(bytes).err();
        let right = [0; 80];
        assert_eq!(code(&right), None);
        assert_eq!(code(&right[1..]), Some(Code::Length));
        assert_eq!(code(&[0; 81]), Some(Code::Length));
        for (at, value) in [(0, 1), (1, 8), (8, 2), (12, 1)] {
            let mut wrong = right;
            wrong[at] = value;
            assert_eq!(code(&wrong), Some(Code::Value), "byte {at}");
        }
        let mut fill = [0; 80 + 4096];
        assert_eq!(code(&fill), Some(Code::Length));
        fill[8] = 1;
        assert_eq!(code(&fill), None);
        assert_eq!(code(&fill[..80 + 4095]), Some(Code::Length));
        assert_eq!(code(&fill[..80]), Some(Code::Length));
        assert_eq!(Rescue::parse(&[0; 7]), Err(Code::Length));
        assert_eq!(Rescue::parse(&[1; 8]), Err(Code::Value));
    }

    proptest! {
        #[test]
        fn frames_are_told_apart(set in proptest::collection::vec(0usize..512, 0..40)) {
            let mut frames = Frames::NONE;
            for &index in &set {
                frames.set(index);
            }
            for index in 0..600 {
                prop_assert_eq!(frames.get(index), set.contains(&index));
            }
        }

        #[test]
        fn parse_takes_only_what_encode_gives(bytes in any::<[u8; 32]>(), page: u32, flags in 0u8..3) {
            let mut body = [0; 80];
            body[16..48].copy_from_slice(&bytes);
            body[..8].copy_from_slice(&(u64::from(page) << 12).to_le_bytes());
            body[8] = flags;
            if let Ok(heal) = Heal::parse(&body) {
                prop_assert_eq!(heal.encode(), body);
            }
        }
    }
}
