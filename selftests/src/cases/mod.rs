// SPDX-License-Identifier: GPL-2.0

//! All cases, in the order in which they are run.

use crate::case::Case;

mod abi;
mod bad_times;
mod coverage;
mod ctl;
mod device;
mod direct_io;
mod dirty_file;
mod fill;
mod fork;
mod host;
pub(crate) mod huge;
mod hugetlb;
mod kernel;
mod kinds;
mod ksm;
mod kvm;
mod lazyfree;
mod mapping;
mod members;
mod migration;
mod off;
mod random;
mod reference;
mod region;
mod remote;
mod replica;
mod rest;
mod restore;
mod retreat;
pub(crate) mod service;
mod shared;
mod shmem;
mod soak;
mod store;
mod suspend;
mod swap;
mod threads;
mod unload;
mod uring;

/// Every case. The kernel's own test comes first: it gives its frames back with `unpoison_memory()`,
/// which the kernel refuses after an error that was not simulated.
pub fn all() -> impl Iterator<Item = &'static Case> {
    let groups: [&[Case]; 39] = [
        kernel::CASES,
        abi::CASES,
        restore::CASES,
        store::CASES,
        remote::CASES,
        direct_io::CASES,
        uring::CASES,
        kvm::CASES,
        device::CASES,
        lazyfree::CASES,
        dirty_file::CASES,
        fork::CASES,
        swap::CASES,
        ksm::CASES,
        mapping::CASES,
        kinds::CASES,
        migration::CASES,
        huge::CASES,
        hugetlb::CASES,
        shared::CASES,
        shmem::CASES,
        reference::CASES,
        replica::CASES,
        fill::CASES,
        threads::CASES,
        members::CASES,
        bad_times::CASES,
        suspend::CASES,
        retreat::CASES,
        coverage::CASES,
        rest::CASES,
        ctl::CASES,
        off::CASES,
        region::CASES,
        host::CASES,
        if service::is_there() {
            service::CASES
        } else {
            &[]
        },
        random::CASES,
        soak::CASES,
        unload::CASES,
    ];
    groups.into_iter().flatten()
}
