// SPDX-License-Identifier: GPL-2.0

//! A request as a whole: from bytes that a stranger has sent to a type whose values are sound.

use super::code::Code;
use super::header::{RequestHeader, HEADER_BYTES};
use super::kind::Kind;
use super::{Drop, Fetch, Heal, Hello, Place, Rescue, Store, DATA_BYTES, MAX_RANGES};

/// Bytes of the longest request, header and data included: a HEAL that fills. A service need not
/// read more.
pub const MAX_REQUEST_BYTES: usize = HEADER_BYTES + Heal::BYTES + DATA_BYTES;

/// Bytes of the longest answer: to FETCH.
pub const MAX_ANSWER_BYTES: usize = HEADER_BYTES + super::FetchAnswer::BYTES + DATA_BYTES;

const _: () = {
    assert!(HEADER_BYTES + Place::bytes(MAX_RANGES) <= MAX_REQUEST_BYTES);
    let mut at = 0;
    while at < Kind::ALL.len() {
        assert!(HEADER_BYTES + Kind::ALL[at].answer_bytes() <= MAX_ANSWER_BYTES);
        at += 1;
    }
};

/// What is asked for, with values that have been checked as far as they can be without knowing the
/// guest's memory and the pool.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Place`].
    Place(Place<'a>),
    /// See [`Heal`].
    Heal(Heal<'a>),
    /// See [`Store`].
    Store(Store<'a>),
    /// See [`Fetch`].
    Fetch(Fetch),
    /// See [`Drop`].
    Drop(Drop),
    /// Has no body.
    Status,
    /// See [`Rescue`].
    Rescue(Rescue),
}

impl<'a> Request<'a> {
    /// Reads the `body` that follows `header`, data included. The version and the instance are the
    /// caller's to check, who knows which was agreed on.
    ///
    /// # Errors
    ///
    /// [`Code::Kind`] for a kind without meaning, else [`Code::Length`] and [`Code::Value`], also
    /// for a HELLO whose header is not that of a HELLO.
    pub fn parse(header: &RequestHeader, body: &'a [u8]) -> Result<Self, Code> {
        let kind = Kind::from_number(header.kind).ok_or(Code::Kind)?;
        if usize::try_from(header.length) != Ok(body.len()) {
            return Err(Code::Length);
        }
        Ok(match kind {
            Kind::Hello if header.version != 0 || header.instance != 0 => return Err(Code::Value),
            Kind::Hello => Self::Hello(Hello::parse(body)?),
            Kind::Place => Self::Place(Place::parse(body)?),
            Kind::Heal => Self::Heal(Heal::parse(body)?),
            Kind::Store => Self::Store(Store::parse(body)?),
            Kind::Fetch => Self::Fetch(Fetch::parse(body)?),
            Kind::Drop => Self::Drop(Drop::parse(body)?),
            Kind::Status if body.is_empty() => Self::Status,
            Kind::Status => return Err(Code::Length),
            Kind::Rescue => Self::Rescue(Rescue::parse(body)?),
        })
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::Place(_) => Kind::Place,
            Self::Heal(_) => Kind::Heal,
            Self::Store(_) => Kind::Store,
            Self::Fetch(_) => Kind::Fetch,
            Self::Drop(_) => Kind::Drop,
            Self::Status => Kind::Status,
            Self::Rescue(_) => Kind::Rescue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(kind: u16, body: &[u8]) -> RequestHeader {
        RequestHeader {
            version: 0,
            kind,
            id: 0,
            length: body.len() as u32,
            instance: 0,
        }
    }

    #[test]
    fn the_kind_decides_what_the_body_means() {
        let place = [&Place::encode_head(true, 1)[..], &[0; 9], &[0x10], &[0; 6]].concat();
        for (kind, body) in [
            (Kind::Hello, vec![0; 16]),
            (Kind::Place, place),
            (Kind::Heal, vec![0; 80]),
            (Kind::Store, vec![0; 4112]),
            (Kind::Fetch, vec![0; 8]),
            (Kind::Drop, vec![1; 16]),
            (Kind::Status, vec![]),
            (Kind::Rescue, vec![0; 8]),
        ] {
            let right = header(kind.number(), &body);
            assert_eq!(Request::parse(&right, &body).unwrap().kind(), kind);
            // One byte more, said and sent, said only, sent only.
            let more = [&body[..], &[0]].concat();
            let said = header(kind.number(), &more);
            for (header, body) in [(said, &more), (said, &body), (right, &more)] {
                let code = Request::parse(&header, body).err();
                assert_eq!(code, Some(Code::Length), "{kind:?}");
            }
        }
        for kind in [0, 9, u16::MAX] {
            let code = Request::parse(&header(kind, &[]), &[]).err();
            assert_eq!(code, Some(Code::Kind));
        }
    }

    #[test]
    fn the_header_of_hello_says_nothing_else() {
        let body = [0; 16];
        let right = header(1, &body);
        assert!(Request::parse(&right, &body).is_ok());
        for wrong in [
            RequestHeader {
                version: 1,
                ..right
            },
            RequestHeader {
                instance: 1,
                ..right
            },
        ] {
            assert_eq!(Request::parse(&wrong, &body).err(), Some(Code::Value));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_parsed(
            kind in 0u16..10,
            body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Ok(request) = Request::parse(&header(kind, &body), &body) {
                prop_assert_eq!(request.kind().number(), kind);
            }
        }
    }
}
