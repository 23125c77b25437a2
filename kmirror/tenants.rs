// SPDX-License-Identifier: GPL-2.0

//! Those who have replicas, and how many.

use crate::group::Group;
use kernel::{prelude::*, sync::Arc};
use kmirror_core::{Owner, Place, Usage};

/// Those who have replicas.
#[derive(Default)]
pub(crate) struct Owners(pub(crate) KVec<Option<Tenant>>);

/// One who has replicas.
pub(crate) struct Tenant {
    pub(crate) group: Arc<Group>,
    pub(crate) slots: u64,
    /// Whether it may have any: checked under the lock under which they are made and dropped, so
    /// that an epoch which is still under way makes none after they were dropped.
    pub(crate) tracked: bool,
    /// Where they are kept; also under that lock.
    pub(crate) place: Place,
    /// Whether pages of it may have a replica in the region alone that should have two.
    pub(crate) incomplete: bool,
}

impl Owners {
    pub(crate) fn tenant(&self, owner: Owner) -> Option<&Tenant> {
        self.0.get(usize::from(owner.0))?.as_ref()
    }

    pub(crate) fn tenant_mut(&mut self, owner: Owner) -> Option<&mut Tenant> {
        self.0.get_mut(usize::from(owner.0))?.as_mut()
    }

    /// How many slots the group may use itself, by all limits, as things are now.
    pub(crate) fn limit(&self, group: &Group) -> u64 {
        self.used(group.owner).saturating_add(group.headroom())
    }

    fn account(&mut self, owner: Owner, slots: i64) {
        if let Some(tenant) = self.tenant_mut(owner) {
            tenant.slots = tenant.slots.saturating_add_signed(slots);
            tenant.group.charge(slots);
        }
    }
}

impl Usage for Owners {
    fn used(&self, owner: Owner) -> u64 {
        self.tenant(owner).map_or(u64::MAX, |tenant| tenant.slots)
    }

    fn charge(&mut self, owner: Owner) {
        self.account(owner, 1);
    }

    fn uncharge(&mut self, owner: Owner) {
        self.account(owner, -1);
    }
}
