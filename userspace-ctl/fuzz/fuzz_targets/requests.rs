// SPDX-License-Identifier: GPL-2.0

//! A guest that says what it likes, one request after the other: each is answered within its room,
//! and the pool keeps to its limit.
//!
//! The input is a list of requests: kind, flags, length of the body (2), body. With bit 0 of the
//! flags the header is right for the session, with bit 1 there is room for the header only, with
//! bit 2 the body of a STORE gets its right hash.

#![no_main]

use std::cell::RefCell;

use kmirror_core::wire::{
    AnswerHeader, Code, Hello, Kind, RequestHeader, Status, DATA_BYTES, HEADER_BYTES,
    MAX_ANSWER_BYTES,
};
use kmirrord::pool::hash;
use kmirrord::ram::Ram;

kmirror_fuzz::fuzz_target!(run);

thread_local! {
    // Made once: what a guest does to its memory may show in the next run, as with a real guest.
    static RAM: RefCell<Ram> = RefCell::new(kmirror_fuzz::ram());
}

fn run(bytes: &[u8]) {
    RAM.with_borrow(|ram| talk(ram, bytes));
}

fn talk(ram: &Ram, mut bytes: &[u8]) {
    let mut service = kmirror_fuzz::service();
    let instance = service.instance();
    let mut ask = |header: RequestHeader, body: &[u8], room: usize| {
        let message = [&header.encode()[..], body].concat();
        let answer = service.answer(ram, &message, room);
        assert!(answer.len() <= room);
        let head = answer.first_chunk().expect("a header");
        let parsed = AnswerHeader::parse(head, answer.len(), &header).expect("an answer");
        assert_eq!(parsed.instance, instance);
        (parsed.code, answer[HEADER_BYTES..].to_vec())
    };
    let header = |kind: Kind, version, instance, length: usize| RequestHeader {
        version,
        kind: kind.number(),
        id: 7,
        length: length as u32,
        instance,
    };
    let hello = Hello {
        lowest: 1,
        highest: 1,
        keep: false,
        features: u64::MAX,
    };
    let head = header(Kind::Hello, 0, 0, Hello::BYTES);
    assert_eq!(ask(head, &hello.encode(), MAX_ANSWER_BYTES).0, Code::Ok);

    while let Some((&[kind, flags, low, high], rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([low, high])) % 5000;
        let (body, rest) = rest.split_at(length.min(rest.len()));
        bytes = rest;
        let mut body = body.to_vec();
        if flags & 4 != 0 && kind == Kind::Store.number() as u8 {
            body.resize(16 + DATA_BYTES, kind);
            let right = hash(&body[16..]);
            body[8..16].copy_from_slice(&right.to_le_bytes());
        }
        let mut head = RequestHeader {
            version: 1,
            kind: u16::from(kind),
            id: u64::from(flags),
            length: body.len() as u32,
            instance,
        };
        if flags & 1 == 0 {
            head.instance ^= u64::from(flags >> 4);
            head.length ^= u32::from(flags >> 6);
        }
        let room = if flags & 2 != 0 {
            HEADER_BYTES
        } else {
            MAX_ANSWER_BYTES
        };
        ask(head, &body, room);
    }

    let head = header(Kind::Status, 1, instance, 0);
    let (code, body) = ask(head, &[], MAX_ANSWER_BYTES);
    if code == Code::Ok {
        let status = Status::parse(&body).expect("a status");
        assert_eq!(status.slots, 16);
        assert!(status.used <= status.slots);
    }
}
