// SPDX-License-Identifier: GPL-2.0

//! NUMA policy and placement, `mbind(2)`, `get_mempolicy(2)`, `move_pages(2)`: what of it concerns
//! a node and an address, for [`super::mapping`].

use std::io;

/// The greatest node number of any kernel (`CONFIG_NODES_SHIFT` is at most 10).
pub const MAX_NODE: u32 = 1023;

// <linux/mempolicy.h>; the `libc` crate lacks them.
const MPOL_F_NODE: i32 = 1 << 0;
const MPOL_F_ADDR: i32 = 1 << 1;
const MPOL_MF_MOVE: u32 = 1 << 1;
const MPOL_MF_MOVE_ALL: u32 = 1 << 2;

const WORDS: usize = (MAX_NODE as usize + 1) / 64;
/// The kernel takes the number of bits and one.
const MASK_BITS: usize = WORDS * 64 + 1;

fn mask(node: u32) -> [u64; WORDS] {
    let mut mask = [0; WORDS];
    if let Some(word) = mask.get_mut(node as usize / 64) {
        *word = 1 << (node % 64);
    }
    mask
}

/// Prefers `node` for the pages of `bytes` from `address` on. Of a shared mapping that is the
/// policy of the file, for all who map it. With `move_pages`, pages that are elsewhere are moved,
/// as far as the process may.
pub(super) fn prefer(address: usize, bytes: usize, node: u32, move_pages: bool) -> io::Result<()> {
    let mask = mask(node);
    let bind = |flags: u32| {
        // SAFETY: mbind() reads `MASK_BITS - 1` bits of the mask, and changes where pages are but
        // not what they hold.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                address,
                bytes,
                libc::MPOL_PREFERRED,
                mask.as_ptr(),
                MASK_BITS,
                flags,
            )
        };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    if !move_pages {
        return bind(0);
    }
    // QEMU maps the pages too, and moving what others map takes CAP_SYS_NICE.
    bind(MPOL_MF_MOVE_ALL).or_else(|error| match error.raw_os_error() {
        Some(libc::EPERM) => bind(MPOL_MF_MOVE),
        _ => Err(error),
    })
}

/// The node of the page at `address`, which is made if there is none.
pub(super) fn node_of(address: usize) -> io::Result<u32> {
    let mut node = 0i32;
    // SAFETY: With MPOL_F_NODE and MPOL_F_ADDR the call writes one int and no mask.
    let done = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut node,
            std::ptr::null_mut::<u64>(),
            0usize,
            address,
            MPOL_F_NODE | MPOL_F_ADDR,
        )
    };
    match done {
        0 => u32::try_from(node).map_err(io::Error::other),
        _ => Err(io::Error::last_os_error()),
    }
}

/// For each page at one of `addresses` its node, or a negative errno: `-ENOENT` where this process
/// has none mapped.
pub(super) fn nodes_of(addresses: &[usize], nodes: &mut [i32]) -> io::Result<()> {
    assert_eq!(addresses.len(), nodes.len());
    // SAFETY: Without a list of nodes nothing is moved; the call reads as many addresses as are
    // there, and writes as many numbers as there is room for.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            addresses.len(),
            addresses.as_ptr(),
            std::ptr::null::<i32>(),
            nodes.as_mut_ptr(),
            0,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
