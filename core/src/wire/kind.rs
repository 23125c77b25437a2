// SPDX-License-Identifier: GPL-2.0

//! The kinds of requests.

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

    /// Bytes of body and data in the answer when it is [`Code::Ok`](super::Code::Ok).
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_meaning() {
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind.number() as usize, at + 1);
            assert_eq!(Kind::from_number(kind.number()), Some(kind));
        }
        assert_eq!(Kind::from_number(0), None);
        assert_eq!(Kind::from_number(9), None);
    }
}
