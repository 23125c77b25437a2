// SPDX-License-Identifier: GPL-2.0

//! The relay stands between QEMU and the service, so that QEMU's connection outlives the service.
//!
//! ```text
//! QEMU ---- one connection, for as long as the machine runs ---- relay ---- one connection ---- kmirrord
//!                                                                              after the other
//! ```
//!
//! Stock QEMU takes no second connection to its generic vhost-user device: when the first has ended
//! the device is dead until it is unplugged, whatever `reconnect-ms` says. So the connection must not
//! end. The relay passes messages on, remembers what QEMU has set up, and sets it up again at the
//! next instance of the service when the last has gone. It sees no request of the guest: those go
//! through memory that QEMU shares with the service, and the doorbell rings at the service itself.
//!
//! While no service is there QEMU is answered at once, from what was remembered, since QEMU stands
//! still, and the machine with it, until it is.
//!
//! # The moment in between
//!
//! The end of the service's connection says that the service has stopped with the queue: a process
//! that is killed has no thread left that could store to memory when its descriptors are closed.
//! One that only closes the connection, and goes on, joins its thread before it answers on the next
//! one, and nothing is set up before it has answered. What it had taken from a queue and not
//! answered is there still, since the queue begins again where its used ring ends. The next instance
//! refuses it, because the request names the instance that it was meant for; so the guest learns at
//! once that it has to begin a session again.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use rustix::event::{poll, PollFd, PollFlags};
use tracing::{info, warn};

pub mod message;
pub mod record;

use message::{request, Message};
use record::Record;

/// How often a service that is not there is called.
const RETRY: Duration = Duration::from_millis(100);

/// How long one that accepts the connection may take for its first answers; then it is called again.
/// One that QEMU has asked something is not hurried: only its answer, or its end, says that it has
/// stopped with a queue.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// Serves one QEMU after the other, for ever, from the service that listens at `service`.
///
/// # Errors
///
/// When no further connection can be accepted.
pub fn serve(listener: &UnixListener, service: &Path) -> Result<()> {
    loop {
        // QEMU is let in when there is somebody who knows what the device can do.
        let mut record = Record::default();
        let Ok(stream) = connect(service, &mut record) else {
            thread::sleep(RETRY);
            continue;
        };
        let (qemu, _) = listener.accept().context("cannot accept a connection")?;
        info!("QEMU is connected");
        let link = Link {
            qemu,
            service: Some(stream),
            record,
        };
        match link.run(service) {
            Ok(()) => info!("QEMU has gone"),
            Err(error) => warn!("the connection to QEMU has ended: {error:#}"),
        }
    }
}

/// Asks the service something during the set-up.
fn ask(stream: &UnixStream, question: &Message) -> io::Result<Message> {
    question.send(stream)?;
    Message::receive(stream)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Connects to the service and sets up what is recorded.
fn connect(path: &Path, record: &mut Record) -> Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(FIRST_ANSWER))?;
    // What it can do has to be asked before any of it is agreed on; and the answer says that whoever
    // was at work on the queue is no more.
    for number in [request::GET_FEATURES, request::GET_PROTOCOL_FEATURES] {
        let question = Message::new(number, Vec::new());
        let answer = ask(&stream, &question)?;
        match record.features(number) {
            Some(before) if before & !answer.u64(0) != 0 => {
                bail!("the service can do less than the one before, so it needs a new QEMU")
            }
            // QEMU goes on with what it was told.
            Some(_) => {}
            None => record.remember_answer(&question, &answer),
        }
    }
    for message in record.replay().context("the queue cannot be read")? {
        message.send(&stream)?;
    }
    // Those messages have no answer; when this one has, all before it have been worked off.
    ask(&stream, &Message::new(request::GET_FEATURES, Vec::new()))
        .context("the service does not take over")?;
    stream.set_read_timeout(None)?;
    for doorbell in record.doorbells() {
        ring(doorbell);
    }
    Ok(stream)
}

fn ring(doorbell: &OwnedFd) {
    // Only full if it has been rung already.
    let _ = rustix::io::write(doorbell, &1u64.to_ne_bytes());
}

/// QEMU, and the service if it is there.
struct Link {
    qemu: UnixStream,
    service: Option<UnixStream>,
    record: Record,
}

impl Link {
    /// Passes messages on until QEMU goes.
    fn run(mut self, path: &Path) -> Result<()> {
        let mut said = false;
        loop {
            if self.service.is_none() {
                match connect(path, &mut self.record) {
                    Ok(stream) => {
                        info!("the service is there again");
                        self.service = Some(stream);
                        said = false;
                    }
                    Err(error) if !said => {
                        warn!("the service is not there: {error:#}");
                        said = true;
                    }
                    Err(_) => {}
                }
            }
            let (from_qemu, from_service) = self.wait()?;
            if from_service {
                // It has nothing to say by itself, so this is its end.
                self.lose();
            }
            if from_qemu {
                match Message::receive(&self.qemu)? {
                    Some(message) => self.pass(message)?,
                    None => return Ok(()),
                }
            }
        }
    }

    /// Waits until one of them has something to say; not for long, if there is a service to be found.
    fn wait(&self) -> Result<(bool, bool)> {
        let timeout = match self.service {
            Some(_) => -1,
            None => RETRY.as_millis() as i32,
        };
        let mut ready = vec![PollFd::new(&self.qemu, PollFlags::IN)];
        if let Some(service) = &self.service {
            ready.push(PollFd::new(service, PollFlags::IN));
        }
        match poll(&mut ready, timeout) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        let is = |at: usize| ready.get(at).is_some_and(|fd| !fd.revents().is_empty());
        Ok((is(0), is(1)))
    }

    fn lose(&mut self) {
        warn!("the service has gone");
        self.service = None;
    }

    /// Passes a message on to the service, and its answer back.
    fn pass(&mut self, message: Message) -> Result<()> {
        let answered = message.is_answered(self.record.acknowledged());
        let mut answer = None;
        if let Some(service) = &self.service {
            let passed = message.send(service).and_then(|()| match answered {
                true => Message::receive(service),
                false => Ok(None),
            });
            match passed {
                Ok(None) if answered => self.lose(),
                Ok(came) => answer = came,
                Err(_) => self.lose(),
            }
        }
        let answer = match (answer, answered) {
            (Some(answer), _) => {
                if message.is_question() && message.request != request::GET_VRING_BASE {
                    self.record.remember_answer(&message, &answer);
                }
                Some(answer)
            }
            (None, true) => Some(
                self.record
                    .answer(&message)
                    .context("it asks what only a service knows, and there is none")?,
            ),
            (None, false) => None,
        };
        // Only now: where a queue has come to is known as long as its set-up is.
        self.record.remember(message);
        match answer {
            Some(answer) => answer.send(&self.qemu).context("QEMU does not listen"),
            None => Ok(()),
        }
    }
}
