// SPDX-License-Identifier: GPL-2.0

//! An epoch: every page of every process of a protected cgroup is looked at once.

use crate::{
    group::{self, Group, Progress},
    store::SweepPlace,
    sync,
    Kmirror, //
};
use kernel::{
    mm::MmWithUser,
    prelude::*,
    sync::Arc,
    time::{Instant, Monotonic}, //
};
use kernel_ext::{
    memory_mirror::{self, Counts, Walk},
    mm,
    trace, //
};
use kmirror_core::{Decision, Refusal, Survey, Work};

/// Pages or huge pages that are cleaned, and then copied, between two flushes of the TLB.
const BATCH: u32 = 256;

/// One epoch out of so many looks at all files, as the walk of page tables does at each of those.
const ALL_FILES: u64 = 64;

/// What an epoch is about.
pub(crate) struct Epoch<'a> {
    pub(crate) kmirror: &'a Kmirror,
    /// The group whose mode is in force for all those that are looked at.
    pub(crate) root: &'a Group,
    pub(crate) number: u64,
    /// Somebody waits for everything to be copied.
    pub(crate) forced: bool,
    /// What becomes of a page that is dirty and has no replica.
    pub(crate) first_dirty: Decision,
    /// Look also at what nobody has used since the last epoch.
    pub(crate) all: bool,
    /// Where the sweep goes on.
    pub(crate) sweep: &'a mut SweepPlace,
    /// Fresh pages wait for the LRU in batches, which hold references that look like those of a
    /// writer: empty these batches first.
    pub(crate) drain: bool,
}

/// Runs an epoch.
///
/// # Errors
///
/// [`EINTR`] if the worker is told to end, [`ENOMEM`].
///
/// Context: may sleep.
pub(crate) fn run(epoch: &mut Epoch<'_>) -> Result<Progress> {
    let mut done = Progress::default();
    if epoch.drain {
        mm::lru_add_drain_all();
    }

    let groups = epoch
        .kmirror
        .groups
        .list(|group| core::ptr::eq(group.governor(), epoch.root))?;
    let mut walk = Walk::clean(BATCH)?;
    walk.scope(epoch.number, epoch.all);
    // By address only: all are held by somebody, or their address may be seen again, and then a
    // new address space waits for the next epoch.
    let mut seen = KVec::new();
    let mut decisions = [Decision::Copy; BATCH as usize];
    for group in groups.iter() {
        group.cgroup.for_each_mm(|mm| {
            if epoch.root.signal.stopping() {
                return Err(EINTR);
            }
            if first_time(&mut seen, &mm)? {
                address_space(epoch, group, &mm, &mut walk, &mut decisions, &mut done)?;
            }
            Ok(())
        })?;
    }

    page_cache(epoch, &groups, &mut done)?;

    let start = Instant::<Monotonic>::now();
    for group in groups.iter() {
        let stop = || epoch.root.signal.stopping();
        epoch.kmirror.store.complete(group, stop)?;
    }
    done.total.copy_ns += start.elapsed().as_nanos() as u64;

    let owners = group::owners(&groups)?;
    let short = done.refused.refused(Refusal::NoSpace) + done.refused.refused(Refusal::OverLimit);
    let (hard, whole) = (short > 0, epoch.forced);
    epoch.kmirror.store.sweep(&owners, hard, whole, epoch.sweep);

    done.total.epochs = 1;
    done.total.scanned = walk.counts().present;
    trace::epoch(
        epoch.root.cgroup.id(),
        epoch.number,
        done.total.copied,
        done.total.scan_ns,
        done.total.copy_ns,
    );
    Ok(done)
}

/// Looks at all pages of one address space.
fn address_space(
    epoch: &Epoch<'_>,
    group: &Group,
    mm: &MmWithUser,
    walk: &mut Walk,
    decisions: &mut [Decision; BATCH as usize],
    done: &mut Progress,
) -> Result {
    walk.rewind();
    loop {
        let start = Instant::<Monotonic>::now();
        let more = walk.step(mm)?;
        done.total.scan_ns += start.elapsed().as_nanos() as u64;

        let start = Instant::<Monotonic>::now();
        let store = &epoch.kmirror.store;
        sync::decide(
            store,
            walk.handed(),
            epoch.forced,
            epoch.first_dirty,
            decisions,
        );
        for (handed, &decision) in walk.handed().zip(&*decisions) {
            sync::pages(store, group, &handed, decision, done);
        }
        done.total.copy_ns += start.elapsed().as_nanos() as u64;

        if !more {
            return Ok(());
        }
        if epoch.root.signal.stopping() {
            return Err(EINTR);
        }
    }
}

/// Looks at the pages that are charged to the groups and that page tables need not lead to.
fn page_cache(epoch: &Epoch<'_>, groups: &[Arc<Group>], done: &mut Progress) -> Result {
    let start = Instant::<Monotonic>::now();
    let mut copying = 0;
    let all = epoch.all || epoch.number % ALL_FILES == 0;
    let tracked = epoch.kmirror.groups.list(|group| group.is_tracked())?;
    memory_mirror::walk_cache(&ids(groups)?, &ids(&tracked)?, all, &mut |handed| {
        let start = Instant::<Monotonic>::now();
        // The one it is charged to now; if it has been moved meanwhile, the next epoch sees to it.
        let id = mm::charged_to(handed.pfn());
        if let Some(group) = groups.iter().find(|group| Some(group.cgroup.id()) == id) {
            let store = &epoch.kmirror.store;
            let mut decision = [Decision::Copy];
            sync::decide(
                store,
                core::iter::once(&handed),
                epoch.forced,
                epoch.first_dirty,
                &mut decision,
            );
            sync::pages(store, group, &handed, decision[0], done);
        }
        copying += start.elapsed().as_nanos() as u64;
        !epoch.root.signal.stopping()
    })?;
    done.total.copy_ns += copying;
    done.total.scan_ns += (start.elapsed().as_nanos() as u64).saturating_sub(copying);
    if epoch.root.signal.stopping() {
        return Err(EINTR);
    }
    Ok(())
}

/// The ids of the groups' cgroups, in order.
fn ids(groups: &[Arc<Group>]) -> Result<KVec<u64>> {
    let mut ids = KVec::with_capacity(groups.len(), GFP_KERNEL)?;
    for group in groups {
        let id = group.cgroup.id();
        let at = ids.partition_point(|&other| other < id);
        ids.insert_within_capacity(at, id).map_err(|_| ENOMEM)?;
    }
    Ok(ids)
}

/// Counts the pages of all protected processes in `root` and below, as they are now.
///
/// # Errors
///
/// [`EINTR`] on a fatal signal, [`ENOMEM`].
///
/// Context: may sleep, and take long.
pub(crate) fn survey(kmirror: &Kmirror, root: &Group) -> Result<Survey> {
    let groups = kmirror
        .groups
        .list(|group| group.is_below(root) && group.is_tracked())?;
    let mut walk = Walk::survey();
    let mut seen = KVec::new();
    for group in groups.iter() {
        group.cgroup.for_each_mm(|mm| {
            if first_time(&mut seen, &mm)? {
                walk.rewind();
                walk.step(&mm)?;
            }
            Ok(())
        })?;
    }

    let Counts {
        present: _,
        current,
        stale,
        lazyfree,
        huge,
        shadow_stack,
        notifier,
    } = walk.counts();
    let cache = memory_mirror::survey_cache(&ids(&groups)?);
    let mut survey = Survey::default();
    survey.count_current(current + cache.current);
    survey.count_refused(Refusal::Stale, stale + cache.stale);
    survey.count_refused(Refusal::Lazyfree, lazyfree);
    survey.count_refused(Refusal::Huge, huge);
    survey.count_refused(Refusal::ShadowStack, shadow_stack);
    survey.count_refused(Refusal::Notifier, notifier);
    Ok(survey)
}

/// Whether this address space has not been seen yet. Threads share one.
fn first_time(seen: &mut KVec<usize>, mm: &MmWithUser) -> Result<bool> {
    let address = core::ptr::from_ref(mm).addr();
    match seen.binary_search(&address) {
        Ok(_) => Ok(false),
        Err(at) => {
            seen.reserve(1, GFP_KERNEL)?;
            seen.insert_within_capacity(at, address)
                .map_err(|_| ENOMEM)?;
            Ok(true)
        }
    }
}

/// What the epochs of `root` and all below it have done.
pub(crate) fn progress(kmirror: &Kmirror, root: &Group) -> Result<Progress> {
    let mut sum = Progress::default();
    for group in kmirror.groups.list(|group| group.is_below(root))? {
        let progress = group.progress.lock();
        sum.total.add(&progress.total);
        sum.refused.add(&progress.refused);
    }
    Ok(sum)
}

/// What all epochs have done.
pub(crate) fn total(kmirror: &Kmirror) -> Result<Work> {
    let mut sum = Work::default();
    for group in kmirror.groups.list(|_| true)? {
        sum.add(&group.progress.lock().total);
    }
    Ok(sum)
}
