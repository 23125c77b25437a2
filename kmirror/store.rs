// SPDX-License-Identifier: GPL-2.0

//! Replicas: which page has one, in which store, and whose it is.
//!
//! Everything is behind one lock, which is also held while a page is copied, to the mirror region
//! and to the host. So a slot never changes hands under a copy, and whoever takes a slot, a block or
//! an owner's replicas away finds nothing half-way. The price is that two workers copy one after the
//! other, and that everybody waits while the host's service is asked: some 10 microseconds for one
//! that is well, and once the time that [`Host`] gives it for one that is not.

use crate::{
    depot::Depot,
    fill_depot::FillDepot,
    frames::{Frames, Records},
    group::Group,
    guest_depot::GuestDepot,
    host::Host,
    host_depot::HostDepot,
    tenants::{Owners, Tenant}, //
};
use core::ops::Range;
use kernel::{
    fmt,
    prelude::*,
    sync::{new_mutex, Arc, Mutex}, //
};
use kernel_ext::memory_mirror;
use kmirror_core::{slice, Block, Cursor, Owner, Place, Record, Swept, Totals, Verdict};

/// Replicas to look at before the lock is given to others.
const BUDGET: u32 = 4096;

/// The parts of the store that replicas are in.
#[derive(Clone, Copy)]
enum ShelfName {
    Guest,
    Host,
    /// Takes no memory that anybody wants back.
    Fill,
}

impl ShelfName {
    const ALL: [Self; 3] = [Self::Guest, Self::Host, Self::Fill];
    const WITH_MEMORY: [Self; 2] = [Self::Guest, Self::Host];
}

/// Where the next sweep of one who sweeps in slices goes on.
#[derive(Default)]
pub(crate) struct SweepPlace([Cursor; ShelfName::ALL.len()]);

/// What the lock protects.
pub(crate) struct Inner {
    pub(crate) guest: GuestDepot,
    pub(crate) host: HostDepot,
    pub(crate) fill: FillDepot,
    pub(crate) owners: Owners,
}

impl Inner {
    /// Takes the block of the region with the fewest replicas out of use.
    pub(crate) fn detach(&mut self) -> Option<Block<Frames>> {
        let number = self.guest.emptiest()?;
        self.guest.detach(&mut self.owners, number)
    }

    /// Takes a block of the region that is in these frames out of use.
    pub(crate) fn detach_in(&mut self, frames: &Range<usize>) -> Option<Block<Frames>> {
        let number = self.guest.block_in(frames)?;
        self.guest.detach(&mut self.owners, number)
    }

    /// Whose the replica of frame `pfn` is, in any store.
    fn owner_of(&mut self, pfn: usize) -> Option<Owner> {
        let Self {
            guest,
            host,
            fill,
            owners,
        } = self;
        let guest = guest.shelf().replicas(owners).lookup(pfn as u64);
        guest
            .or_else(|| host.shelf().replicas(owners).lookup(pfn as u64))
            .map(|replica| replica.record.owner())
            .or_else(|| fill.owner_of(pfn))
    }

    pub(crate) fn group_of(&mut self, pfn: usize) -> Option<Arc<Group>> {
        let owner = self.owner_of(pfn)?;
        let tenant = self.owners.tenant(owner)?;
        Some(tenant.group.clone())
    }

    /// Slots in use on that shelf.
    fn used(&mut self, shelf: ShelfName) -> u64 {
        match shelf {
            ShelfName::Guest => self.guest.shelf().totals().used,
            ShelfName::Host => self.host.shelf().totals().used,
            ShelfName::Fill => self.fill.used(),
        }
    }

    /// Lets `judge` decide over up to `budget` replicas of that shelf, from `cursor` on.
    fn sweep(
        &mut self,
        shelf: ShelfName,
        cursor: &mut Cursor,
        budget: u32,
        mut judge: impl FnMut(usize, Owner) -> Verdict,
    ) -> Swept {
        let owners = &mut self.owners;
        let judge = |pfn: u64, record: Record| judge(pfn as usize, record.owner());
        match shelf {
            ShelfName::Guest => self.guest.shelf().sweep(owners, cursor, budget, judge),
            ShelfName::Host => self.host.shelf().sweep(owners, cursor, budget, judge),
            ShelfName::Fill => self.fill.sweep(cursor, budget, judge),
        }
    }

    /// Drops all replicas of frame `pfn`.
    pub(crate) fn release(&mut self, pfn: usize) {
        self.guest.shelf().release(&mut self.owners, pfn);
        self.host.shelf().release(&mut self.owners, pfn);
        self.fill.release(pfn);
    }

    /// Drops all replicas of an owner. Their pages lose the flag.
    pub(crate) fn release_owner(&mut self, owner: Owner) {
        self.guest.shelf().release_owner(&mut self.owners, owner);
        self.host.shelf().release_owner(&mut self.owners, owner);
        self.fill.release_owner(owner);
    }
}

/// All replicas.
#[pin_data]
pub(crate) struct Store {
    #[pin]
    pub(crate) inner: Mutex<Inner>,
    /// Held by whoever changes the size, which takes long and is not done under the lock.
    #[pin]
    pub(crate) resize: Mutex<()>,
    pub(crate) node: Option<u32>,
}

impl Store {
    /// A region of no size, whose memory will come from `node`, and a pool of no size.
    pub(crate) fn new(node: Option<u32>, host: Arc<Host>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            inner <- new_mutex!(Inner {
                guest: GuestDepot::new()?,
                host: HostDepot::new(host)?,
                fill: FillDepot::new()?,
                owners: Owners::default(),
            }),
            resize <- new_mutex!(()),
            node,
        }? Error)
    }

    /// The node that was asked for.
    pub(crate) fn node(&self) -> Option<u32> {
        self.node
    }

    /// How much of the region there is, used and lost.
    pub(crate) fn totals(&self) -> Totals {
        self.inner.lock().guest.shelf().totals()
    }

    /// The same of the host's pool.
    pub(crate) fn host_totals(&self) -> Totals {
        self.inner.lock().host.shelf().totals()
    }

    /// Gives a number to a new owner of replicas, made into a group by `make`.
    ///
    /// # Errors
    ///
    /// [`ENOSPC`] if there are too many, [`ENOMEM`].
    pub(crate) fn admit(
        &self,
        make: impl FnOnce(Owner) -> Result<Arc<Group>>,
    ) -> Result<Arc<Group>> {
        let mut inner = self.inner.lock();
        let tenants = &mut inner.owners.0;
        let free = tenants.iter().position(Option::is_none);
        let number = free.unwrap_or(tenants.len());
        let group = make(Owner(u16::try_from(number).map_err(|_| ENOSPC)?))?;
        if free.is_none() {
            tenants.push(None, GFP_KERNEL)?;
        }
        tenants[number] = Some(Tenant {
            group: group.clone(),
            slots: 0,
            tracked: false,
            place: Place::default(),
            incomplete: false,
        });
        Ok(group)
    }

    /// Drops an owner with all its replicas.
    pub(crate) fn evict(&self, owner: Owner) {
        self.set_tracked(owner, false);
        let mut inner = self.inner.lock();
        if let Some(tenant) = inner.owners.0.get_mut(usize::from(owner.0)) {
            *tenant = None;
        }
    }

    /// Allows the owner to have replicas, or drops them all: it has none when this returns, and no
    /// page keeps the flag for them. Returns whether it was allowed before.
    pub(crate) fn set_tracked(&self, owner: Owner, tracked: bool) -> bool {
        let mut inner = self.inner.lock();
        let Some(tenant) = inner.owners.tenant_mut(owner) else {
            return false;
        };
        let before = core::mem::replace(&mut tenant.tracked, tracked);
        if tracked && !before {
            // Its pages may have waited for that, in the care of another who has looked at them.
            memory_mirror::look_at_all();
        }
        if !tracked {
            inner.release_owner(owner);
        }
        before
    }

    /// Has the owner's replicas kept elsewhere. Those that it has are dropped, if that is another
    /// place: the next epoch makes them anew. Those in the region stay if the host is to have others
    /// beside them.
    pub(crate) fn set_place(&self, owner: Owner, place: Place) {
        let mut inner = self.inner.lock();
        let Some(tenant) = inner.owners.tenant_mut(owner) else {
            return;
        };
        match (core::mem::replace(&mut tenant.place, place), place) {
            (before, now) if before == now => {}
            (Place::Guest, Place::Both) => tenant.incomplete = true,
            _ => inner.release_owner(owner),
        }
    }

    /// Drops replicas of `root` and all below it until it keeps to its limit.
    pub(crate) fn reduce(&self, root: &Group, owners: &[Owner]) {
        let excess = || {
            let limit = root.settings().limit.slots();
            root.used_slots().saturating_sub(limit)
        };
        self.each(
            |pfn, owner, excess: &mut u64| {
                if *excess == 0 || !owners.contains(&owner) {
                    return Verdict::Keep;
                }
                *excess -= 1;
                memory_mirror::clear_mirrored(pfn);
                Verdict::Release
            },
            excess,
            |&excess| excess == 0,
        );
    }

    /// Lets `judge` decide over all replicas that take memory, a few at a time. What it counts with begins as
    /// `state` at each turn, and it is over as soon as that is `enough`.
    fn each<S>(
        &self,
        mut judge: impl FnMut(usize, Owner, &mut S) -> Verdict,
        state: impl Fn() -> S,
        enough: impl Fn(&S) -> bool,
    ) {
        for shelf in ShelfName::WITH_MEMORY {
            let mut cursor = Cursor::default();
            loop {
                let inner = &mut *self.inner.lock();
                let mut counted = state();
                let judge = |pfn, owner| judge(pfn, owner, &mut counted);
                let swept = inner.sweep(shelf, &mut cursor, BUDGET, judge);
                if enough(&counted) {
                    return;
                }
                if swept.done {
                    break;
                }
            }
        }
    }

    /// Drops replicas of `owners` that no page needs any more: those without the flag whose frame is
    /// free, or which two sweeps in a row have not found in use, or, when `hard`, all without the
    /// flag. Looks at as many as [`slice()`] says, or at all if `hard` or `whole`; goes on where
    /// `at` says.
    pub(crate) fn sweep(&self, owners: &[Owner], hard: bool, whole: bool, at: &mut SweepPlace) {
        for (shelf, cursor) in ShelfName::ALL.into_iter().zip(&mut at.0) {
            if hard || whole {
                *cursor = Cursor::default();
            }
            loop {
                let inner = &mut *self.inner.lock();
                let budget = match hard || whole {
                    true => BUDGET,
                    false => slice(inner.used(shelf)),
                };
                let swept = inner.sweep(shelf, cursor, budget, |pfn, owner| {
                    if !owners.contains(&owner) {
                        Verdict::Keep
                    } else if memory_mirror::is_mirrored(pfn) {
                        Verdict::Seen
                    } else if hard || memory_mirror::is_free(pfn) {
                        // Who gets the frame now has to claim a slot, under the lock held here.
                        Verdict::Release
                    } else {
                        Verdict::Unseen
                    }
                });
                if swept.done || !(hard || whole || swept.pays()) {
                    break;
                }
            }
        }
    }

    /// The host's service is gone, and with it what it held. Pages that have a replica in the
    /// region as well stay covered by that.
    pub(crate) fn host_gone(&self) {
        let gone = {
            let inner = &mut *self.inner.lock();
            let guest = &mut inner.guest;
            inner.host.clear(&mut inner.owners, |owners, pfn| {
                guest.shelf().hash(owners, pfn).is_some()
            })
        };
        drop(gone);
    }

    /// There is a service with a pool for so many blocks, which are all free. Pages that should have
    /// two replicas have one in the region at most, and get the other in the next epoch.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]: it is not used then.
    pub(crate) fn host_ready(&self, pool: KVec<Records>) -> Result {
        let mut inner = self.inner.lock();
        inner.host.fill_up(pool)?;
        for tenant in inner.owners.0.iter_mut().flatten() {
            tenant.incomplete = tenant.place == Place::Both;
        }
        Ok(())
    }

    /// Has the host's service forget what nobody needs any more.
    pub(crate) fn trim_host(&self) {
        while self.inner.lock().host.trim() {}
    }

    /// Writes a line for each replica: its page's frame, its own, and the id of its cgroup.
    pub(crate) fn list(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner.lock();
        let id = |owner: Owner| {
            let tenant = inner.owners.tenant(owner);
            tenant.map_or(0, |tenant| tenant.group.cgroup.id())
        };
        for block in inner.guest.blocks() {
            let first = block.backing().pages.first_pfn();
            for index in block.iter_used() {
                if let Some(record) = block.record(index) {
                    let at = first + usize::from(index.get());
                    writeln!(f, "{} {} {}", record.pfn(), at, id(record.owner()))?;
                }
            }
        }
        for (number, block) in inner.host.blocks() {
            for index in block.iter_used() {
                if let Some(record) = block.record(index) {
                    let (pfn, id) = (record.pfn(), id(record.owner()));
                    writeln!(f, "{pfn} host:{number}.{} {id}", index.get())?;
                }
            }
        }
        for block in inner.fill.blocks() {
            for index in block.iter_used() {
                if let (Some(record), Some(word)) = (block.record(index), block.hash(index)) {
                    writeln!(f, "{} fill:{word:#x} {}", record.pfn(), id(record.owner()))?;
                }
            }
        }
        Ok(())
    }
}
