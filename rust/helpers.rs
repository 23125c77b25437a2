// SPDX-License-Identifier: GPL-2.0

//! Declarations of what `helpers.c` defines. Keep in step with `helpers.h`.

// As for the kernel's own bindings: empty structs, which a configuration leaves of some, are not
// what C is asked about here.
#![expect(improper_ctypes)]

use kernel::bindings;
use kernel::ffi::{c_char, c_int, c_uint, c_ulong, c_void};

extern "C" {
    pub(crate) fn kmirror_cgroup_get(cgrp: *mut bindings::cgroup);
    pub(crate) fn kmirror_cgroup_put(cgrp: *mut bindings::cgroup);
    pub(crate) fn kmirror_cgroup_tryget(cgrp: *mut bindings::cgroup) -> bool;
    pub(crate) fn kmirror_cgroup_is_online(cgrp: *mut bindings::cgroup) -> bool;
    pub(crate) fn kmirror_cgroup_parent(cgrp: *mut bindings::cgroup) -> *mut bindings::cgroup;
    pub(crate) fn kmirror_cgroup_on_dfl(cgrp: *mut bindings::cgroup) -> bool;
    pub(crate) fn kmirror_cgroup_id(cgrp: *mut bindings::cgroup) -> u64;
    pub(crate) fn kmirror_cgroup_path(
        cgrp: *mut bindings::cgroup,
        buf: *mut c_char,
        size: usize,
    ) -> c_int;

    pub(crate) fn kmirror_alloc_block(nid: c_int, order: c_uint) -> *mut bindings::page;
    pub(crate) fn kmirror_alloc_page() -> *mut bindings::page;
    pub(crate) fn kmirror_page_address(page: *mut bindings::page) -> *mut c_void;
    pub(crate) fn kmirror_free_page(page: *mut bindings::page);
    pub(crate) fn kmirror_put_page(page: *mut bindings::page);
    pub(crate) fn kmirror_page_to_pfn(page: *mut bindings::page) -> c_ulong;
    pub(crate) fn kmirror_copy_mc_page(to: *mut bindings::page, from: *mut bindings::page)
        -> c_int;
    pub(crate) fn kmirror_page_seems_filled(page: *mut bindings::page) -> bool;
    pub(crate) fn kmirror_fill_page(page: *mut bindings::page, word: u64);
    pub(crate) fn kmirror_hash_page(page: *mut bindings::page) -> u64;
    pub(crate) fn kmirror_poison_page(page: *mut bindings::page);
    pub(crate) fn kmirror_offline_page(page: *mut bindings::page);
    pub(crate) fn kmirror_pfn_cgroup_id(pfn: c_ulong) -> u64;
    pub(crate) fn kmirror_pfn_mirrored(pfn: c_ulong) -> bool;
    pub(crate) fn kmirror_pfn_free(pfn: c_ulong) -> bool;
    pub(crate) fn kmirror_pfn_retired(pfn: c_ulong) -> bool;
    pub(crate) fn kmirror_pfn_drop_mirrored(pfn: c_ulong);

    pub(crate) fn kmirror_register_memory_notifier(nb: *mut bindings::notifier_block) -> c_int;
    pub(crate) fn kmirror_unregister_memory_notifier(nb: *mut bindings::notifier_block);
    pub(crate) fn kmirror_memory_going_offline(
        action: c_ulong,
        arg: *const c_void,
        start: *mut c_ulong,
        nr: *mut c_ulong,
    ) -> bool;

    pub(crate) fn kmirror_register_oom_notifier(nb: *mut bindings::notifier_block) -> c_int;
    pub(crate) fn kmirror_unregister_oom_notifier(nb: *mut bindings::notifier_block);

    pub(crate) fn kmirror_mce_pfn(mce: *const bindings::mce) -> c_ulong;
    pub(crate) fn kmirror_mce_set_handled(mce: *mut bindings::mce);

    pub(crate) fn kmirror_sysfs_attr_init(attr: *mut bindings::attribute);

    pub(crate) fn kmirror_virtio_find_queue(
        vdev: *mut bindings::virtio_device,
        name: *const c_char,
    ) -> *mut bindings::virtqueue;
    pub(crate) fn kmirror_virtio_ready(vdev: *mut bindings::virtio_device);
    pub(crate) fn kmirror_virtio_read_config(
        vdev: *mut bindings::virtio_device,
        buf: *mut c_void,
        len: usize,
    );
    pub(crate) fn kmirror_virtio_del_queues(vdev: *mut bindings::virtio_device);
    pub(crate) fn kmirror_virtqueue_add(
        vq: *mut bindings::virtqueue,
        out: *mut c_void,
        out_len: c_uint,
        data: *mut bindings::page,
        data_out: c_uint,
        data_in: c_uint,
        in_: *mut c_void,
        in_len: c_uint,
        token: *mut c_void,
    ) -> c_int;
    pub(crate) fn kmirror_virtqueue_notify_address(vq: *mut bindings::virtqueue) -> u64;
    pub(crate) fn kmirror_kvm_kick(address: u64, value: u16) -> c_int;

    pub(crate) fn kmirror_trace_epoch(
        cgroup: u64,
        epoch: u64,
        copied: u64,
        scan_ns: u64,
        copy_ns: u64,
    );
    pub(crate) fn kmirror_trace_restore(cgroup: u64, pfn: c_ulong, to: c_ulong);
    pub(crate) fn kmirror_trace_refuse(cgroup: u64, pfn: c_ulong, why: *const c_char, len: usize);
    pub(crate) fn kmirror_trace_replica_lost(pfn: c_ulong, primary: c_ulong);
}
