// SPDX-License-Identifier: GPL-2.0

//! What QEMU has set up, so that it can be set up again at another instance of the service, and what
//! a service would answer meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use super::message::{request, Message};

/// `VHOST_USER_PROTOCOL_F_REPLY_ACK`.
const REPLY_ACK: u64 = 1 << 3;

/// A queue's set-up, by the message that sets it, in the order in which that is done.
const QUEUE: [u32; 7] = [
    request::SET_VRING_NUM,
    request::SET_VRING_ADDR,
    request::SET_VRING_BASE,
    request::SET_VRING_CALL,
    request::SET_VRING_ERR,
    request::SET_VRING_KICK,
    request::SET_VRING_ENABLE,
];

/// A part of the guest's memory, as QEMU describes it.
#[derive(Clone, Copy, Debug)]
struct Region {
    guest: u64,
    bytes: u64,
    /// In QEMU's own address space, where rings are.
    user: u64,
    offset: u64,
}

impl Region {
    fn read(message: &Message, at: usize) -> Self {
        Self {
            guest: message.u64(at),
            bytes: message.u64(at + 8),
            user: message.u64(at + 16),
            offset: message.u64(at + 24),
        }
    }
}

/// See above.
#[derive(Debug, Default)]
pub struct Record {
    /// `SET_OWNER`, `SET_FEATURES`, `SET_PROTOCOL_FEATURES`, by number.
    device: BTreeMap<u32, Message>,
    /// `SET_MEM_TABLE` alone, or one `ADD_MEM_REG` after the other.
    memory: Vec<Message>,
    /// By the number of the queue, then in the order of [`QUEUE`].
    queues: BTreeMap<u32, BTreeMap<usize, Message>>,
    /// The last answer to each question.
    answers: BTreeMap<(u32, Vec<u8>), Vec<u8>>,
}

/// The number of the queue that a message is about. Those with a descriptor have flags above it.
fn queue(message: &Message) -> u32 {
    match message.request {
        request::SET_VRING_KICK | request::SET_VRING_CALL | request::SET_VRING_ERR => {
            message.u32(0) & 0xff
        }
        _ => message.u32(0),
    }
}

impl Record {
    /// Whether a message that wants an acknowledgement gets one.
    pub fn acknowledged(&self) -> bool {
        self.device
            .get(&request::SET_PROTOCOL_FEATURES)
            .is_some_and(|message| message.u64(0) & REPLY_ACK != 0)
    }

    /// Takes a message of QEMU in, which has been passed on.
    pub fn remember(&mut self, message: Message) {
        match message.request {
            request::SET_OWNER | request::SET_FEATURES | request::SET_PROTOCOL_FEATURES => {
                self.device.insert(message.request, message.quietly());
            }
            request::SET_MEM_TABLE => self.memory = vec![message.quietly()],
            request::ADD_MEM_REG => self.memory.push(message.quietly()),
            request::REM_MEM_REG => {
                let gone = Region::read(&message, 8);
                self.memory.retain(|added| {
                    let added = Region::read(added, 8);
                    (added.guest, added.user) != (gone.guest, gone.user)
                });
            }
            // The queue is stopped. QEMU says all of this again when it starts it.
            request::GET_VRING_BASE => {
                let queue = self.queues.entry(message.u32(0)).or_default();
                queue.retain(|&at, _| QUEUE.get(at) == Some(&request::SET_VRING_CALL));
            }
            other => {
                if let Some(at) = QUEUE.iter().position(|&number| number == other) {
                    let queue = self.queues.entry(queue(&message)).or_default();
                    queue.insert(at, message.quietly());
                }
            }
        }
    }

    /// Takes the service's answer to a question in.
    pub fn remember_answer(&mut self, question: &Message, answer: &Message) {
        let key = (question.request, question.body.clone());
        self.answers.insert(key, answer.body.clone());
    }

    /// What the service would answer, were it there. `None` if it would have to be asked.
    pub fn answer(&self, message: &Message) -> Option<Message> {
        if message.request == request::GET_VRING_BASE {
            let queue = message.u32(0);
            let base = self.base(queue).ok()?;
            let body = [queue.to_le_bytes(), base.to_le_bytes()].concat();
            return Some(message.reply(body));
        }
        if !message.is_question() {
            // It has been taken in, which is all that it asks for.
            return Some(message.reply(vec![0; 8]));
        }
        let key = (message.request, message.body.clone());
        let body = self.answers.get(&key)?;
        Some(message.reply(body.clone()))
    }

    /// What the service has said that it can do, and has to be able to do if it is another.
    pub fn features(&self, question: u32) -> Option<u64> {
        let body = self.answers.get(&(question, Vec::new()))?;
        Some(u64::from_le_bytes(body.get(..8)?.try_into().ok()?))
    }

    /// All that QEMU has set up, in the order in which it is to be done again. The queues begin where
    /// they have come to.
    ///
    /// # Errors
    ///
    /// When a queue's memory cannot be read.
    pub fn replay(&self) -> io::Result<Vec<Message>> {
        let mut messages = Vec::new();
        for number in [
            request::SET_OWNER,
            request::SET_FEATURES,
            request::SET_PROTOCOL_FEATURES,
        ] {
            messages.extend(self.device.get(&number).map(copy).transpose()?);
        }
        for memory in &self.memory {
            messages.push(copy(memory)?);
        }
        for (&number, queue) in &self.queues {
            for message in queue.values() {
                messages.push(match message.request {
                    request::SET_VRING_BASE => {
                        let body = [number.to_le_bytes(), self.base(number)?.to_le_bytes()];
                        Message::new(request::SET_VRING_BASE, body.concat())
                    }
                    _ => copy(message)?,
                });
            }
        }
        Ok(messages)
    }

    /// The doorbells of the queues that run. A new service has to be rung for: whoever was told of
    /// what is in a queue may not have lived to take it.
    pub fn doorbells(&self) -> impl Iterator<Item = &OwnedFd> {
        let kick = QUEUE
            .iter()
            .position(|&number| number == request::SET_VRING_KICK);
        self.queues
            .values()
            .filter_map(move |queue| queue.get(&kick?))
            .flat_map(|message| &message.descriptors)
    }

    /// Where a service has to begin with a queue. All requests are answered in order, so what is in
    /// the used ring is what has been taken from the available one.
    ///
    /// # Errors
    ///
    /// When the queue's memory is unknown or cannot be read.
    fn base(&self, queue: u32) -> io::Result<u32> {
        let at = |number: u32| QUEUE.iter().position(|&other| other == number);
        let of = |number| self.queues.get(&queue)?.get(&at(number)?);
        let Some(address) = of(request::SET_VRING_ADDR) else {
            // It has never run.
            return Ok(of(request::SET_VRING_BASE).map_or(0, |message| message.u32(4)));
        };
        // queue, flags, descriptors, used ring, available ring, log
        let used = address.u64(16);
        let (file, offset) = self.place(used).ok_or(io::ErrorKind::NotFound)?;
        // flags, index
        let mut index = [0; 2];
        file.read_exact_at(&mut index, offset + 2)?;
        Ok(u32::from(u16::from_le_bytes(index)))
    }

    /// The file, and the place in it, of an address of QEMU's.
    fn place(&self, address: u64) -> Option<(File, u64)> {
        for message in &self.memory {
            let count = match message.request {
                request::SET_MEM_TABLE => message.u32(0) as usize,
                _ => 1,
            };
            for (at, descriptor) in message.descriptors.iter().enumerate().take(count) {
                let region = Region::read(message, 8 + 32 * at);
                let Some(inside) = address.checked_sub(region.user) else {
                    continue;
                };
                if inside < region.bytes {
                    let file = File::from(descriptor.try_clone().ok()?);
                    return Some((file, region.offset.checked_add(inside)?));
                }
            }
        }
        None
    }
}

fn copy(message: &Message) -> io::Result<Message> {
    let mut copy = Message::new(message.request, message.body.clone());
    for descriptor in &message.descriptors {
        copy.descriptors.push(descriptor.try_clone()?);
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn requests(record: &Record) -> Vec<u32> {
        let messages = record.replay().unwrap();
        messages.iter().map(|message| message.request).collect()
    }

    /// Memory of two pages at guest 0x1000 and QEMU's 0x7000, from 0x100 of a file on.
    fn with_memory() -> Record {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0; 0x100 + 0x1002]).unwrap();
        file.write_all(&[0x34, 0x12]).unwrap();
        let mut memory = Message::new(
            request::SET_MEM_TABLE,
            words(&[1, 0x1000, 0x2000, 0x7000, 0x100]),
        );
        memory.descriptors.push(file.into());
        let mut record = Record::default();
        record.remember(memory);
        record
    }

    #[test]
    fn a_queue_begins_where_its_used_ring_says() {
        let mut record = with_memory();
        let number = |request, value: u32| {
            Message::new(request, [0u32.to_le_bytes(), value.to_le_bytes()].concat())
        };
        record.remember(number(request::SET_VRING_NUM, 16));
        record.remember(number(request::SET_VRING_BASE, 7));
        let stop = || number(request::GET_VRING_BASE, 0);
        // It has never run: as QEMU has said.
        let answer = record.answer(&stop()).unwrap();
        assert_eq!((answer.u32(0), answer.u32(4)), (0, 7));
        record.remember(Message::new(
            request::SET_VRING_ADDR,
            words(&[0, 0x7000, 0x8000, 0x7800, 0]),
        ));
        let mut kick = Message::new(request::SET_VRING_KICK, words(&[0]));
        kick.descriptors.push(tempfile::tempfile().unwrap().into());
        record.remember(kick);
        assert_eq!(record.answer(&stop()).unwrap().u32(4), 0x1234);
        assert_eq!(requests(&record), [5, 8, 9, 10, 12]);
        let messages = record.replay().unwrap();
        assert_eq!(messages[3].u32(4), 0x1234);
        assert_eq!(record.doorbells().count(), 1);
        // Stopped: nothing of it is set up by itself again.
        record.remember(stop());
        assert_eq!(requests(&record), [5]);
        assert_eq!(record.doorbells().count(), 0);
    }

    #[test]
    fn a_ring_outside_of_memory_is_an_error() {
        let mut record = with_memory();
        record.remember(Message::new(request::SET_VRING_BASE, words(&[0])));
        for used in [0, 0x6fff, 0x9000, u64::MAX] {
            record.remember(Message::new(
                request::SET_VRING_ADDR,
                words(&[0, 0, used, 0, 0]),
            ));
            assert!(record.replay().is_err(), "{used:#x}");
            let stop = Message::new(request::GET_VRING_BASE, words(&[0]));
            assert!(record.answer(&stop).is_none(), "{used:#x}");
        }
    }

    #[test]
    fn memory_comes_and_goes_by_regions_too() {
        let mut record = with_memory();
        let region = |request, guest| {
            Message::new(request, words(&[0, guest, 0x1000, guest + 0x10_0000, 0]))
        };
        record.remember(region(request::ADD_MEM_REG, 0x10_0000));
        record.remember(region(request::ADD_MEM_REG, 0x20_0000));
        assert_eq!(requests(&record), [5, 37, 37]);
        record.remember(region(request::REM_MEM_REG, 0x10_0000));
        let left = record.replay().unwrap();
        assert_eq!(left.len(), 2);
        assert_eq!(left[1].u64(8), 0x20_0000);
        record.remember(Message::new(request::SET_MEM_TABLE, words(&[0])));
        assert_eq!(requests(&record), [5]);
    }

    #[test]
    fn answers_are_given_again_and_acknowledgements_made_up() {
        let mut record = Record::default();
        let ask = |at| Message::new(request::GET_CONFIG, words(&[at]));
        assert!(record.answer(&ask(0)).is_none());
        record.remember_answer(&ask(0), &ask(0).reply(vec![1, 2, 3]));
        assert_eq!(record.answer(&ask(0)).unwrap().body, [1, 2, 3]);
        assert!(record.answer(&ask(1)).is_none());
        let set = Message::new(request::SET_FEATURES, words(&[1]));
        assert_eq!(record.answer(&set).unwrap().body, [0; 8]);

        let features = Message::new(request::GET_FEATURES, Vec::new());
        assert_eq!(record.features(request::GET_FEATURES), None);
        record.remember_answer(&features, &features.reply(words(&[5])));
        assert_eq!(record.features(request::GET_FEATURES), Some(5));

        assert!(!record.acknowledged());
        record.remember(Message::new(
            request::SET_PROTOCOL_FEATURES,
            words(&[0x208]),
        ));
        assert!(record.acknowledged());
    }
}
