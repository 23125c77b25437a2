// SPDX-License-Identifier: GPL-2.0

//! Direct I/O: the device reads and writes the victim's pages by their frames.

use crate::case::{skip, Case, Context};
use crate::inject::{self, Door};
use crate::memory::image;
use crate::pagemap;
use crate::rig::Rig;
use crate::uffd::Missing;
use crate::victim::Victim;
use crate::zram::Zram;
use crate::{file, wait, PAGE_SIZE};
use anyhow::{bail, ensure, Context as _, Result};
use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "direct_read_into_page",
        "pinning a page for writing clears PG_mirrored",
        read_into,
    ),
    Case::new(
        "read_pin_released",
        "a restore waits for a pin that is only for reading, and tries again",
        released,
    ),
    Case::new(
        "read_pin_held",
        "that wait is bounded, and an unaccounted reference refuses the restore",
        held,
    ),
];

/// Opens the disk that the director has made.
fn disk(id: u64) -> Result<File> {
    let path = format!("/dev/zram{id}");
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_DIRECT);
    options.open(&path).context(path)
}

fn id_of(zram: &Zram) -> Result<u64> {
    let path = zram.device();
    let name = path.to_string_lossy();
    Ok(name.trim_start_matches("/dev/zram").parse()?)
}

fn read_into(cx: &Context) -> Result<()> {
    let zram = Zram::new(1 << 20)?;
    let mut file = OpenOptions::new().write(true).open(zram.device())?;
    for page in 0..8 {
        file.write_all(&image(page, 2))?;
    }
    file.sync_all()?;
    drop(file);

    let mut rig = Rig::synced(cx, 8)?;
    for page in 0..4 {
        rig.victim.call(
            |scene, page, id| {
                let file = disk(id)?;
                let at = i64::try_from(page)? * PAGE_SIZE as i64;
                let to = scene.mem.ptr(page, 0).cast();
                // SAFETY: The page is ours, and nobody else uses it now.
                let got = unsafe { libc::pread(file.as_raw_fd(), to, PAGE_SIZE, at) };
                ensure!(Errno::result(got)? == PAGE_SIZE as isize, "a short read");
                Ok(0)
            },
            page,
            id_of(&zram)?,
        )?;
    }
    rig.must_be(0, 2)?;
    for page in 0..4 {
        rig.must_lose(Door::ALL[page as usize], page)?;
    }
    rig.must_restore(Door::Fail, 4, 1)?;
    Ok(())
}

/// In the victim: a write from a page to the disk, under way, which goes on when the missing page
/// that it comes to next is there.
static UNDER_WAY: Mutex<Option<(Missing, JoinHandle<Result<i64>>)>> = Mutex::new(None);

fn begin_write(victim: &mut Victim, page: u64, zram: &Zram) -> Result<()> {
    victim.call(
        |scene, page, id| {
            let file = disk(id)?;
            let missing = Missing::new()?;
            let (from, next) = (scene.mem.addr(page), missing.mapping().addr(0));
            let writer = std::thread::spawn(move || {
                let iov = [from, next].map(|addr| libc::iovec {
                    iov_base: std::ptr::with_exposed_provenance_mut(addr as usize),
                    iov_len: PAGE_SIZE,
                });
                // SAFETY: Both pages stay mapped while this is under way.
                let put = unsafe { libc::pwritev(file.as_raw_fd(), iov.as_ptr(), 2, 0) };
                Ok(Errno::result(put)? as i64)
            });
            // Then the page before it is pinned.
            missing.wait_for_visitor()?;
            *UNDER_WAY.lock().unwrap() = Some((missing, writer));
            Ok(0)
        },
        page,
        id_of(zram)?,
    )?;
    Ok(())
}

fn end_write(victim: &mut Victim) -> Result<()> {
    victim.call(
        |_, _, _| {
            let (missing, writer) = UNDER_WAY.lock().unwrap().take().context("no write")?;
            missing.provide()?;
            let put = writer.join().unwrap()?;
            ensure!(put == 2 * PAGE_SIZE as i64, "{put} bytes written");
            Ok(0)
        },
        0,
        0,
    )?;
    Ok(())
}

/// How long a restore waits for a reference, less some time for a slow machine.
const PATIENCE: Duration = Duration::from_millis(400);

fn released(cx: &Context) -> Result<()> {
    let zram = Zram::new(1 << 20)?;
    let mut rig = Rig::synced(cx, 4)?;
    begin_write(&mut rig.victim, 0, &zram)?;
    rig.must_be_mirrored(0)?;
    let old = rig.frame(0)?;

    // Not frozen, for the write is to go on. The victim touches nothing meanwhile.
    let reported = AtomicBool::new(false);
    let began = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let (tell, told) = std::sync::mpsc::channel();
        let reported = &reported;
        let report = scope.spawn(move || {
            let _ = tell.send(nix::unistd::gettid());
            let result = inject::report("fail", old);
            reported.store(true, Ordering::SeqCst);
            result
        });
        // A restore that waits sleeps and tries again. Once or twice it sleeps for other reasons.
        let status = format!("/proc/self/task/{}/status", told.recv()?);
        wait::until("the restore waits", wait::BOUND, || {
            let sleeps = file::keyed(&status, "voluntary_ctxt_switches");
            Ok(reported.load(Ordering::SeqCst) || sleeps.is_ok_and(|sleeps| sleeps >= 6))
        })?;
        let in_time = !reported.load(Ordering::SeqCst);
        end_write(&mut rig.victim)?;
        match report.join() {
            Ok(result) => {
                ensure!(in_time, "the restore did not wait: {result:?}");
                if result.is_err() && began.elapsed() > PATIENCE {
                    skip!("too slow: the restore gave up before the pin was released");
                }
                Ok(result?)
            }
            Err(_) => bail!("the reporting thread has panicked"),
        }
    })?;
    ensure!(rig.frame(0)? != old, "still the broken frame");
    rig.must_be(0, 1)?;
    ensure!(rig.counters()?.restored == 1);
    Ok(())
}

fn held(cx: &Context) -> Result<()> {
    let zram = Zram::new(1 << 20)?;
    let mut rig = Rig::synced(cx, 4)?;
    begin_write(&mut rig.victim, 0, &zram)?;
    let old = rig.frame(0)?;
    let before = rig.counters()?;
    // Returns in the time of this test, although the pin stays. What the kernel does with such a
    // page by itself is its own matter.
    let _ = inject::report("fail", old);
    let after = rig.counters()?;
    ensure!(after.restored == before.restored, "restored while pinned");
    ensure!(after.unrestorable == before.unrestorable + 1, "{after:?}");
    ensure!(
        pagemap::flags(old)? & pagemap::HWPOISON != 0,
        "not poisoned"
    );
    end_write(&mut rig.victim)?;
    rig.must_be(1, 1)
}
