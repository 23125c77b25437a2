// SPDX-License-Identifier: GPL-2.0

//! The tree of groups, which follows the tree of cgroups, and its directories in sysfs.

use crate::{
    cgroup_dir::CgroupDir,
    group::Group,
    worker::Worker,
    Kmirror, //
};
use kernel::{
    prelude::*,
    sync::{new_mutex, Arc, Mutex}, //
};
use kernel_ext::{
    cgroup::{Cgroup, Lifetime, LifetimeEvent},
    kobject::{Dir, Parent},
    memory_mirror::Tracking,
    notifier::Handler, //
};
use kmirror_core::{Mode, Place};

/// The longest name of a cgroup, with the NUL: `NAME_MAX`.
const NAME: usize = 256;
/// The longest path.
const PATH: usize = 4096;

/// A group and its directory.
struct Node {
    group: Arc<Group>,
    dir: Dir<CgroupDir>,
}

/// All groups.
#[pin_data]
pub(crate) struct Groups {
    /// Parents before their children.
    #[pin]
    tree: Mutex<KVec<Node>>,
    /// Held by whoever changes modes; see the lock order.
    #[pin]
    control: Mutex<()>,
}

impl Groups {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            tree <- new_mutex!(KVec::new()),
            control <- new_mutex!(()),
        })
    }

    /// The groups that `wanted` picks, parents before their children.
    pub(crate) fn list(&self, wanted: impl Fn(&Group) -> bool) -> Result<KVec<Arc<Group>>> {
        let mut list = KVec::new();
        for node in self.tree.lock().iter() {
            if wanted(&node.group) {
                list.push(node.group.clone(), GFP_KERNEL)?;
            }
        }
        Ok(list)
    }

    /// Has the next epochs of those that `wanted` picks begin now.
    pub(crate) fn hurry(&self, wanted: impl Fn(&Group) -> bool) {
        for node in self.tree.lock().iter() {
            if wanted(&node.group) {
                node.group.governor().signal.hurry();
            }
        }
    }

    /// The group of the cgroup with this id, if it is tracked.
    pub(crate) fn tracked(&self, cgroup: u64) -> Option<Arc<Group>> {
        let tree = self.tree.lock();
        let node = tree.iter().find(|node| node.group.cgroup.id() == cgroup)?;
        node.group.is_tracked().then(|| node.group.clone())
    }

    /// Wakes those who poll the events of `group` and of all above it.
    pub(crate) fn events_changed(&self, group: &Group) {
        for node in self.tree.lock().iter() {
            if group.is_below(&node.group) {
                node.dir.notify(c"mirror.events");
            }
        }
    }

    /// Adds a cgroup, with its directory, if its parent is there and it is not.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], and nothing has changed.
    fn add(&self, kmirror: &Arc<Kmirror>, cgroup: &Cgroup, root: &Parent) -> Result {
        let mut tree = self.tree.lock();
        if tree.iter().any(|node| is(node, cgroup)) {
            return Ok(());
        }
        let (parent, dir) = match cgroup.parent() {
            None => (None, None),
            Some(parent) => match tree.iter().find(|node| is(node, parent)) {
                Some(node) => (Some(node.group.clone()), Some(node.dir.as_parent()?)),
                // It will come, and its children after it.
                None => return Ok(()),
            },
        };

        let mut buf = KVec::from_elem(0u8, PATH, GFP_KERNEL)?;
        let path = cgroup.path(&mut buf)?.to_bytes();
        let name = match path.rsplit(|&c| c == b'/').next() {
            Some(b"") | None => b"cgroup".as_slice(),
            Some(name) => name,
        };
        if name.starts_with(b"mirror.") {
            // It would take the place of a file. Its processes follow its parent's mode no more
            // than if there were no kmirror, and the log says so.
            pr_warn!("a cgroup whose name begins with \"mirror.\" is left out\n");
            return Ok(());
        }
        let mut terminated = KVec::with_capacity(NAME, GFP_KERNEL)?;
        terminated.extend_from_slice(name, GFP_KERNEL)?;
        terminated.push(0, GFP_KERNEL)?;
        let name = CStr::from_bytes_with_nul(&terminated).map_err(|_| EINVAL)?;

        tree.reserve(1, GFP_KERNEL)?;
        let group = kmirror
            .store
            .admit(|owner| Group::new(cgroup, parent, owner))?;
        let attributes = CgroupDir {
            kmirror: kmirror.clone(),
            group: group.clone(),
        };
        let dir = Dir::new(name, dir.as_ref().unwrap_or(root), attributes, GFP_KERNEL)
            .inspect_err(|_| {
                kmirror.store.evict(group.owner);
            })?;
        kmirror.store.set_place(group.owner, group.place());
        kmirror.store.set_tracked(group.owner, group.is_tracked());
        tree.push(Node { group, dir }, GFP_KERNEL)?;
        Ok(())
    }

    /// Removes a cgroup that is gone, with all that was kept for it.
    fn remove(&self, kmirror: &Kmirror, cgroup: &Cgroup) {
        let node = {
            let mut tree = self.tree.lock();
            let Some(at) = tree.iter().position(|node| is(node, cgroup)) else {
                return;
            };
            tree.remove(at)
        };
        if let Ok(node) = node {
            self.dispose(kmirror, node);
        }
    }

    /// Ends what goes on for a node that is in the tree no more.
    fn dispose(&self, kmirror: &Kmirror, node: Node) {
        let Node { group, dir } = node;
        // First the worker, which also wakes those who wait for it in `mirror.sync`: the removal of
        // the directory waits for them. Its pages have the flag until the end.
        let worker = group.worker.lock().take();
        let tracking = worker.as_ref().map(|_| Tracking::start());
        drop(worker);
        drop(dir);
        // One who was in `mirror.mode` may have started another. There is no file for that now.
        drop(group.worker.lock().take());
        kmirror.store.evict(group.owner);
        drop(tracking);
    }

    /// Removes everything, children before their parents.
    pub(crate) fn clear(&self, kmirror: &Kmirror) {
        loop {
            let Some(node) = self.tree.lock().pop() else {
                return;
            };
            self.dispose(kmirror, node);
        }
    }

    /// Sets the mode of a group, and makes it so.
    ///
    /// When this returns, no page of a group that is not tracked any more is mirrored.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] for the root to inherit; [`ENOMEM`] if there can be no thread. Nothing has
    /// changed then.
    pub(crate) fn set_mode(
        &self,
        kmirror: &Arc<Kmirror>,
        group: &Arc<Group>,
        mode: Mode,
    ) -> Result {
        if mode == Mode::Inherit && group.parent.is_none() {
            return Err(EINVAL);
        }
        let _control = self.control.lock();
        if group.settings().mode == mode {
            return Ok(());
        }
        let worker = match mode {
            Mode::Tracked => Some(Worker::start(kmirror, group)?),
            _ => None,
        };

        group.set(|settings| settings.mode = mode);
        for node in self.tree.lock().iter() {
            let below = &node.group;
            if !below.is_below(group) {
                continue;
            }
            let tracked = below.is_tracked();
            let before = kmirror.store.set_tracked(below.owner, tracked);
            if tracked && !before {
                below.events.reset();
            }
        }
        *group.progress.lock() = Default::default();
        let old = core::mem::replace(&mut *group.worker.lock(), worker);
        drop(old);
        // The thread may have looked before the mode was set, and found nothing to do.
        group.signal.hurry();
        Ok(())
    }

    /// Sets where the replicas of a group, and of all that inherit from it, are kept. Those that are
    /// elsewhere are dropped; the next epoch, which begins now, makes them anew.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] for the root to inherit; [`ENODEV`] for a place at the host while there is no
    /// service, or one without a pool. Nothing has changed then.
    pub(crate) fn set_place(
        &self,
        kmirror: &Kmirror,
        group: &Arc<Group>,
        place: Option<Place>,
    ) -> Result {
        if place.is_none() && group.parent.is_none() {
            return Err(EINVAL);
        }
        let _control = self.control.lock();
        let at_host = place.is_some_and(Place::at_host);
        if at_host && (kmirror.host.session().is_none() || kmirror.store.host_totals().blocks == 0)
        {
            return Err(ENODEV);
        }
        group.set(|settings| settings.place = place);
        for node in self.tree.lock().iter() {
            let below = &node.group;
            if below.is_below(group) {
                kmirror.store.set_place(below.owner, below.place());
            }
        }
        self.hurry(|below| below.is_below(group));
        Ok(())
    }
}

fn is(node: &Node, cgroup: &Cgroup) -> bool {
    core::ptr::eq(&*node.group.cgroup, cgroup)
}

/// Keeps the tree in step with that of the cgroups.
pub(crate) struct Keeper {
    kmirror: Arc<Kmirror>,
    root: Parent,
}

impl Keeper {
    /// The directories will be made in `root`.
    pub(crate) fn new(kmirror: Arc<Kmirror>, root: Parent) -> Self {
        Self { kmirror, root }
    }
}

impl Handler<Lifetime> for Keeper {
    fn notify(&self, event: LifetimeEvent<'_>) -> Result {
        let groups = &self.kmirror.groups;
        match event {
            LifetimeEvent::Online(cgroup) => {
                // A cgroup must not fail to be made because it cannot be mirrored.
                if groups.add(&self.kmirror, cgroup, &self.root).is_err() {
                    pr_warn!("no memory to mirror cgroup {}\n", cgroup.id());
                }
            }
            LifetimeEvent::Offline(cgroup) => groups.remove(&self.kmirror, cgroup),
        }
        Ok(())
    }
}

/// Adds all cgroups that there are.
pub(crate) fn add_all(kmirror: &Arc<Kmirror>, root: &Parent) -> Result {
    Cgroup::root().for_each_descendant(|cgroup| {
        kmirror.groups.add(kmirror, cgroup, root)?;
        // It goes offline before the chain tells so: either that finds it now, or this does.
        if !cgroup.is_online() {
            kmirror.groups.remove(kmirror, cgroup);
        }
        Ok(())
    })
}
