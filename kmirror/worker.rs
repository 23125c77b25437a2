// SPDX-License-Identifier: GPL-2.0

//! The thread of a protected cgroup: one epoch after the other, and asleep in between.

use crate::{
    group::Group,
    store::SweepPlace,
    track::{self, Epoch},
    Kmirror, //
};
use kernel::{
    prelude::*,
    str::CString,
    sync::{new_condvar, new_mutex, Arc, CondVar, Mutex},
    time::{msecs_to_jiffies, Instant, Monotonic}, //
};
use kernel_ext::{
    kthread::{Kthread, Run},
    memory_mirror::{self, Tracking}, //
};
use kmirror_core::{next_deadline, on_first_dirty, Refusal};

/// How far the epochs have come. They are numbered from 1.
#[derive(Default)]
struct State {
    started: u64,
    done: u64,
    /// The epoch that somebody waits for, and which therefore copies everything.
    wanted: u64,
    /// Why the next epoch should begin now, if nobody waits for it.
    hurry: bool,
    running: bool,
    stop: bool,
}

/// What the thread shares with those who wait for it.
#[pin_data]
pub(crate) struct Signal {
    #[pin]
    state: Mutex<State>,
    /// To the thread: there is something to do.
    #[pin]
    wake: CondVar,
    /// From the thread: an epoch is done, or there will be none.
    #[pin]
    done: CondVar,
}

impl Signal {
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                state <- new_mutex!(State::default()),
                wake <- new_condvar!(),
                done <- new_condvar!(),
            }),
            GFP_KERNEL,
        )
    }

    /// Whether the thread has been told to end. Asked between batches of pages.
    pub(crate) fn stopping(&self) -> bool {
        self.state.lock().stop
    }

    /// Makes the next epoch begin now, for a setting that has changed.
    pub(crate) fn hurry(&self) {
        self.state.lock().hurry = true;
        self.wake.notify_all();
    }

    /// Asks for an epoch that begins after this call; to be waited for with [`Self::wait`].
    /// [`None`] if there is no thread.
    pub(crate) fn request(&self) -> Option<u64> {
        let mut state = self.state.lock();
        if !state.running || state.stop {
            return None;
        }
        let number = state.started + 1;
        state.wanted = number;
        self.wake.notify_all();
        Some(number)
    }

    /// Waits until epoch `number` is done.
    ///
    /// # Errors
    ///
    /// [`EINTR`] on a signal, [`ENODEV`] if protection ends before.
    pub(crate) fn wait(&self, number: u64) -> Result {
        let mut state = self.state.lock();
        while state.done < number {
            if !state.running || state.stop {
                return Err(ENODEV);
            }
            if self.done.wait_interruptible(&mut state) {
                return Err(EINTR);
            }
        }
        Ok(())
    }

    /// Sleeps until it is time for the epoch after one that began at `start` (if any) and returns
    /// its number, and whether it must copy everything. [`None`] to end.
    ///
    /// After one that has `failed` even those who wait have to wait for the interval.
    fn next(
        &self,
        group: &Group,
        start: Option<Instant<Monotonic>>,
        failed: bool,
    ) -> Option<(u64, bool)> {
        // The clock begins when the last epoch did; how long that took is known now.
        let took = start.map_or(0, nanos);
        let mut state = self.state.lock();
        loop {
            if state.stop {
                return None;
            }
            let forced = state.wanted > state.done;
            let left = start.map_or(0, |start| {
                // Read again each time, since it may have been changed.
                let deadline = next_deadline(0, took, group.interval());
                deadline.at.saturating_sub(nanos(start))
            });
            if (forced && !failed) || state.hurry || left == 0 {
                state.hurry = false;
                state.started += 1;
                return Some((state.started, forced));
            }
            let ms = u32::try_from(left / 1_000_000 + 1).unwrap_or(u32::MAX);
            let _ = self
                .wake
                .wait_interruptible_timeout(&mut state, msecs_to_jiffies(ms));
        }
    }

    fn finish(&self, number: u64) {
        self.state.lock().done = number;
        self.done.notify_all();
    }
}

fn nanos(since: Instant<Monotonic>) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(0)
}

/// The thread, as long as this is not dropped.
pub(crate) struct Worker {
    signal: Arc<Signal>,
    // Dropping it waits for the thread.
    thread: Option<Kthread>,
    /// Dropped last. By then no page has the flag, but those that are tracked by another.
    _tracking: Tracking,
}

struct Task {
    kmirror: Arc<Kmirror>,
    group: Arc<Group>,
}

impl Worker {
    /// Starts the thread for `group` and all that inherit from it.
    pub(crate) fn start(kmirror: &Arc<Kmirror>, group: &Arc<Group>) -> Result<Self> {
        let name = CString::try_from_fmt(fmt!("kmirror/{}", group.cgroup.id()))?;
        let task = Arc::new(
            Task {
                kmirror: kmirror.clone(),
                group: group.clone(),
            },
            GFP_KERNEL,
        )?;
        let signal = group.signal.clone();
        *signal.state.lock() = State {
            running: true,
            ..State::default()
        };
        let mut worker = Self {
            signal,
            thread: None,
            _tracking: Tracking::start(),
        };
        // If this fails, dropping `worker` takes back what was said above.
        worker.thread = Some(Kthread::spawn(&name, task)?);
        Ok(worker)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.signal.state.lock().stop = true;
        self.signal.wake.notify_all();
        self.signal.done.notify_all();
        drop(self.thread.take());
        let mut state = self.signal.state.lock();
        state.running = false;
    }
}

impl Run for Task {
    fn run(self: Arc<Self>) {
        let signal = &self.group.signal;
        let mut last: Option<Instant<Monotonic>> = None;
        let mut failed = false;
        // Pages that were pinned in the last epoch, and those among them that emptying the LRU's
        // batches has not helped. A batch is emptied by itself only when there is more to put into
        // it, so an idle program's last pages would wait for ever.
        let (mut pinned, mut stuck) = (0, 0);
        // An epoch passes over what nobody has used since the last, unless somebody has dropped
        // replicas meanwhile. What is dropped while an epoch runs is seen by the next.
        let mut seen = None;
        let mut sweep = SweepPlace::default();
        while let Some((number, forced)) = signal.next(&self.group, last, failed) {
            let start = Instant::<Monotonic>::now();
            let cleared = memory_mirror::times_cleared();
            let mut epoch = Epoch {
                kmirror: &self.kmirror,
                root: &self.group,
                number,
                forced,
                first_dirty: on_first_dirty(self.group.interval(), forced),
                all: forced || seen != Some(cleared),
                sweep: &mut sweep,
                drain: forced || pinned > stuck,
            };
            let done = track::run(&mut epoch);
            failed = done.is_err();
            match done {
                Ok(mut done) => {
                    seen = Some(cleared);
                    let took = nanos(start);
                    pinned = done.refused.refused(Refusal::Pinned);
                    stuck = if epoch.drain {
                        pinned
                    } else {
                        pinned.min(stuck)
                    };
                    done.total.late = next_deadline(0, took, self.group.interval()).late;
                    let mut progress = self.group.progress.lock();
                    progress.total.add(&done.total);
                    progress.refused = done.refused;
                    drop(progress);
                    signal.finish(number);
                }
                // Told to end, or out of memory: then those who wait go on waiting for the next.
                Err(_) => pr_debug!("epoch {} cut short\n", number),
            }
            last = Some(start);
        }
    }
}
