// SPDX-License-Identifier: GPL-2.0

//! The kernel itself runs into the error, on behalf of a system call that reads the page.

use crate::case::{Case, Context};
use crate::memory;
use crate::nested::port::Host;
use crate::nested::strike;
use crate::rig::Rig;
use crate::victim::{Order, Scene};
use crate::PAGE_SIZE;
use anyhow::{ensure, Context as _, Result};
use nix::errno::Errno;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;

pub(super) const CASES: &[Case] = &[Case::new(
    "mce_system_call",
    "mce_leave_for_recovery(): the call does not notice, and no byte of a lost page goes out",
    system_call,
)];

/// What a call has come to: that many bytes, which were right, or an error.
type Came = Result<usize, Errno>;

fn system_call(cx: &Context) -> Result<()> {
    let mut host = Host::connect()?;
    let _quiet = strike::keep_quiet()?;
    let mut rig = Rig::synced(cx, 12)?;
    let calls: [(&str, Order, usize); 3] = [
        ("write to a pipe", to_pipe, PAGE_SIZE),
        ("write to a file", to_file, PAGE_SIZE),
        ("write of 8 bytes", eight_bytes, 8),
    ];
    for (page, (name, call, len)) in (0..9).zip(calls.into_iter().cycle()) {
        let before = rig.counters()?;
        let checks = strike::machine_checks()?;
        let old = rig.frame(page)?;
        host.poison(old)?;
        // The call finds out what it has written, and fails if one byte of it is wrong.
        let came = unpack(rig.victim.call(call, page, 1)?);
        ensure!(
            strike::machine_checks()? > checks,
            "{name}: there was no machine check"
        );
        ensure!(came == Ok(len), "{name}: {came:?} of {len} bytes");
        rig.must_be(page, 1)?;
        strike::must_be_restored(&mut rig, before, old, page).context(name)?;
        let came = unpack(rig.victim.call(call, page, 1)?);
        ensure!(came == Ok(len), "{name}, again: {came:?}");
    }
    for page in 9..12 {
        rig.must_be(page, 1)?;
    }
    Ok(())
}

fn pack(came: Came) -> u64 {
    match came {
        Ok(len) => len as u64,
        Err(errno) => 1 << 32 | errno as u64,
    }
}

fn unpack(raw: u64) -> Came {
    if raw >> 32 == 0 {
        Ok(raw as usize)
    } else {
        Err(Errno::from_raw(raw as i32))
    }
}

/// Writes `len` bytes of a page.
fn write(file: &File, scene: &Scene, page: u64, len: usize) -> Came {
    // SAFETY: The page is one of the scene's; what the kernel reads there it reads for itself.
    let count = unsafe { libc::write(file.as_raw_fd(), scene.mem.ptr(page, 0).cast(), len) };
    Errno::result(count).map(|count| count as usize)
}

/// Fails unless what has come out is how the page begins.
fn compare(mut file: &File, page: u64, version: u64, came: Came) -> Result<()> {
    let mut bytes = vec![0; came.unwrap_or(0)];
    file.read_exact(&mut bytes)?;
    let same = memory::image(page, version).starts_with(&bytes);
    ensure!(same, "wrong bytes of page {page} have gone out");
    Ok(())
}

fn to_pipe(scene: &mut Scene, page: u64, version: u64) -> Result<u64> {
    pipe(scene, page, version, PAGE_SIZE)
}

fn eight_bytes(scene: &mut Scene, page: u64, version: u64) -> Result<u64> {
    pipe(scene, page, version, 8)
}

fn pipe(scene: &Scene, page: u64, version: u64, len: usize) -> Result<u64> {
    let (output, input) = nix::unistd::pipe()?;
    let came = write(&File::from(input), scene, page, len);
    compare(&File::from(output), page, version, came)?;
    Ok(pack(came))
}

fn to_file(scene: &mut Scene, page: u64, version: u64) -> Result<u64> {
    let path = format!("/dev/shm/system_call.{}", std::process::id());
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    let came = write(&file, scene, page, PAGE_SIZE);
    file.rewind()?;
    compare(&file, page, version, came)?;
    Ok(pack(came))
}
