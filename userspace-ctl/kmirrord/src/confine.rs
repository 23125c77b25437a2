// SPDX-License-Identifier: GPL-2.0

//! Taking away what the service does not need once it listens: files and network by Landlock, all
//! system calls but those below by seccomp.

use anyhow::{bail, Context, Result};
use libseccomp::{ScmpAction, ScmpFilterContext, ScmpSyscall};
use tracing::{info, warn};

use crate::config::Confine;
use crate::sys::landlock;

/// Serving requests: guest memory, the pool, sockets, threads.
const ALLOWED: &[&str] = &[
    // memory, its own and the guest's
    "mmap",
    "munmap",
    "mremap",
    "mprotect",
    "madvise",
    "mlock",
    "munlock",
    "mincore",
    "brk",
    "mbind",
    "get_mempolicy",
    "move_pages",
    "memfd_create",
    "fallocate",
    "ftruncate",
    // descriptors
    "read",
    "write",
    "readv",
    "writev",
    "pread64",
    "pwrite64",
    "close",
    "dup",
    "fcntl",
    "fstat",
    "newfstatat",
    "statx",
    "fstatfs",
    "lseek",
    "eventfd2",
    "epoll_create1",
    "epoll_ctl",
    "epoll_wait",
    "epoll_pwait",
    "poll",
    "ppoll",
    // sockets that are there, and what is accepted from them
    "accept4",
    "accept",
    "recvmsg",
    "sendmsg",
    "recvfrom",
    "sendto",
    "shutdown",
    "getsockname",
    "getpeername",
    "getsockopt",
    "setsockopt",
    // threads, time, signals
    "clone",
    "clone3",
    "set_robust_list",
    "rseq",
    "futex",
    "sched_yield",
    "sched_getaffinity",
    "prctl",
    "gettid",
    "getpid",
    "tgkill",
    "clock_gettime",
    "clock_nanosleep",
    "nanosleep",
    "restart_syscall",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sigaltstack",
    "getrandom",
    "exit",
    "exit_group",
];

/// Failing as if the kernel did not have them: the C library asks for them and gets along without.
const ABSENT: &[&str] = &["openat", "open", "readlink", "ioctl", "uname", "sysinfo"];

/// Connecting to QEMU, again and again. Landlock has taken TCP and abstract sockets away.
const CONNECTING: &[&str] = &["socket", "connect"];

fn seccomp(connects: bool) -> Result<()> {
    let mut filter = ScmpFilterContext::new_filter(ScmpAction::KillProcess)?;
    let connecting = if connects { CONNECTING } else { &[] };
    for name in ALLOWED.iter().chain(connecting) {
        filter.add_rule(ScmpAction::Allow, ScmpSyscall::from_name(name)?)?;
    }
    for name in ABSENT {
        filter.add_rule(
            ScmpAction::Errno(libc::EPERM),
            ScmpSyscall::from_name(name)?,
        )?;
    }
    filter.load()?;
    Ok(())
}

/// Confines this thread, and all that it starts later; so it is called before any other is there.
/// A service that `connects` may still make sockets.
///
/// # Errors
///
/// When the kernel cannot, and it is required.
pub fn confine(how: Confine, connects: bool) -> Result<()> {
    if how == Confine::Off {
        warn!("the service is not confined");
        return Ok(());
    }
    let files = landlock::forbid_everything().context("Landlock");
    let calls = seccomp(connects).context("seccomp");
    for missing in [files.as_ref().err(), calls.as_ref().err()]
        .into_iter()
        .flatten()
    {
        if how == Confine::Require {
            bail!("the kernel cannot confine the service: {missing:#}");
        }
        warn!("the kernel cannot confine the service fully: {missing:#}");
    }
    if let Ok(landlock) = files {
        info!(landlock, seccomp = calls.is_ok(), "confined");
    }
    Ok(())
}
