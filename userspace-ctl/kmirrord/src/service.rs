// SPDX-License-Identifier: GPL-2.0

//! What is done with a request, from its bytes to those of its answer. Nothing here knows of queues
//! or sockets, and nothing a guest sends makes it panic; the fuzz target `requests` tries.

use std::time::Instant;

use kmirror_core::wire::{
    features, AnswerHeader, Code, DropAnswer, FetchAnswer, Hello, HelloAnswer, Kind, Request,
    RequestHeader, Status, HEADER_BYTES, VERSIONS,
};
use tracing::{debug, info, warn};

use crate::heal::{self, Healed};
use crate::metrics::{set, Metrics};
use crate::nodes::Nodes;
use crate::place::{self, Placer};
use crate::pool::Pool;
use crate::ram::Ram;

/// What the administrator allows the guest.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Slots of the pool.
    pub slots: u64,
    /// The node of the pool.
    pub pool_node: Option<u32>,
    /// The node that memory is placed on; `None` leaves it to the service.
    pub place_node: Option<u32>,
    /// Bytes that may be placed at once.
    pub place_bytes: u64,
    /// Whether frames are healed.
    pub heal: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            slots: 0,
            pool_node: None,
            place_node: None,
            place_bytes: u64::MAX,
            heal: true,
        }
    }
}

/// What has been agreed on by HELLO.
#[derive(Clone, Copy, Debug)]
struct Session {
    version: u16,
    features: u64,
}

/// See above.
#[derive(Debug)]
pub struct Service {
    instance: u64,
    started: Instant,
    limits: Limits,
    session: Option<Session>,
    pool: Pool,
    placer: Placer,
    metrics: Metrics,
}

/// An answer without its header.
type Body = Result<Vec<u8>, Code>;

impl Service {
    /// A service that nobody has said HELLO to.
    ///
    /// # Errors
    ///
    /// When the host has no memory file for the pool, or no random number.
    pub fn new(limits: Limits, nodes: Nodes, metrics: Metrics) -> std::io::Result<Self> {
        let mut instance = [0; 8];
        while instance == [0; 8] {
            rustix::rand::getrandom(&mut instance, rustix::rand::GetRandomFlags::empty())?;
        }
        set(&metrics.slots, limits.slots);
        Ok(Self {
            instance: u64::from_ne_bytes(instance),
            started: Instant::now(),
            session: None,
            pool: Pool::new(limits.slots, limits.pool_node)?,
            placer: Placer::new(nodes, limits.place_node, limits.place_bytes),
            limits,
            metrics,
        })
    }

    /// Its number, which no other start of the service has.
    pub fn instance(&self) -> u64 {
        self.instance
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The guest's memory is another: what was placed has to be placed again.
    pub fn memory_changed(&mut self) {
        self.placer.clear();
        set(&self.metrics.placed, 0);
    }

    /// The answer to the request in `bytes`, which nobody else can change, header and all; at most
    /// `room` bytes. Empty when there is no room for a header. When the whole answer would not fit
    /// nothing is done.
    pub fn answer(&mut self, ram: &Ram, bytes: &[u8], room: usize) -> Vec<u8> {
        let begin = Instant::now();
        if room < HEADER_BYTES {
            self.metrics.refused.inc();
            return Vec::new();
        }
        let header = bytes
            .split_first_chunk()
            .ok_or(Code::Length)
            .and_then(|(header, body)| Ok((RequestHeader::parse(header)?, body)));
        let (header, body) = match header {
            Ok((header, body)) => (header, self.body(ram, &header, body, room)),
            Err(code) => (
                // Nothing in it means anything.
                RequestHeader {
                    version: 0,
                    kind: 0,
                    id: 0,
                    length: 0,
                    instance: 0,
                },
                Err(code),
            ),
        };
        let (code, body) = match body {
            Ok(Reply::Ok(body)) => (Code::Ok, body),
            Ok(Reply::Neighbours(body)) => (Code::Neighbours, body),
            Err(code) => (code, Vec::new()),
        };
        let kind = Kind::from_number(header.kind);
        if matches!(code, Code::Kind | Code::Length | Code::Value) {
            self.metrics.refused.inc();
            debug!(
                kind = header.kind,
                id = header.id,
                code = code.name(),
                "refused"
            );
        }
        self.metrics.answered(kind, code, begin.elapsed());
        let version = match kind {
            Some(Kind::Hello) => VERSIONS.1,
            _ => self.session.map_or(0, |session| session.version),
        };
        let header = AnswerHeader {
            version,
            kind: header.kind,
            id: header.id,
            length: body.len() as u32,
            code,
            instance: self.instance,
        };
        let mut answer = Vec::with_capacity(HEADER_BYTES + body.len());
        answer.extend(header.encode());
        answer.extend(body);
        answer
    }

    fn body(
        &mut self,
        ram: &Ram,
        header: &RequestHeader,
        body: &[u8],
        room: usize,
    ) -> Result<Reply, Code> {
        let request = Request::parse(header, body)?;
        if room < HEADER_BYTES + request.kind().answer_bytes() {
            return Err(Code::Length);
        }
        if let Request::Hello(hello) = request {
            return self.hello(ram, &hello).map(Reply::Ok);
        }
        let session = self.session.ok_or(Code::Instance)?;
        if header.instance != self.instance {
            return Err(Code::Instance);
        }
        if header.version != session.version {
            return Err(Code::Version);
        }
        let need = match request {
            Request::Store(_) | Request::Fetch(_) | Request::Drop(_) => features::POOL,
            Request::Heal(_) => features::HEAL,
            Request::Rescue(_) => features::RESCUE,
            // A host with one node still locks memory, and says where it is.
            Request::Place(_) | Request::Hello(_) | Request::Status => 0,
        };
        if session.features & need != need {
            return Err(Code::Unsupported);
        }
        let body: Body = match request {
            Request::Hello(hello) => self.hello(ram, &hello),
            Request::Place(request) => self.placer.place(ram, &request).map(|answer| {
                set(&self.metrics.placed, self.placer.pages());
                self.metrics.placed_on(answer.domains.as_slice());
                info!(
                    pages = answer.pages,
                    present = answer.present,
                    apart = answer.apart,
                    done = answer.done,
                    "placed"
                );
                answer.encode().to_vec()
            }),
            Request::Heal(request) => match heal::heal(ram, &request)? {
                Healed::Done(answer) => {
                    match answer.page_bytes {
                        4096 => self.metrics.healed.inc(),
                        _ => self.metrics.healed_huge.inc(),
                    };
                    warn!(
                        address = format_args!("{:#x}", request.address),
                        bytes = answer.page_bytes,
                        "replaced the memory behind a broken frame"
                    );
                    Ok(answer.encode().to_vec())
                }
                Healed::Whole(answer) => Ok(answer.encode().to_vec()),
                Healed::Neighbours(answer) => {
                    return Ok(Reply::Neighbours(answer.encode().to_vec()));
                }
            },
            Request::Store(request) => {
                let stored = self.pool.store(request.slot, request.hash, request.data);
                stored.map(|()| Vec::new())
            }
            Request::Fetch(request) => self.pool.fetch(request.slot).map(|(hash, data)| {
                let mut body = FetchAnswer { hash }.encode().to_vec();
                body.extend(data);
                body
            }),
            Request::Drop(request) => self.pool.drop(request.slot, request.count).map(|dropped| {
                self.metrics.dropped.inc_by(dropped);
                DropAnswer { dropped }.encode().to_vec()
            }),
            Request::Status => Ok(self.status().encode().to_vec()),
            Request::Rescue(request) => {
                heal::rescue(ram, request.address).map(|page| page.to_vec())
            }
        };
        set(&self.metrics.used, self.pool.used());
        body.map(Reply::Ok)
    }

    fn hello(&mut self, ram: &Ram, hello: &Hello) -> Body {
        let version = hello.agree(VERSIONS).ok_or(Code::Version)?;
        let mut ours = 0;
        if self.pool.slots() > 0 {
            ours |= features::POOL;
        }
        if self.placer.can_choose() {
            ours |= features::PLACE;
        }
        if self.limits.heal {
            ours |= features::HEAL | features::RESCUE;
        }
        if !hello.keep {
            self.pool.clear();
            self.placer.clear();
            set(&self.metrics.used, 0);
            set(&self.metrics.placed, 0);
        }
        let features = ours & hello.features;
        self.session = Some(Session { version, features });
        self.placer.survey(ram);
        info!(version, features, keep = hello.keep, "hello");
        let answer = HelloAnswer {
            version,
            features,
            slots: self.pool.slots(),
            place_bytes: place::MAX_BYTES,
            frame_bytes: ram.largest_page(),
            domains: self.placer.domains(self.limits.pool_node),
        };
        Ok(answer.encode().to_vec())
    }

    fn status(&self) -> Status {
        let metrics = &self.metrics;
        let corrupt = |kind| metrics.count(kind, Code::Corrupt);
        Status {
            uptime: self.started.elapsed().as_secs(),
            slots: self.pool.slots(),
            used: self.pool.used(),
            stored: metrics.count(Kind::Store, Code::Ok),
            fetched: metrics.count(Kind::Fetch, Code::Ok),
            dropped: metrics.dropped.get(),
            corrupt: corrupt(Kind::Store) + corrupt(Kind::Fetch),
            placed: self.placer.pages(),
            healed: metrics.healed.get(),
            healed_huge: metrics.healed_huge.get(),
            unhealed: metrics.failures(Kind::Heal),
            rescued: metrics.count(Kind::Rescue, Code::Ok),
            refused: metrics.refused.get(),
        }
    }
}

/// The two answers that have a body.
enum Reply {
    Ok(Vec<u8>),
    Neighbours(Vec<u8>),
}
