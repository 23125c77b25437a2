// SPDX-License-Identifier: GPL-2.0

//! Waiting, never by sleeping and never without a bound.

use anyhow::{bail, ensure, Context, Result};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// What any one thing may take. Guests without KVM are some 15 times slower than the machine.
pub const BOUND: Duration = Duration::from_secs(30);

/// Waits for `events` on `fd`. Whether they came in time.
pub fn ready(fd: BorrowedFd<'_>, events: PollFlags, bound: Duration) -> Result<bool> {
    let end = Instant::now() + bound;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(fd, events)];
        match poll(&mut fds, timeout) {
            Err(nix::errno::Errno::EINTR) => {}
            other => {
                let came = other.context("poll")? > 0;
                // With an error alone there is nothing to wait for. cgroup's files report one
                // together with their event, and a pipe whose other end is gone hangs up.
                let got = fds[0].revents().unwrap_or(PollFlags::empty());
                ensure!(
                    !came || got.intersects(events | PollFlags::POLLHUP),
                    "a descriptor that cannot be waited for: {got:?}"
                );
                return Ok(came);
            }
        }
    }
}

/// Asks again and again, giving the CPU away in between: for the few states of which the kernel
/// sends no event (KSM has merged, a background epoch has run).
pub fn until(what: &str, bound: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + bound;
    while !holds()? {
        if Instant::now() > end {
            bail!("still not after {} s: {what}", bound.as_secs());
        }
        std::thread::yield_now();
    }
    Ok(())
}
