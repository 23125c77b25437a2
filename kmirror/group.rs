// SPDX-License-Identifier: GPL-2.0

//! A cgroup as kmirror knows it: its settings, and what has been counted for it.

use crate::worker::{Signal, Worker};
use kernel::{
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{Atomic, Relaxed},
        new_mutex,
        Arc,
        Mutex, //
    }, //
};
use kernel_ext::cgroup::Cgroup;
use kmirror_core::{Interval, Limit, Mode, Owner, Place, Survey, Work};

/// What a user has set.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) mode: Mode,
    /// [`None`] to follow the parent.
    pub(crate) interval: Option<Interval>,
    pub(crate) limit: Limit,
    /// [`None`] to follow the parent.
    pub(crate) place: Option<Place>,
}

/// What has happened since protection was switched on, here and below, as in `memory.events`.
#[derive(Default)]
pub(crate) struct Events {
    pub(crate) restored: Counter,
    pub(crate) unrestorable: Counter,
    pub(crate) replica_lost: Counter,
}

/// A number of events.
pub(crate) struct Counter(Atomic<u64>);

impl Default for Counter {
    fn default() -> Self {
        Self(Atomic::new(0))
    }
}

impl Counter {
    pub(crate) fn count(&self) {
        self.0.add(1u64, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn reset(&self) {
        self.0.store(0, Relaxed);
    }
}

impl Events {
    /// Names and values, as they are shown.
    pub(crate) fn entries(&self) -> [(&'static str, u64); 3] {
        [
            ("restored", self.restored.get()),
            ("unrestorable", self.unrestorable.get()),
            ("replica_lost", self.replica_lost.get()),
        ]
    }

    pub(crate) fn reset(&self) {
        self.restored.reset();
        self.unrestorable.reset();
        self.replica_lost.reset();
    }
}

/// What the epochs have done.
#[derive(Default)]
pub(crate) struct Progress {
    /// Since protection was switched on.
    pub(crate) total: Work,
    /// Pages that the last epoch could not copy, by reason.
    pub(crate) refused: Survey,
}

/// A cgroup of the default hierarchy.
#[pin_data]
pub(crate) struct Group {
    pub(crate) cgroup: ARef<Cgroup>,
    pub(crate) parent: Option<Arc<Group>>,
    /// Under this number its replicas are found in the store.
    pub(crate) owner: Owner,
    #[pin]
    settings: Mutex<Settings>,
    /// The thread that looks after it and all that inherit from it; under `control`.
    #[pin]
    pub(crate) worker: Mutex<Option<Worker>>,
    /// What the thread and those who wait for it share.
    pub(crate) signal: Arc<Signal>,
    /// Slots used by it and all below it.
    used: Atomic<i64>,
    #[pin]
    pub(crate) progress: Mutex<Progress>,
    pub(crate) events: Events,
}

impl Group {
    /// A group that follows its parent; the root is off.
    pub(crate) fn new(
        cgroup: &Cgroup,
        parent: Option<Arc<Group>>,
        owner: Owner,
    ) -> Result<Arc<Self>> {
        let root = parent.is_none();
        let settings = Settings {
            mode: if root { Mode::Off } else { Mode::Inherit },
            interval: root.then(Interval::default),
            limit: Limit::default(),
            place: root.then(Place::default),
        };
        let signal = Signal::new()?;
        Arc::pin_init(
            pin_init!(Self {
                cgroup: cgroup.into(),
                parent,
                owner,
                settings <- new_mutex!(settings),
                worker <- new_mutex!(None),
                signal,
                used: Atomic::new(0),
                progress <- new_mutex!(Progress::default()),
                events: Events::default(),
            }),
            GFP_KERNEL,
        )
    }

    /// A copy of the settings.
    pub(crate) fn settings(&self) -> Settings {
        *self.settings.lock()
    }

    /// Changes the settings.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings.lock());
    }

    /// This group, its parent, and so on up to the root.
    pub(crate) fn lineage(&self) -> impl Iterator<Item = &Group> {
        core::iter::successors(Some(self), |group| group.parent.as_deref())
    }

    /// The group whose mode is in force here: the nearest that has one of its own.
    pub(crate) fn governor(&self) -> &Group {
        self.lineage()
            .find(|group| group.settings().mode != Mode::Inherit)
            .unwrap_or(self)
    }

    /// Whether the memory of the processes in it is mirrored.
    pub(crate) fn is_tracked(&self) -> bool {
        self.governor().settings().mode == Mode::Tracked
    }

    /// Whether it is `other` or below it.
    pub(crate) fn is_below(&self, other: &Group) -> bool {
        self.lineage().any(|group| core::ptr::eq(group, other))
    }

    /// The length of an epoch that is in force here.
    pub(crate) fn interval(&self) -> Interval {
        self.lineage()
            .find_map(|group| group.settings().interval)
            .unwrap_or_default()
    }

    /// Where its replicas are kept.
    pub(crate) fn place(&self) -> Place {
        self.lineage()
            .find_map(|group| group.settings().place)
            .unwrap_or_default()
    }

    /// Slots used by it and all below it.
    pub(crate) fn used_slots(&self) -> u64 {
        self.used.load(Relaxed).max(0) as u64
    }

    /// How many slots more it may use, by its own limit and those above it.
    pub(crate) fn headroom(&self) -> u64 {
        self.lineage()
            .map(|group| {
                let limit = group.settings().limit.slots();
                limit.saturating_sub(group.used_slots())
            })
            .min()
            .unwrap_or(0)
    }

    /// Accounts for so many slots more (or fewer), here and all the way up. Under the store's lock.
    pub(crate) fn charge(&self, slots: i64) {
        for group in self.lineage() {
            group.used.add(slots, Relaxed);
        }
    }
}

/// The owners' numbers of some groups.
///
/// # Errors
///
/// [`ENOMEM`].
pub(crate) fn owners(groups: &[Arc<Group>]) -> Result<KVec<Owner>> {
    let mut owners = KVec::with_capacity(groups.len(), GFP_KERNEL)?;
    for group in groups {
        owners.push(group.owner, GFP_KERNEL)?;
    }
    Ok(owners)
}
