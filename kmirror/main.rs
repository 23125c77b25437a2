// SPDX-License-Identifier: GPL-2.0

//! kmirror: a second copy of the memory of chosen cgroups.
//!
//! # Overview
//!
//! Two flows, which meet only in the store of replicas:
//!
//! ```text
//! store -> PTE dirty bit -> track -> sync -> replica         (all the time, in the background)
//! error -> recovery -> lookup -> prove -> fill -> remap      (hardly ever, and then at once)
//! ```
//!
//! - [`group`]: a cgroup, its settings and counters; [`groups`]: the tree of them
//! - [`worker`]: the thread of a protected cgroup; [`track`]: one epoch of it, over all processes
//! - [`sync`]: one page from primary to replica
//! - [`store`]: which replica is where, and whose; [`replica`]: those of one page; [`second_replica`]: the host's, made from the
//!   region's; [`depot`]: a place for their bytes, which is the mirror region ([`guest_depot`], [`resize`]) or the host's pool
//!   ([`host_depot`]); [`fill_depot`]: pages that take none
//! - [`host`]: the host's service; [`host_queue`]: one question to it; [`host_link`]: the thread that
//!   keeps it up; [`host_place`]: where the region is on the host
//! - [`heal`]: a broken frame comes back into use
//! - [`recovery`]: what is done when memory is lost; [`retreat`]: when others need the region's more
//! - [`cgroup_dir`], [`region_dir`], [`root_dir`]: sysfs, below `/sys/kernel/kmirror`
//!
//! The rules by which a replica is current are the kernel's: see mm/memory_mirror.c. The module
//! decides what is copied when, and where to.
//!
//! # Lock order
//!
//! ```text
//! cgroup_mutex       the kernel's, around the lifetime notifier
//!   control          who may change modes
//!     worker         of one group; held while its thread is waited for; the kernel's lock of CPU
//!                    hotplug within, where pages begin or cease to be tracked
//!       signal       of one group: what its thread is to do
//!     tree           the list of groups
//!       folio lock   of the page that is copied or restored
//!         store      replicas; held while one page is copied, also to the host
//!           settings of one group
//!           host     what is known about the host's service
//!           buffers  of the queue to the service; its spinlock within
//!           healing  frames that wait to be healed
//!       progress     of one group
//! ```
//!
//! The device's lock, which the kernel holds when the service's device comes and goes, is taken
//! before `host`. `resize`, of one who changes the size of the region, comes before `store`, and
//! after the kernel's lock of memory that goes offline. When memory has run out, `store` is only tried.
//!
//! `mf_mutex` and `mirror_sem`, which the kernel holds when it asks for a replica, come before
//! `tree`; `mirror_cache_lock` and `s_umount`, which it holds when it hands over pages of the page
//! cache, before `folio lock`. A thread never takes `control` or `worker`, so it can be waited for
//! under them. None of these locks is held while a directory of sysfs is removed, which waits for
//! those who are in its files; these may take all of them but `cgroup_mutex`.

#![forbid(unsafe_code)]

mod cgroup_dir;
mod depot;
mod fill_depot;
mod frames;
mod group;
mod groups;
mod guest_depot;
mod heal;
mod host;
mod host_depot;
mod host_link;
mod host_place;
mod host_queue;
mod recovery;
mod region_dir;
mod replica;
mod resize;
mod retreat;
mod root_dir;
mod second_replica;
mod shelf;
mod store;
mod sync;
mod tenants;
mod track;
mod worker;

use crate::{
    group::Events,
    groups::Groups,
    heal::Healing,
    host::{Host, HostDriver},
    host_link::HostLink,
    recovery::{Latent, Recovery},
    region_dir::RegionDir,
    retreat::{LastResort, Offline},
    root_dir::RootDir,
    store::Store, //
};
use kernel::{
    debugfs,
    prelude::*,
    sync::Arc, //
};
use kernel_ext::{
    cgroup::Lifetime,
    kobject::{Dir, Parent},
    mce::DecodeChain,
    memory_hotplug::MemoryChain,
    memory_mirror,
    notifier,
    oom::OomChain,
    virtio, //
};
use kmirror_core::{ParseError, RegionSpec};

module! {
    type: Module,
    name: "kmirror",
    authors: ["The kmirror developers"],
    description: "Software memory mirroring for cgroups",
    license: "GPL",
    imports_ns: ["MEMORY_MIRROR"],
    params: {
        region: string {
            default: ::kernel::module_param::StringParam::EMPTY,
            description: "Memory for replicas: <bytes>[@node], with K, M, G or T",
        },
    },
}

/// What the parts of the module share.
#[pin_data]
pub(crate) struct Kmirror {
    #[pin]
    pub(crate) store: Store,
    pub(crate) host: Arc<Host>,
    #[pin]
    pub(crate) healing: Healing,
    #[pin]
    pub(crate) groups: Groups,
    /// Of the whole system, since the module was loaded.
    pub(crate) events: Events,
}

/// The loaded module. The order of the fields is that in which they go: first nobody asks for
/// replicas any more, then the groups stop making them, then the service at the host is let go, then
/// the memory of the replicas is given back.
struct Module {
    _latent: Pin<KBox<notifier::Registration<DecodeChain, Latent>>>,
    _last_resort: Pin<KBox<notifier::Registration<OomChain, LastResort>>>,
    _offline: Pin<KBox<notifier::Registration<MemoryChain, Offline>>>,
    _lifetime: Pin<KBox<notifier::Registration<Lifetime, groups::Keeper>>>,
    _replicas: Pin<KBox<debugfs::File<Arc<Kmirror>>>>,
    _debugfs: debugfs::Dir,
    _protection: Protection,
    _recovery: Pin<KBox<memory_mirror::Registration<Recovery>>>,
    _link: HostLink,
    _driver: Pin<KBox<virtio::Registration<HostDriver>>>,
    _region_dir: Dir<RegionDir>,
    _root_dir: Dir<RootDir>,
}

/// Ends all protection when it is dropped.
struct Protection(Arc<Kmirror>);

impl Drop for Protection {
    fn drop(&mut self) {
        self.0.groups.clear(&self.0);
    }
}

impl kernel::Module for Module {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let region = module_parameters::region.value();
        let region = match region.as_bytes() {
            b"" => None,
            text => Some(RegionSpec::parse(text).map_err(errno)?),
        };

        let node = region.as_ref().and_then(|spec| spec.node);
        let host = Host::new()?;
        let kmirror = Arc::pin_init(
            try_pin_init!(Kmirror {
                store <- Store::new(node, host.clone()),
                host,
                healing <- Healing::new(),
                groups <- Groups::new(),
                events: Events::default(),
            }),
            GFP_KERNEL,
        )?;
        // The service first, if there is one: it can put the region's memory in its place best while
        // that is empty.
        let driver = KBox::pin_init(
            virtio::Registration::new(module, HostDriver(kmirror.host.clone())),
            GFP_KERNEL,
        )?;
        let link = HostLink::start(&kmirror)?;
        kmirror.host.settle();
        if let Some(spec) = &region {
            kmirror.store.resize(&kmirror.host, spec.size)?;
        }

        let root_dir = Dir::new(
            c"kmirror",
            &Parent::kernel().ok_or(ENODEV)?,
            RootDir(kmirror.clone()),
            GFP_KERNEL,
        )?;
        let region_dir = Dir::new(
            c"region",
            &root_dir.as_parent()?,
            RegionDir(kmirror.clone()),
            GFP_KERNEL,
        )?;
        // Before there can be a replica to be asked for.
        let recovery = KBox::pin_init(
            memory_mirror::Registration::new(Recovery(kmirror.clone())),
            GFP_KERNEL,
        )?;
        let protection = Protection(kmirror.clone());
        let debugfs = debugfs::Dir::new(c"kmirror");
        let replicas = KBox::pin_init(
            debugfs.read_callback_file(
                c"replicas",
                Ok::<_, Error>(kmirror.clone()),
                &|k: &Arc<Kmirror>, f| k.store.list(f),
            ),
            GFP_KERNEL,
        )?;
        // First join the chain, then look at what is there: so none is missed, and one that is met
        // twice is added once.
        let lifetime = KBox::pin_init(
            notifier::Registration::new(groups::Keeper::new(
                kmirror.clone(),
                root_dir.as_parent()?,
            )),
            GFP_KERNEL,
        )?;
        groups::add_all(&kmirror, &root_dir.as_parent()?)?;
        let offline = KBox::pin_init(
            notifier::Registration::new(Offline(kmirror.clone())),
            GFP_KERNEL,
        )?;
        let last_resort = KBox::pin_init(
            notifier::Registration::new(LastResort(kmirror.clone())),
            GFP_KERNEL,
        )?;
        let latent = KBox::pin_init(notifier::Registration::new(Latent), GFP_KERNEL)?;

        Ok(Self {
            _latent: latent,
            _last_resort: last_resort,
            _offline: offline,
            _lifetime: lifetime,
            _replicas: replicas,
            _debugfs: debugfs,
            _protection: protection,
            _recovery: recovery,
            _link: link,
            _driver: driver,
            _region_dir: region_dir,
            _root_dir: root_dir,
        })
    }
}

/// What the user is told about a text that makes no sense.
pub(crate) fn errno(error: ParseError) -> Error {
    match error {
        ParseError::Range => ERANGE,
        _ => EINVAL,
    }
}
