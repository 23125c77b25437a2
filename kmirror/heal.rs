// SPDX-License-Identifier: GPL-2.0

//! A broken frame gets fresh memory from the host and goes back into use.
//!
//! ```text
//! restored   the page has moved on, nobody uses the frame any more
//! around     with a huge page of the host its 512 frames are lost: each is looked at, restored from
//!            its replica or from what the service reads of it, retired
//! a second   for the machine check that reports the same error again
//! HEAL       the service replaces what is behind the frame, and fills it with zeros
//! report     QEMU drops the broken page from its own page table (free page reporting)
//! reuse      the kernel reads the frame, and takes it back if it is whole and zero
//! ```
//!
//! The service and QEMU are asked, but only what is read is believed. A frame that cannot be healed
//! stays out of use until the next boot, as without kmirror.
//!
//! A HEAL that is not answered may still be done at any later time, and would then wipe out what is
//! in the frame. So such a frame is never used again, and HEAL is asked once for each frame, but
//! after an answer that says that nothing was changed.

use crate::{
    group::Counter,
    host::Host,
    host_queue::Fault,
    Kmirror, //
};
use kernel::{
    prelude::*,
    sync::{new_mutex, Mutex},
    time::{Delta, Instant, Monotonic}, //
};
use kernel_ext::memory_mirror;
use kmirror_core::wire::{self, features, Code, Frames, Kind};

/// How long a frame is left alone after its page was restored. The same error may be reported twice,
/// and the one who took the machine check is still at work on it.
const REST: Delta = Delta::from_millis(1000);

/// How often it is tried, each time after twice as long: the neighbours behind one huge page of the
/// host may have to be restored first.
const TRIES: u32 = 6;

/// Frames in 2 MiB.
const FRAMES: usize = 512;

/// A frame that was taken out of use.
#[derive(Clone, Copy)]
struct Broken {
    pfn: usize,
    since: Instant<Monotonic>,
    tries: u32,
    /// Its neighbours have been looked at.
    around: bool,
}

impl Broken {
    fn is_due(&self) -> bool {
        let rest = REST.as_millis() << self.tries;
        self.since.elapsed().as_millis() >= rest
    }
}

/// The frames that wait, and what became of the others.
#[pin_data]
pub(crate) struct Healing {
    #[pin]
    waiting: Mutex<KVec<Broken>>,
    pub(crate) healed: Counter,
    /// Pages without a current replica whose bytes the host has read.
    pub(crate) rescued: Counter,
    /// Frames that stay out of use.
    pub(crate) retired: Counter,
}

impl Healing {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            waiting <- new_mutex!(KVec::new()),
            healed: Counter::default(),
            rescued: Counter::default(),
            retired: Counter::default(),
        })
    }

    /// The page that was in this frame has been restored to another.
    ///
    /// Context: may sleep.
    pub(crate) fn add(&self, pfn: usize) {
        let broken = Broken {
            pfn,
            since: Instant::now(),
            tries: 0,
            around: false,
        };
        let mut waiting = self.waiting.lock();
        // One that was looked at as a neighbour has been added when its page was restored.
        if waiting.iter().any(|other| other.pfn == pfn) {
            return;
        }
        if waiting.push(broken, GFP_KERNEL).is_err() {
            self.retired.count();
        }
    }

    /// The first frame of 2 MiB in which one has broken, and in which the others have not been
    /// looked at. They count as looked at from now on.
    fn take_unseen(&self) -> Option<usize> {
        let mut waiting = self.waiting.lock();
        let unseen = waiting.iter().find(|broken| !broken.around)?;
        let first = unseen.pfn / FRAMES * FRAMES;
        Self::seen(&mut waiting, first);
        Some(first)
    }

    /// Those that wait in these 2 MiB need not look at each other.
    fn seen(waiting: &mut KVec<Broken>, first: usize) {
        for broken in waiting.iter_mut() {
            broken.around |= broken.pfn / FRAMES * FRAMES == first;
        }
    }

    /// Frames that wait to be healed.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.lock().len() as u64
    }

    /// One that has rested, if any.
    fn take_due(&self) -> Option<Broken> {
        let mut waiting = self.waiting.lock();
        let at = waiting.iter().position(Broken::is_due)?;
        waiting.remove(at).ok()
    }

    /// The frames in the 2 MiB around `pfn` that wait as well: nobody uses them.
    fn neighbours(&self, pfn: usize) -> Frames {
        let mut idle = Frames::NONE;
        let waiting = self.waiting.lock();
        let around = waiting
            .iter()
            .filter(|other| other.pfn / FRAMES == pfn / FRAMES);
        for other in around.filter(|other| memory_mirror::is_retired(other.pfn)) {
            idle.set(other.pfn % FRAMES);
        }
        idle
    }
}

/// Why a frame stays out of use.
enum Unhealed {
    /// It may work later.
    Later(&'static str),
    Never(&'static str),
    /// There is nobody who could do it, and never was: not worth a line for each.
    Alone,
}

/// Looks at the neighbours of frames that have broken, if the host's memory breaks in huge pages: the
/// guest has been told of one frame, and 511 others are lost with it. A kernel that touches one does
/// not survive it, so they are restored or taken out of use before anybody does. That the host says
/// so is only why they are looked at: what counts is whether they can be read.
///
/// Blocks of the region are 2 MiB, so none of its frames is the neighbour of one that waits here.
///
/// Context: may sleep, and take long.
fn look_around(host: &Host, healing: &Healing) {
    // What the last one was told holds for memory that a new one has to be told of first.
    let Some(session) = host.session() else {
        return;
    };
    while let Some(first) = healing.take_unseen() {
        if session.hello.frame_bytes <= wire::DATA_BYTES as u64 {
            continue;
        }
        let mut lost = 0;
        for pfn in first..first + FRAMES {
            // A page of the kernel cannot be taken out of use; the host's page stays as it is then.
            if let Ok(true) = memory_mirror::check(pfn) {
                healing.add(pfn);
                lost += 1;
            }
        }
        Healing::seen(&mut healing.waiting.lock(), first);
        if lost > 0 {
            pr_info!("{lost} more frames from {first:#x} on are lost with the host's huge page\n");
        }
    }
}

/// Heals all frames that have rested.
///
/// Context: may sleep, and take long.
pub(crate) fn run(kmirror: &Kmirror) {
    let healing = &kmirror.healing;
    look_around(&kmirror.host, healing);
    // Those that come back to wait are not due before long.
    while let Some(mut broken) = healing.take_due() {
        let pfn = broken.pfn;
        match heal(&kmirror.host, healing, pfn) {
            Ok(()) => {
                healing.healed.count();
                pr_info!("frame {pfn:#x} is healed and in use again\n");
            }
            Err(Unhealed::Later(_)) if broken.tries + 1 < TRIES => {
                broken.tries += 1;
                if healing.waiting.lock().push(broken, GFP_KERNEL).is_err() {
                    healing.retired.count();
                }
            }
            Err(Unhealed::Alone) => healing.retired.count(),
            Err(Unhealed::Later(why) | Unhealed::Never(why)) => {
                healing.retired.count();
                pr_info!("frame {pfn:#x} stays out of use: {why}\n");
            }
        }
    }
}

fn heal(host: &Host, healing: &Healing, pfn: usize) -> Result<(), Unhealed> {
    // Not one that was broken for a test only and taken back since.
    if !memory_mirror::is_retired(pfn) {
        return Err(Unhealed::Never("it is not out of use"));
    }
    let by_service = match host.session() {
        Some(session) if session.has(features::HEAL) => replace(host, healing, pfn)?,
        None if host.queue().is_some() => {
            return Err(Unhealed::Later("the host's service is not there"));
        }
        _ => false,
    };
    let by_qemu = memory_mirror::report(pfn).is_ok();
    if !by_service && !by_qemu {
        return Err(match host.queue() {
            Some(_) => Unhealed::Never("nobody at the host can replace it"),
            None => Unhealed::Alone,
        });
    }
    memory_mirror::reuse(pfn).map_err(|error| match error {
        EIO if by_qemu => Unhealed::Never("it is still broken after the host has replaced it"),
        EIO => {
            Unhealed::Never("it is still broken: QEMU needs a balloon with free-page-reporting=on")
        }
        _ => Unhealed::Never("somebody holds it"),
    })
}

/// Has the service replace what is behind the frame. Returns whether it has.
fn replace(host: &Host, healing: &Healing, pfn: usize) -> Result<bool, Unhealed> {
    let heal = wire::Heal {
        address: (pfn as u64) << 12,
        idle: healing.neighbours(pfn),
        fill: None,
    };
    match host.plain(Kind::Heal, &heal.encode(), true, |_| Ok(())) {
        Ok(()) => Ok(true),
        Err(Fault::Refused(Code::Neighbours)) => Err(Unhealed::Later(
            "the rest of the host's huge page is in use",
        )),
        Err(Fault::Refused(Code::Busy)) => Err(Unhealed::Later("the host's service is busy")),
        // Nothing was done; QEMU may help.
        Err(Fault::Refused(Code::Unsupported | Code::Denied | Code::Memory)) => Ok(false),
        // Refused without a look at it, by another instance than the one that was meant. That one may
        // have begun with it, but is at an end: a queue has one service at a time.
        Err(Fault::Refused(Code::Instance)) => {
            Err(Unhealed::Later("the host's service was started anew"))
        }
        Err(Fault::Refused(_) | Fault::Rubbish | Fault::Timeout) => Err(Unhealed::Never(
            "the host's service has failed, and may still be at work on it",
        )),
        Err(Fault::Gone | Fault::Local) => Err(Unhealed::Later("the host's service is gone")),
    }
}
