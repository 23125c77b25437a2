// SPDX-License-Identifier: GPL-2.0

//! Landlock, `include/uapi/linux/landlock.h`: a process takes rights to files and to the network
//! away from itself. No crate for it is at hand.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `struct landlock_ruleset_attr`. A kernel that knows fewer fields takes a shorter one.
#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

const CREATE_RULESET_VERSION: u32 = 1;

/// Rights to files by version of the interface: 13 in the first, then REFER, TRUNCATE, and
/// IOCTL_DEV in the fifth.
fn file_rights(version: i32) -> u64 {
    match version {
        ..=1 => (1 << 13) - 1,
        2 => (1 << 14) - 1,
        3 | 4 => (1 << 15) - 1,
        _ => (1 << 16) - 1,
    }
}

/// Takes from this thread, and from all that it starts, the right to open any file, to bind or
/// connect a TCP socket, and to reach abstract unix sockets of others. What is open stays usable.
/// Returns the version of the kernel's interface, which says how much of that is in force.
///
/// # Errors
///
/// `ENOSYS` or `EOPNOTSUPP` when the kernel has no Landlock, or has it switched off.
pub fn forbid_everything() -> io::Result<i32> {
    // SAFETY: With this flag the call reads no memory.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<RulesetAttr>(),
            0usize,
            CREATE_RULESET_VERSION,
        )
    };
    let version = i32::try_from(version).unwrap_or(-1);
    if version < 1 {
        return Err(io::Error::last_os_error());
    }
    let attr = RulesetAttr {
        handled_access_fs: file_rights(version),
        // BIND_TCP and CONNECT_TCP.
        handled_access_net: if version >= 4 { 3 } else { 0 },
        // ABSTRACT_UNIX_SOCKET.
        scoped: u64::from(version >= 6),
    };
    let size: usize = match version {
        ..=3 => 8,
        4 | 5 => 16,
        _ => 24,
    };
    // SAFETY: The attribute has at least `size` bytes, and is only read.
    let ruleset = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attr,
            size,
            0u32,
        )
    };
    let ruleset = i32::try_from(ruleset).unwrap_or(-1);
    if ruleset < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: The kernel has just made this descriptor, for us.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset) };
    // SAFETY: Reads no memory; the other arguments have to be 0.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: Reads no memory.
    let done =
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(version)
}
