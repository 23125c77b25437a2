// SPDX-License-Identifier: GPL-2.0

//! The thread `kmirror/host`: begins sessions with the host's service, sees whether it is still
//! there, and does what need not be done at once.

use crate::{
    frames::Records,
    heal,
    host::Session,
    host_place::{self, Placement},
    host_queue::Fault,
    Kmirror, //
};
use kernel::{
    prelude::*,
    sync::Arc,
    time::{Instant, Monotonic}, //
};
use kernel_ext::kthread::{Kthread, Run};
use kmirror_core::{
    wire::{features, Kind, Status},
    SLOTS_PER_BLOCK, //
};

/// How often the service is asked whether it is there, and a lost one called.
const INTERVAL_MS: u32 = 1000;

/// A session that lasts so long is none that fails at once.
const STABLE_MS: i64 = 60_000;
/// The longest wait between two sessions is 2 to this power, in half seconds.
const MOST_TRIES: u32 = 7;

/// The thread, which is ended when this is dropped.
pub(crate) struct HostLink {
    kmirror: Arc<Kmirror>,
    // Dropped last, which waits for it.
    thread: Option<Kthread>,
}

impl HostLink {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], [`EINTR`].
    pub(crate) fn start(kmirror: &Arc<Kmirror>) -> Result<Self> {
        let task = Arc::new(Task(kmirror.clone()), GFP_KERNEL)?;
        Ok(Self {
            kmirror: kmirror.clone(),
            thread: Some(Kthread::spawn(c"kmirror/host", task)?),
        })
    }
}

impl Drop for HostLink {
    fn drop(&mut self) {
        self.kmirror.host.stop();
        drop(self.thread.take());
        // Nobody has replicas any more.
        self.kmirror.store.trim_host();
        self.kmirror.host.end();
    }
}

/// When the next session may begin. One that is lost soon after it began is called at once, the next
/// after a second, then two, and so on: a service that fails each time fills the log no more than it
/// has to.
#[derive(Default)]
struct Patience {
    began: Option<Instant<Monotonic>>,
    tries: u32,
}

impl Patience {
    fn may_try(&self) -> bool {
        let wait = (1_i64 << self.tries.min(MOST_TRIES)) / 2;
        self.began
            .is_none_or(|began| began.elapsed().as_millis() >= wait * 1000)
    }

    fn begins(&mut self) {
        let short = self
            .began
            .is_some_and(|began| began.elapsed().as_millis() < STABLE_MS);
        self.tries = if short { self.tries + 1 } else { 0 };
        self.began = Some(Instant::now());
    }
}

struct Task(Arc<Kmirror>);

impl Run for Task {
    fn run(self: Arc<Self>) {
        let kmirror = &*self.0;
        let mut patience = Patience::default();
        loop {
            look_after(kmirror, &mut patience);
            if !kmirror.host.pause(INTERVAL_MS) {
                return;
            }
        }
    }
}

fn look_after(kmirror: &Kmirror, patience: &mut Patience) {
    let host = &kmirror.host;
    let alive = host.session().is_some()
        && host
            .plain(Kind::Status, &[], false, |body| {
                Status::parse(body).map(|_| ()).map_err(|_| Fault::Rubbish)
            })
            .is_ok();
    if !alive && host.session().is_none() {
        // Before the next session begins: what the last one held is not there any more.
        kmirror.store.host_gone();
        host.set_placement(None);
        if patience.may_try() {
            if let Ok(session) = host.hello() {
                patience.begins();
                begin(kmirror, session);
            }
        }
    }
    if host.session().is_some() {
        kmirror.store.trim_host();
        if host.placement().is_none() {
            ask_placement(kmirror);
        }
    }
    heal::run(kmirror);
}

fn begin(kmirror: &Kmirror, session: Session) {
    let slots = match session.has(features::POOL) {
        true => session.hello.slots,
        false => 0,
    };
    let blocks = usize::try_from(slots / SLOTS_PER_BLOCK as u64).unwrap_or(0);
    let pool = match pool(blocks) {
        Ok(pool) => pool,
        Err(_) => {
            pr_warn!("no memory for the records of the host's pool: it is not used\n");
            KVec::new()
        }
    };
    if kmirror.store.host_ready(pool).is_err() {
        pr_warn!("no memory for the records of the host's pool: it is not used\n");
    }
    kmirror.host.begin(session);
    // What the last service held is not covered, or only once, before the next epoch.
    kmirror.groups.hurry(|group| group.place().at_host());
    pr_info!(
        "the host's service is there: a pool of {} pages, failing in units of {} KiB\n",
        slots,
        session.hello.frame_bytes >> 10
    );
}

/// Records for so many blocks.
fn pool(blocks: usize) -> Result<KVec<Records>> {
    let mut pool = KVec::with_capacity(blocks, GFP_KERNEL | __GFP_NOWARN)?;
    for _ in 0..blocks {
        pool.push(Records::new()?, GFP_KERNEL)?;
    }
    Ok(pool)
}

/// Has the region kept where it should be, and remembers what the host says of it.
fn ask_placement(kmirror: &Kmirror) {
    // Not while the size changes: memory that has been given back is not ours to lock.
    let _resize = kmirror.store.resize.lock();
    let mut firsts = KVec::new();
    for first in kmirror.store.inner.lock().guest.first_frames() {
        if firsts.push(first, GFP_KERNEL).is_err() {
            return;
        }
    }
    match host_place::place(&kmirror.host, &firsts, false) {
        Ok(placement) => kmirror.host.set_placement(Some(placement)),
        // Not to be asked again.
        Err(Fault::Refused(_)) => kmirror.host.set_placement(Some(Placement::none())),
        Err(_) => {}
    }
}
