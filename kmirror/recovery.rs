// SPDX-License-Identifier: GPL-2.0

//! What is done when memory is lost.
//!
//! Errors come in by three doors:
//!
//! 1. somebody has run into it: `memory_failure()` asks [`Recovery`] before it poisons the page;
//! 2. the hardware has found it by itself: [`Latent`] is told through the machine check's decode
//!    chain, before the kernel's own handler, and sends it the same way;
//! 3. the frame is one of the mirror's own: [`Recovery::owns`].
//!
//! The kernel proves that the replica is current, at the one moment when nobody can write to the
//! page (`folio_fill_from_mirror()` in mm/memory_mirror_restore.c). Here it is only looked up, and its
//! hash compared. If there is none, and the host has taken the frame away with a huge page of its own,
//! the host is asked for what is in it, which nobody can have written since. Whatever cannot be proven
//! goes the kernel's own way, as if there were no kmirror.

use crate::{
    group::{Counter, Events, Group},
    sync::reason,
    Kmirror, //
};
use core::num::NonZero;
use kernel::{prelude::*, str::CStr, sync::Arc};
use kernel_ext::{
    mce::{DecodeChain, LatentError},
    memory_mirror::{self, Keeper, Refusal, Target},
    mm,
    notifier::Handler,
    trace, //
};

/// The longest path of a cgroup that is printed whole.
const PATH: usize = 256;

/// Answers the kernel's questions about replicas.
pub(crate) struct Recovery(pub(crate) Arc<Kmirror>);

impl Recovery {
    /// Counts an event for a group, all above it and the whole system.
    fn count(&self, group: &Group, which: impl Fn(&Events) -> &Counter) {
        which(&self.0.events).count();
        for group in group.lineage() {
            which(&group.events).count();
        }
        self.0.groups.events_changed(group);
    }
}

impl Keeper for Recovery {
    fn owns(&self, pfn: usize) -> bool {
        let Some(lost) = self.0.store.retire(pfn) else {
            return false;
        };
        let (primary, group) = match lost.replica {
            Some((primary, group)) => (primary, group),
            None => (0, None),
        };
        if let Some(group) = &group {
            self.count(group, |events| &events.replica_lost);
            pr_info!(
                "frame {:#x} of the mirror region is lost, and with it the replica of frame {:#x}\n",
                pfn,
                primary
            );
        } else {
            pr_info!("frame {:#x} of the mirror region is lost\n", pfn);
        }
        trace::replica_lost(pfn, primary);
        true
    }

    fn mirrored(&self, pfn: usize) -> bool {
        self.0.store.has(pfn)
    }

    fn fill(&self, pfn: usize, to: Target<'_>) -> Result<(), Refusal> {
        self.0.store.fill(pfn, to)
    }

    fn rescues(&self, _pfn: usize) -> bool {
        self.0.host.can_rescue()
    }

    fn rescue(&self, pfn: usize, mut to: Target<'_>) -> Result<(), Refusal> {
        match self.0.host.rescue(pfn, &mut to) {
            Ok(()) => {
                self.0.healing.rescued.count();
                Ok(())
            }
            // It is the one that has broken, or the service cannot help.
            Err(_) => Err(Refusal::NoReplica),
        }
    }

    fn restored(&self, pfn: usize, to: Option<NonZero<usize>>) {
        self.0.healing.add(pfn);
        self.0.host.wake();
        // The replica may have been taken away since it was used: by a limit, by a sweep, by whoever
        // shrinks the region. It was a restore all the same.
        let owner = self.0.store.release(pfn);
        // Part of a huge page that was given back, say: there was nothing to restore.
        let Some(to) = to.map(NonZero::get) else {
            pr_info!("frame {pfn:#x} was lost, and its page not in use any more\n");
            return;
        };
        let charged = || mm::charged_to(to).and_then(|id| self.0.groups.tracked(id));
        let Some(group) = owner.or_else(charged) else {
            return;
        };
        self.count(&group, |events| &events.restored);
        trace::restore(group.cgroup.id(), pfn, to);
        with_path(&group, |path| {
            pr_info!(
                "restored frame {:#x} to {:#x}, of cgroup {}\n",
                pfn,
                to,
                path
            )
        });
    }

    fn refused(&self, pfn: usize, why: Refusal) {
        // The cgroup that the page is charged to, since what the store knows may be of one that has
        // had the frame before; but not every cgroup is charged for its own memory.
        let charged = mm::charged_to(pfn).and_then(|id| self.0.groups.tracked(id));
        let Some(group) = charged.or_else(|| self.0.store.group_of(pfn)) else {
            return;
        };
        self.count(&group, |events| &events.unrestorable);
        let why = reason(why).as_str();
        trace::refuse(group.cgroup.id(), pfn, why);
        with_path(&group, |path| {
            pr_info!(
                "frame {:#x} of cgroup {} not restored: {}\n",
                pfn,
                path,
                why
            )
        });
    }
}

fn with_path(group: &Group, print: impl FnOnce(&CStr)) {
    let mut buf = [0; PATH];
    print(group.cgroup.path(&mut buf).unwrap_or(c"(long path)"));
}

/// Takes care of errors that nobody has run into yet.
pub(crate) struct Latent;

impl Handler<DecodeChain> for Latent {
    fn notify(&self, mut error: LatentError<'_>) -> Result {
        if memory_mirror::recover(error.pfn()).is_ok() {
            error.handled();
        }
        // The chain goes on in any case: others want to log it.
        Ok(())
    }
}
