// SPDX-License-Identifier: GPL-2.0

//! From the page cache to the pages whose replicas are to be made.

use super::walk::Handed;
use crate::helpers;
use core::marker::PhantomData;
use kernel::{bindings, container_of, prelude::*};

/// Pages that are handed over at once, at most: `MIRROR_CACHE_PAGES`.
const BATCH: usize = bindings::MIRROR_CACHE_PAGES as usize;

/// What a walk has counted, in pages.
#[derive(Clone, Copy, Default)]
pub struct CacheCounts {
    /// Pages with `PG_mirrored`; those of files may have been written through a mapping since.
    pub current: u64,
    /// Pages without.
    pub stale: u64,
}

/// What the callback needs.
///
/// # Invariants
///
/// Those of the first `raw.nr` entries that `raw.pages` points to that say so hold a reference.
struct Visit<'a> {
    raw: bindings::mirror_cache_walk,
    found: &'a mut dyn FnMut(Handed<'_>) -> bool,
}

impl Visit<'_> {
    /// # Safety
    ///
    /// Only to be called by the kernel, with the `raw` of a visit that it was given.
    unsafe extern "C" fn found(raw: *mut bindings::mirror_cache_walk) -> bool {
        // SAFETY: By the requirement above; the kernel does not look at it meanwhile.
        let visit = unsafe { &mut *container_of!(raw, Self, raw) };
        let mut go_on = true;
        for i in 0..visit.raw.nr as usize {
            // SAFETY: The first `nr` entries are initialized by the type invariant.
            let entry = unsafe { &*visit.raw.pages.add(i) };
            if go_on {
                go_on = (visit.found)(Handed {
                    // INVARIANT: The reference is dropped only below.
                    page: entry.page,
                    nr: entry.nr as usize,
                    dirty: entry.dirty,
                    _walk: PhantomData,
                });
            }
            if entry.held {
                // SAFETY: By the type invariant; the entry is not used again.
                unsafe { helpers::kmirror_put_page(entry.page) };
            }
        }
        // INVARIANT: None has a reference any more.
        visit.raw.nr = 0;
        go_on
    }
}

/// Looks at the pages that page tables need not lead to: shared memory that nobody has mapped, and
/// files that are not written back yet, as far as they are charged to one of `cgroups`, whose ids
/// are in order. Gives those that are not known to be current to `found`, until it returns `false`.
///
/// Unless `all`, only files are looked at that something has happened to, or in which there was a
/// page last time that was not current and is charged to one of `tracked`: all cgroups, by their ids
/// in order, that anybody looks after. `cgroups` are among them.
///
/// # Errors
///
/// [`ENOMEM`].
///
/// Context: may sleep. `found` is called with the superblock's `s_umount` held for reading.
pub fn walk_cache(
    cgroups: &[u64],
    tracked: &[u64],
    all: bool,
    found: &mut dyn FnMut(Handed<'_>) -> bool,
) -> Result<CacheCounts> {
    let mut pages = KVec::<bindings::mirror_page>::with_capacity(BATCH, GFP_KERNEL)?;
    Ok(visit(cgroups, tracked, all, pages.as_mut_ptr(), found))
}

/// The same, but only counts.
///
/// Context: may sleep.
pub fn survey_cache(cgroups: &[u64]) -> CacheCounts {
    visit(cgroups, &[], true, core::ptr::null_mut(), &mut |_| false)
}

fn visit(
    cgroups: &[u64],
    tracked: &[u64],
    all: bool,
    pages: *mut bindings::mirror_page,
    found: &mut dyn FnMut(Handed<'_>) -> bool,
) -> CacheCounts {
    // INVARIANT: No entry is in use.
    let mut visit = Visit {
        raw: bindings::mirror_cache_walk {
            cgroups: cgroups.as_ptr(),
            nr_cgroups: cgroups.len() as u32,
            tracked: tracked.as_ptr(),
            nr_tracked: tracked.len() as u32,
            all,
            pages,
            found: Some(Visit::found),
            ..Default::default()
        },
        found,
    };
    // SAFETY: `raw` describes what is valid for the call: the ids, and the array, which has room for
    // `BATCH` entries if there is one.
    unsafe { bindings::memory_mirror_walk_cache(&mut visit.raw) };
    CacheCounts {
        current: visit.raw.nr_current as u64,
        stale: visit.raw.nr_stale as u64,
    }
}
