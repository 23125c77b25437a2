// SPDX-License-Identifier: GPL-2.0

//! SIGBUS must not end the service: guest memory that is shared with it may be broken, or cut off
//! by who owns the file, at any address and any time.
//!
//! Whoever copies from or to guest memory then gets the signal in the middle of a load or store.
//! The handler puts an empty private page where the broken one was, so that the copy goes on, with
//! zeros, and raises a flag. Who copies looks at the flag afterwards and throws the bytes away.
//! The empty page stays until the mapping is made afresh, which happens when QEMU sets the memory
//! table again; until then the device does nothing more (see [`crate::device`]).
//!
//! System calls on such memory need none of this: they fail with `EFAULT` or `EIO`.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// As many as the `vhost` crate takes regions of memory, and as many again while the table of them
/// is replaced.
const MAX_MAPPINGS: usize = 1024;

struct Entry {
    start: AtomicUsize,
    bytes: AtomicUsize,
    page: AtomicUsize,
}

// Only ever read by the handler, which may run at any time. An entry counts once `bytes` is set,
// with release, after the others; `bytes` is cleared before the mapping goes.
static MAPPINGS: [Entry; MAX_MAPPINGS] = [const {
    Entry {
        start: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
        page: AtomicUsize::new(0),
    }
}; MAX_MAPPINGS];

static TAKEN: AtomicBool = AtomicBool::new(false);

/// A mapping in which SIGBUS is survived, as long as this lives.
#[derive(Debug)]
pub struct Guarded(usize);

impl Guarded {
    /// Guards `bytes` from `start` on, made of pages of `page` bytes. `None` when there are too
    /// many already.
    ///
    /// They have to be a mapping of a file of guest memory that only volatile copies reach: others
    /// could not stand that it becomes private and empty.
    pub(super) fn new(start: usize, bytes: usize, page: usize) -> Option<Self> {
        // One thread at a time changes the memory table, but tests have several.
        static CHANGE: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _change = CHANGE.lock().unwrap_or_else(|e| e.into_inner());
        let free = |entry: &Entry| entry.bytes.load(Ordering::Relaxed) == 0;
        let at = MAPPINGS.iter().position(free)?;
        let entry = MAPPINGS.get(at)?;
        entry.start.store(start, Ordering::Relaxed);
        entry.page.store(page, Ordering::Relaxed);
        entry.bytes.store(bytes, Ordering::Release);
        Some(Self(at))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(entry) = MAPPINGS.get(self.0) {
            entry.bytes.store(0, Ordering::Release);
        }
    }
}

/// Was there a SIGBUS since this was asked last? Then what has been copied meanwhile is worthless.
pub fn taken() -> bool {
    TAKEN.swap(false, Ordering::Acquire)
}

/// Installs the handler.
///
/// # Errors
///
/// What `sigaction()` says.
pub fn install() -> io::Result<()> {
    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
    // SAFETY: All of a `sigaction` being 0 is a valid value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    // SAFETY: The handler has the signature that SA_SIGINFO asks for, and does only what a signal
    // handler may, see there. Both pointers are valid or null.
    let done = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// `BUS_MCEERR_AO`: memory has broken that nobody is just using.
const BUS_MCEERR_AO: i32 = 5;

extern "C" fn on_sigbus(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: With SA_SIGINFO the kernel passes a valid siginfo; SIGBUS has an address.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    if code == BUS_MCEERR_AO {
        return;
    }
    if code > 0 && replace(address) {
        TAKEN.store(true, Ordering::Release);
        return;
    }
    // Not ours, or sent by a process: the default, which ends us, when the load is tried again.
    // SAFETY: signal() may be called in a signal handler.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    if code <= 0 {
        // SAFETY: raise() may be called in a signal handler.
        unsafe { libc::raise(libc::SIGBUS) };
    }
}

/// Puts an empty page at `address`. `false` when it is in no guarded mapping. Takes no lock and
/// allocates nothing.
fn replace(address: usize) -> bool {
    for entry in &MAPPINGS {
        let bytes = entry.bytes.load(Ordering::Acquire);
        let start = entry.start.load(Ordering::Relaxed);
        let page = entry.page.load(Ordering::Relaxed);
        if bytes == 0 || address < start || address - start >= bytes {
            continue;
        }
        let at = start + (address - start) / page * page;
        // SAFETY: The page lies in a mapping of guest memory whose users stand any change of it,
        // see Guarded::new(); mmap() with these arguments makes one system call, which a signal
        // handler may do.
        let (mapped, error) = unsafe {
            let error = *libc::__errno_location();
            let mapped = libc::mmap(
                at as *mut libc::c_void,
                page,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            );
            (mapped, error)
        };
        // SAFETY: As above: errno of this thread, which the interrupted code may be about to read.
        unsafe { *libc::__errno_location() = error };
        return mapped != libc::MAP_FAILED;
    }
    false
}
