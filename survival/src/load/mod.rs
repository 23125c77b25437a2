// SPDX-License-Identifier: GPL-2.0

//! The clients. Each knows what every answer has to be, and none goes on after a wrong one.
//!
//! They work from the start until a line with a number comes on the standard input; then each does
//! so many rounds more, checks all the data that its server has, and `done` is printed. What goes
//! wrong is printed instead, once. Every few rounds there is a line `t`.

pub(crate) mod http;
mod pg;
mod redis;

use anyhow::{Context, Result};
use kmirror_selftests::wait;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

/// Rounds of all clients together for one tick.
const TICK: u64 = 10;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(90);

/// One connection and what its server should answer.
trait Client: Send {
    /// What it is called when it fails.
    fn name(&self) -> String;

    /// Brings the data into a state that is known.
    fn prepare(&mut self) -> Result<()>;

    /// A bounded amount of work.
    fn round(&mut self) -> Result<()>;

    /// Reads all data back.
    fn check(&mut self) -> Result<()>;
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody is there to be told if this fails.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

pub(crate) fn run() -> Result<()> {
    let clients: Vec<Box<dyn Client>> = vec![
        Box::new(pg::Bank::new("/run/pg1", 0, 2)),
        Box::new(pg::Bank::new("/run/pg1", 1, 2)),
        Box::new(pg::Bank::new("/run/pg2", 0, 1)),
        Box::new(redis::Keys::new(6381)),
        Box::new(redis::Keys::new(6382)),
        Box::new(http::Files::new(8080)),
    ];
    let count = clients.len();
    let prepared = Arc::new(Barrier::new(count + 1));
    let done = Arc::new(Barrier::new(count + 1));
    let rounds = Arc::new(AtomicU64::new(0));
    // How many rounds a client still has; without end at first.
    let left: Vec<Arc<AtomicU64>> = (0..count)
        .map(|_| Arc::new(AtomicU64::new(u64::MAX)))
        .collect();

    for (mut client, left) in clients.into_iter().zip(left.clone()) {
        let (prepared, done, rounds) = (prepared.clone(), done.clone(), rounds.clone());
        std::thread::spawn(move || {
            let name = client.name();
            let mut work = || -> Result<()> {
                client.prepare().context("preparing")?;
                prepared.wait();
                while left.fetch_sub(1, Ordering::Relaxed) > 0 {
                    client.round()?;
                    if rounds.fetch_add(1, Ordering::Relaxed) % TICK == TICK - 1 {
                        say("t");
                    }
                }
                client.check().context("at the end")
            };
            if let Err(error) = work() {
                // One line, and the end: the first error is the one that counts.
                say(&format!("wrong: {name}: {error:#}").replace('\n', " "));
                std::process::exit(1);
            }
            done.wait();
            // The connection stays: a server's process that ends would look as if it had died.
            loop {
                std::thread::park();
            }
        });
    }
    prepared.wait();
    say("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let more = line.trim().parse().context("how many rounds?")?;
    for left in &left {
        left.store(more, Ordering::Relaxed);
    }
    done.wait();
    say("done");
    // Stays: the host decides when it is over.
    std::io::stdin().read_line(&mut line)?;
    Ok(())
}

/// Connects to a server that may not be up yet: it tells nobody when it is.
fn connect<T, E>(mut open: impl FnMut() -> Result<T, E>) -> Result<T> {
    let mut stream = None;
    wait::until("a server that answers", 2 * PATIENCE, || {
        stream = open().ok();
        Ok(stream.is_some())
    })?;
    stream.context("no server")
}

/// Bytes that only this `seed` has.
fn fill(seed: u64, buf: &mut [u8]) {
    let mut rng = kmirror_selftests::rng::Rng::new(seed);
    for part in buf.chunks_mut(8) {
        let word = rng.next_u64().to_le_bytes();
        part.copy_from_slice(&word[..part.len()]);
    }
}
