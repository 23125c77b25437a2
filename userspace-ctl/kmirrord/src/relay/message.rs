// SPDX-License-Identifier: GPL-2.0

//! Messages of vhost-user: a header, a body, file descriptors. Only as far as they have to be told
//! apart; what is in them is between QEMU and the service.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Numbers of requests.
pub mod request {
    #![allow(missing_docs, reason = "they are vhost-user's, and called as there")]
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const GET_CONFIG: u32 = 24;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
}

const HEADER_BYTES: usize = 12;
/// Longer than any body that the protocol has.
const MAX_BYTES: usize = 4096;
/// As many descriptors as the kernel passes at once.
const MAX_DESCRIPTORS: usize = 253;

const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// One message.
#[derive(Debug)]
pub struct Message {
    /// What it asks for.
    pub request: u32,
    flags: u32,
    /// What follows the header.
    pub body: Vec<u8>,
    /// What comes with it.
    pub descriptors: Vec<OwnedFd>,
}

impl Message {
    /// A request of our own, that asks for no acknowledgement.
    pub fn new(request: u32, body: Vec<u8>) -> Self {
        Self {
            request,
            flags: VERSION,
            body,
            descriptors: Vec::new(),
        }
    }

    /// The answer to this message.
    pub fn reply(&self, body: Vec<u8>) -> Self {
        Self {
            request: self.request,
            flags: VERSION | REPLY,
            body,
            descriptors: Vec::new(),
        }
    }

    /// The same without asking for an acknowledgement.
    pub fn quietly(mut self) -> Self {
        self.flags &= !NEED_REPLY;
        self
    }

    /// Whether it asks something that only the one who is asked knows.
    pub fn is_question(&self) -> bool {
        matches!(
            self.request,
            request::GET_FEATURES
                | request::GET_PROTOCOL_FEATURES
                | request::GET_QUEUE_NUM
                | request::GET_VRING_BASE
                | request::GET_CONFIG
                | request::GET_MAX_MEM_SLOTS
        )
    }

    /// Whether there is an answer, once `REPLY_ACK` has been agreed on or not.
    pub fn is_answered(&self, acknowledged: bool) -> bool {
        self.is_question() || acknowledged && self.flags & NEED_REPLY != 0
    }

    /// The little-endian number at `at` of the body; 0 if it is shorter.
    pub fn u32(&self, at: usize) -> u32 {
        let bytes = self.body.get(at..at + 4).unwrap_or(&[0; 4]);
        bytes.try_into().map_or(0, u32::from_le_bytes)
    }

    /// The same of 64 bits.
    pub fn u64(&self, at: usize) -> u64 {
        let bytes = self.body.get(at..at + 8).unwrap_or(&[0; 8]);
        bytes.try_into().map_or(0, u64::from_le_bytes)
    }

    /// Receives one. `None` at the end of the connection.
    ///
    /// # Errors
    ///
    /// When the connection breaks off in the middle, or what comes is no message.
    pub fn receive(mut from: &UnixStream) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER_BYTES];
        let mut space = vec![0; rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut header)];
        let bytes = loop {
            match recvmsg(from, parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) => break message.bytes,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                descriptors.extend(more);
            }
        }
        if bytes == 0 {
            return Ok(None);
        }
        from.read_exact(&mut header[bytes..])?;
        let word = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            u32::from_le_bytes(bytes)
        };
        let length = word(8) as usize;
        if length > MAX_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body)?;
        Ok(Some(Self {
            request: word(0),
            flags: word(4),
            body,
            descriptors,
        }))
    }

    /// Sends it. The descriptors stay ours, too.
    ///
    /// # Errors
    ///
    /// When nobody is there any more.
    pub fn send(&self, to: &UnixStream) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.body.len());
        for word in [self.request, self.flags, self.body.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(&self.body);
        let descriptors: Vec<BorrowedFd<'_>> = self.descriptors.iter().map(AsFd::as_fd).collect();
        let mut space = vec![0; rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut sent = 0;
        while sent < bytes.len() {
            let part = &[IoSlice::new(&bytes[sent..])];
            match sendmsg(to, part, &mut control, SendFlags::NOSIGNAL) {
                Ok(more) => {
                    sent += more;
                    // They go with the first byte.
                    control.clear();
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Seek, Write};

    #[test]
    fn what_is_sent_arrives_with_its_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"shared").unwrap();
        let mut message = Message::new(request::SET_MEM_TABLE, vec![1, 2, 3, 4, 5, 6, 7, 8, 9]);
        message.flags |= NEED_REPLY;
        message.descriptors.push(file.into());
        message.send(&a).unwrap();
        let got = Message::receive(&b).unwrap().unwrap();
        assert_eq!((got.request, &got.body), (5, &message.body));
        assert_eq!(
            (got.u32(0), got.u64(1)),
            (0x0403_0201, 0x0908_0706_0504_0302)
        );
        assert_eq!((got.u32(6), got.u64(2)), (0, 0));
        assert!(got.is_answered(true) && !got.is_answered(false));
        assert!(!got.quietly().is_answered(true));
        let got = message.descriptors.pop().unwrap();
        let mut text = String::new();
        let mut file = File::from(got);
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "shared");
        drop(a);
        assert!(Message::receive(&b).unwrap().is_none());
    }

    #[test]
    fn half_a_message_and_one_too_long_are_errors() {
        for bytes in [&[1u8, 0, 0, 0, 1][..], &[0xff; 12]] {
            let (mut a, b) = UnixStream::pair().unwrap();
            a.write_all(bytes).unwrap();
            drop(a);
            assert!(Message::receive(&b).is_err());
        }
    }
}
