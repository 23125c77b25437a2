// SPDX-License-Identifier: GPL-2.0

//! The parsers of the wire format, requests and answers: nothing panics, and what is accepted is
//! sound.

#![no_main]

use kmirror_core::wire::*;

kmirror_fuzz::fuzz_target!(run);

fn run(bytes: &[u8]) {
    if let Some((header, body)) = bytes.split_first_chunk::<HEADER_BYTES>() {
        if let Ok(header) = RequestHeader::parse(header) {
            assert_eq!(RequestHeader::parse(&header.encode()), Ok(header));
            if let Ok(request) = Request::parse(&header, body) {
                assert_eq!(request.kind().number(), header.kind);
                if let Request::Place(place) = request {
                    let sum: u64 = place.ranges().map(Range::bytes).sum();
                    assert_eq!(place.total(), sum);
                    assert!(place.ranges().count() <= MAX_RANGES);
                }
            }
            let _ = AnswerHeader::parse(&header.encode(), bytes.len(), &header);
        }
    }
    if let Ok(answer) = HelloAnswer::parse(bytes) {
        assert!(answer.domains.as_slice().len() <= MAX_DOMAINS);
    }
    if let Ok(answer) = PlaceAnswer::parse(bytes) {
        assert!(answer.domains.as_slice().len() <= MAX_DOMAINS);
    }
    if let Ok(answer) = HealAnswer::parse(bytes) {
        assert_eq!(answer.encode(), bytes);
    }
    let _ = Status::parse(bytes);
    let _ = DropAnswer::parse(bytes);
}
