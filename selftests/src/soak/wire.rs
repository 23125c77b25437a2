// SPDX-License-Identifier: GPL-2.0

//! What the director and a process say to each other: numbers, and at the end of an answer a text.

use super::content::Page;
use super::step::{Step, Verb};
use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// A step to be done by the one who gets it.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) step: Step,
    /// What is not in the step: a handle; or whose memory and where.
    pub(super) extra: [u64; 2],
    /// What must be in the pages before.
    pub(super) before: Vec<(u64, Page)>,
}

/// What became of a page, or of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// It was lost, and has been written again.
    Lost,
    /// A mapping of it was lost, the bytes are right.
    Faulted,
    /// It is as `MADV_FREE` allows, and not as it was.
    Lazy,
    /// It is as it was on disk before, and has been written again.
    Older,
    /// It has the injector's bytes, and has been written again.
    Garbage,
    /// It has other bytes: which word, what it is, what it should be.
    Wrong(u64, u64, u64),
    /// A system call has not reached it, with this error.
    Missed(u64),
    /// The area is here.
    At(u64),
    /// The child is this process.
    Child(u64),
}

/// An answer to a step, about a page of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finding {
    /// Which step of the batch.
    pub(super) order: usize,
    pub(super) page: u64,
    pub(super) what: What,
}

impl What {
    fn encode(self) -> [u64; 4] {
        match self {
            Self::Lost => [0; 4],
            Self::Faulted => [1, 0, 0, 0],
            Self::Lazy => [2, 0, 0, 0],
            Self::Older => [3, 0, 0, 0],
            Self::Garbage => [4, 0, 0, 0],
            Self::Wrong(index, is, want) => [5, index, is, want],
            Self::Missed(errno) => [6, errno, 0, 0],
            Self::At(addr) => [7, addr, 0, 0],
            Self::Child(pid) => [8, pid, 0, 0],
        }
    }

    fn decode([kind, a, b, c]: [u64; 4]) -> Option<Self> {
        Some(match kind {
            0 => Self::Lost,
            1 => Self::Faulted,
            2 => Self::Lazy,
            3 => Self::Older,
            4 => Self::Garbage,
            5 => Self::Wrong(a, b, c),
            6 => Self::Missed(a),
            7 => Self::At(a),
            8 => Self::Child(a),
            _ => return None,
        })
    }
}

/// Sends numbers.
pub(super) fn send(socket: &mut UnixStream, words: &[u64]) -> Result<()> {
    let len = words.len() as u64;
    let bytes: Vec<u8> = std::iter::once(&len)
        .chain(words)
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    Ok(socket.write_all(&bytes)?)
}

/// Receives as many as were sent.
pub(super) fn receive(socket: &mut UnixStream) -> Result<Vec<u64>> {
    let mut len = [0; 8];
    socket.read_exact(&mut len)?;
    let mut bytes = vec![0; u64::from_ne_bytes(len) as usize * 8];
    socket.read_exact(&mut bytes)?;
    let words = bytes.chunks_exact(8);
    Ok(words
        .map(|word| word.try_into().map_or(0, u64::from_ne_bytes))
        .collect())
}

/// Orders as numbers.
pub(super) fn encode_orders(orders: &[Order]) -> Vec<u64> {
    let mut out = Vec::new();
    for order in orders {
        out.push(order.step.verb as u64);
        out.extend(order.step.args);
        out.extend(order.extra);
        out.push(order.before.len() as u64);
        for (page, state) in &order.before {
            out.push(*page);
            state.encode(&mut out);
        }
    }
    out
}

/// What [`encode_orders`] has made.
pub(super) fn decode_orders(words: Vec<u64>) -> Result<Vec<Order>> {
    let mut words = words.into_iter();
    let mut orders = Vec::new();
    while let Some(verb) = words.next() {
        orders.push(decode_order(verb, &mut words).context("a garbled order")?);
    }
    Ok(orders)
}

fn decode_order(verb: u64, words: &mut impl Iterator<Item = u64>) -> Option<Order> {
    let mut step = Step {
        verb: Verb::numbered(verb)?,
        args: [0; 7],
    };
    for arg in &mut step.args {
        *arg = words.next()?;
    }
    let extra = [words.next()?, words.next()?];
    let count = words.next()?;
    let before = (0..count)
        .map(|_| Some((words.next()?, Page::decode(words)?)))
        .collect::<Option<_>>()?;
    Some(Order {
        step,
        extra,
        before,
    })
}

/// Findings as numbers, and what went wrong, if anything did.
pub(super) fn encode_answer(findings: &[Finding], trouble: &str) -> Vec<u64> {
    let mut out = vec![findings.len() as u64];
    for finding in findings {
        out.extend([finding.order as u64, finding.page]);
        out.extend(finding.what.encode());
    }
    out.extend(trouble.bytes().map(u64::from));
    out
}

/// What [`encode_answer`] has made.
pub(super) fn decode_answer(words: &[u64]) -> Result<(Vec<Finding>, String)> {
    let (count, rest) = words.split_first().context("an empty answer")?;
    let (findings, text) = rest
        .split_at_checked(*count as usize * 6)
        .context("a short answer")?;
    let findings = findings.chunks_exact(6).map(|words| {
        let what = [words[2], words[3], words[4], words[5]];
        Some(Finding {
            order: words[0] as usize,
            page: words[1],
            what: What::decode(what)?,
        })
    });
    let findings = findings
        .collect::<Option<_>>()
        .context("a garbled answer")?;
    let text: Vec<u8> = text.iter().map(|&byte| byte as u8).collect();
    Ok((findings, String::from_utf8_lossy(&text).into_owned()))
}
