// SPDX-License-Identifier: GPL-2.0

//! How requests end.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_meaning() {
        for (at, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code.number() as usize, at);
            assert_eq!(Code::from_number(code.number()), Some(code));
        }
        assert_eq!(Code::from_number(16), None);
        assert_eq!(Code::from_number(u32::MAX), None);
    }
}
