// SPDX-License-Identifier: GPL-2.0

//! The kernel itself runs into the error, on behalf of a system call or a page fault.

use crate::case::{Case, Context};
use crate::file::Setting;
use crate::kmsg::Log;
use crate::memory::image;
use crate::nested::port::Host;
use crate::nested::strike;
use crate::rig::Rig;
use crate::victim::{Order, Scene};
use crate::{wait, PAGE_SIZE};
use anyhow::{bail, ensure, Context as _, Result};
use nix::errno::Errno;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "mce_system_calls",
        "a user access of the kernel is made again after the page was restored",
        system_calls,
    ),
    Case::new(
        "mce_system_call_lost",
        "without a current replica it fails with EFAULT, and the machine goes on",
        lost,
    ),
    Case::new(
        "mce_copy_on_write",
        "a page fault whose copy fails is made again after the page was restored",
        copy_on_write,
    ),
    Case::new(
        "mce_core_dump",
        "a page that cannot be copied to a core dump is restored first",
        core_dump,
    ),
];

/// What the kernel says when it has run into lost memory of a program.
const READ: &str = "Kernel accessed poison in user space";

fn bytes(scene: &Scene, page: u64) -> &'static [u8] {
    // SAFETY: The mapping stays; only the kernel reads through the slice.
    unsafe { std::slice::from_raw_parts(scene.mem.addr(page) as *const u8, PAGE_SIZE) }
}

/// Reads back what has gone in, and compares it.
fn compare(mut from: impl Read, page: u64, version: u64) -> Result<u64> {
    let mut back = vec![0; PAGE_SIZE];
    from.read_exact(&mut back)?;
    ensure!(back == image(page, version), "other bytes");
    Ok(0)
}

fn pipe(scene: &mut Scene, page: u64, version: u64) -> Result<u64> {
    let (from, to) = nix::unistd::pipe()?;
    let len = File::from(to).write(bytes(scene, page))?;
    ensure!(len == PAGE_SIZE, "{len} bytes");
    compare(File::from(from), page, version)
}

fn tmpfs(scene: &mut Scene, page: u64, version: u64) -> Result<u64> {
    let path = format!("/tmp/kernel-reads-{page}");
    let len = File::create(&path)?.write(bytes(scene, page))?;
    ensure!(len == PAGE_SIZE, "{len} bytes");
    compare(File::open(&path)?, page, version)
}

fn socket(scene: &mut Scene, page: u64, version: u64) -> Result<u64> {
    let (mut a, b) = UnixStream::pair()?;
    let len = a.write(bytes(scene, page))?;
    ensure!(len == PAGE_SIZE, "{len} bytes");
    compare(b, page, version)
}

fn writev(scene: &mut Scene, page: u64, version: u64) -> Result<u64> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open("/dev/shm/kernel-reads")?;
    let bytes = bytes(scene, page);
    let parts = [&bytes[..1], &bytes[1..2000], &bytes[2000..]].map(|part| libc::iovec {
        iov_base: part.as_ptr().cast_mut().cast(),
        iov_len: part.len(),
    });
    // SAFETY: Only reads what the slices cover.
    let len = unsafe { libc::pwritev(file.as_raw_fd(), parts.as_ptr(), 3, 0) };
    ensure!(Errno::result(len)? == 4096, "{len} bytes");
    compare(file, page, version)
}

/// Reads one word. That it is another than the one expected says that it was read right.
fn futex(scene: &mut Scene, page: u64, version: u64) -> Result<u64> {
    let word = u32::from_ne_bytes(image(page, version)[..4].try_into()?);
    let addr = scene.mem.addr(page);
    // One that is not private takes the page for writing, after which no replica is current.
    let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    let wait = |value: u32| {
        let timeout = libc::timespec {
            tv_sec: 0,
            tv_nsec: 1,
        };
        // SAFETY: The kernel only reads there.
        let result = unsafe { libc::syscall(libc::SYS_futex, addr, op, value, &timeout) };
        Errno::result(result)
    };
    ensure!(wait(!word) == Err(Errno::EAGAIN), "{:?}", wait(!word));
    ensure!(wait(word) == Err(Errno::ETIMEDOUT), "{:?}", wait(word));
    Ok(0)
}

/// A name that does not exist, or is too long.
fn path(scene: &mut Scene, page: u64, _: u64) -> Result<u64> {
    // SAFETY: The kernel only reads there.
    let result = unsafe { libc::access(scene.mem.addr(page) as *const libc::c_char, libc::F_OK) };
    match Errno::result(result) {
        Err(Errno::ENOENT | Errno::ENAMETOOLONG | Errno::ENOTDIR) => Ok(0),
        other => bail!("{other:?}"),
    }
}

fn system_calls(cx: &Context) -> Result<()> {
    const ORDERS: &[(&str, Order)] = &[
        ("write to a pipe", pipe),
        ("write to tmpfs", tmpfs),
        ("write to a socket", socket),
        ("writev to shared memory", writev),
        ("futex", futex),
        ("path", path),
    ];
    let mut host = Host::connect()?;
    let _quiet = strike::keep_quiet()?;
    let mut rig = Rig::synced(cx, 32)?;
    for (&(what, order), page) in ORDERS.iter().cycle().take(12).zip(0..) {
        let before = rig.counters()?;
        let old = rig.frame(page)?;
        let mut log = Log::from_now()?;
        host.poison(old)?;
        rig.victim
            .call(order, page, 1)
            .with_context(|| format!("{what}, page {page}"))?;
        let met = log.lines()?.iter().any(|line| line.contains(READ));
        ensure!(met, "{what} has not met the error");
        rig.must_be(page, 1)?;
        strike::must_be_restored(&mut rig, before, old, page).context(what)?;
    }
    rig.must_be(31, 1)
}

fn lost(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    let _quiet = strike::keep_quiet()?;
    let mut rig = Rig::synced(cx, 8)?;
    for (order, page) in [pipe as Order, tmpfs, socket, writev].into_iter().zip(0..) {
        rig.fill(page, 2)?;
        host.poison(rig.frame(page)?)?;
        match rig.victim.call(order, page, 2) {
            Err(error) if format!("{error:#}").contains("EFAULT") => {}
            Err(error) if format!("{error:#}").contains("os error 14") => {}
            other => bail!("page {page}: {other:?}"),
        }
        ensure!(rig.seen(page, 2)? == crate::memory::Seen::Lost);
    }
    ensure!(rig.counters()?.restored == 0);
    rig.must_be(6, 1)
}

fn copy_on_write(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    let _quiet = strike::keep_quiet()?;
    let mut rig = Rig::new(cx, 8)?;
    let mut child = rig.victim.fork()?;
    rig.sync()?;
    for page in 0..4 {
        rig.must_be_mirrored(page)?;
        let before = rig.counters()?;
        let old = rig.frame(page)?;
        host.poison(old)?;
        // Nobody has read it: the fault's own copy is the first that meets the error.
        child
            .call(
                |scene, page, _| {
                    scene.mem.store(page, 7, 0x1234);
                    Ok(scene.mem.load(page, 8))
                },
                page,
                0,
            )
            .with_context(|| format!("page {page}"))
            .and_then(|word| {
                ensure!(
                    word == crate::memory::word(page, 1, 8),
                    "page {page}: {word:#x}"
                );
                Ok(())
            })?;
        rig.must_be(page, 1)?;
        strike::must_be_restored(&mut rig, before, old, page)?;
    }
    Ok(())
}

fn core_dump(cx: &Context) -> Result<()> {
    const CORE: &str = "/tmp/core-of-victim";
    let mut host = Host::connect()?;
    let _quiet = strike::keep_quiet()?;
    let _pattern = Setting::change("/proc/sys/kernel/core_pattern", CORE)?;
    let mut rig = Rig::new(cx, 8)?;
    let mut child = rig.victim.fork()?;
    rig.sync()?;
    let before = rig.counters()?;
    let old = rig.frame(3)?;
    host.poison(old)?;
    let died = child.call(
        |_, _, _| {
            let all = libc::rlimit {
                rlim_cur: libc::RLIM_INFINITY,
                rlim_max: libc::RLIM_INFINITY,
            };
            // SAFETY: System calls, the last of which does not return.
            unsafe {
                libc::setrlimit(libc::RLIMIT_CORE, &all);
                libc::prctl(libc::PR_SET_DUMPABLE, 1);
                libc::abort()
            }
        },
        0,
        0,
    );
    ensure!(died.is_err(), "{died:?}");
    // All pages are next to each other in it.
    let want: Vec<u8> = (0..8).flat_map(|page| image(page, 1)).collect();
    let has = |core: &[u8]| {
        core.chunks_exact(PAGE_SIZE)
            .position(|chunk| *chunk == want[..PAGE_SIZE])
            .is_some_and(|at| core[at * PAGE_SIZE..].starts_with(&want))
    };
    wait::until("the dump is whole", wait::BOUND, || {
        Ok(fs::read(CORE).is_ok_and(|core| has(&core)))
    })?;
    rig.must_be(3, 1)?;
    strike::must_be_restored(&mut rig, before, old, 3)?;
    Ok(())
}
