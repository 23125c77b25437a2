// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading.

use crate::case::{Case, Context};
use crate::inject::Door;
use crate::memory::Mapping;
use crate::mirror::{self, Mirror};
use crate::module::{self, REGION};
use crate::pagemap;
use crate::rig::Rig;
use crate::{file, wait, PAGE};
use anyhow::{ensure, Context as _, Result};
use nix::errno::Errno;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;
use std::thread::JoinHandle;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "load_parameters",
        "module parameters are checked before anything is reserved",
        parameters,
    ),
    Case::new(
        "load_finds_cgroups",
        "all cgroups that exist at load time are added",
        finds_cgroups,
    ),
    Case::new(
        "unload_under_load",
        "unloading ends every worker, drops every replica, clears every flag, frees the region",
        under_load,
    ),
];

/// Unloads kmirror, which nobody uses.
fn unload() -> Result<()> {
    module::unload("kmirror").context("rmmod kmirror")?;
    ensure!(
        !Path::new(mirror::ROOT).exists(),
        "its sysfs directory is still there"
    );
    Ok(())
}

fn parameters(_: &Context) -> Result<()> {
    let path = module::find("kmirror.ko")?;
    unload()?;
    let free = file::meminfo("MemFree")?;
    for (params, want) in [
        ("region=nonsense", Errno::EINVAL),
        ("region=12x", Errno::EINVAL),
        ("region=-4194304", Errno::EINVAL),
        ("region=4194304@", Errno::EINVAL),
        ("region=4194304@x", Errno::EINVAL),
        ("region=@0", Errno::EINVAL),
        ("region=4194304@0@0", Errno::EINVAL),
        // There is no memory on such a node.
        ("region=4194304@63", Errno::ENOMEM),
        ("region=4194304@1024", Errno::ERANGE),
        ("region=4096", Errno::ERANGE),
        ("region=99999999999999999999", Errno::ERANGE),
        ("region=1099511627776", Errno::ENOMEM),
    ] {
        let got = module::load(&path, params)?;
        ensure!(got == Err(want), "{params}: {got:?}, not {want}");
        ensure!(!module::is_loaded("kmirror"), "{params}: loaded");
        ensure!(
            !Path::new(mirror::ROOT).exists(),
            "{params}: something is left in sysfs"
        );
    }
    let lost = free.saturating_sub(file::meminfo("MemFree")?);
    ensure!(lost < 16 << 10, "{lost} kB are gone");

    module::load_kmirror("region=4194304@0")?;
    ensure!(mirror::region("total")? == 4 << 20);
    ensure!(mirror::region("free")? == 4 << 20);
    ensure!(file::read(mirror::region_file("node"))?.trim() == "0");
    unload()?;
    // Without a region nothing can be mirrored, but one can be made.
    module::load_kmirror("")?;
    ensure!(mirror::region("total")? == 0);
    mirror::resize(REGION)?;
    ensure!(mirror::region("total")? == REGION);
    Ok(())
}

fn finds_cgroups(cx: &Context) -> Result<()> {
    unload()?;
    let outer = cx.cgroup.child("outer")?;
    let inner = outer.child("inner")?;
    module::load_kmirror(&format!("region={REGION}"))?;
    for cgroup in [&cx.cgroup, &outer, &inner] {
        ensure!(Mirror::of(cgroup).get("mode")? == "inherit", "{cgroup:?}");
    }
    ensure!(file::read(Path::new(mirror::ROOT).join("cgroup/mirror.mode"))?.trim() == "off");
    Ok(())
}

/// In the victim: writes all the time, and looks whether what it wrote is there.
static STOP: AtomicBool = AtomicBool::new(false);
static WRITER: Mutex<Option<JoinHandle<bool>>> = Mutex::new(None);

fn write(mem: Mapping) -> bool {
    let mut round = 1;
    while !STOP.load(Ordering::Relaxed) {
        for page in 0..64 {
            if mem.load(page, 9)
                != if round == 1 {
                    crate::memory::word(page, 1, 9)
                } else {
                    round - 1
                }
            {
                return false;
            }
            mem.store(page, 9, round);
        }
        round += 1;
    }
    true
}

fn under_load(cx: &Context) -> Result<()> {
    let free = file::meminfo("MemFree")?;
    let mut rig = Rig::synced(cx, 1024)?;
    rig.mirror.set("interval_ms", "10")?;
    rig.victim.call(
        |scene, _, _| {
            let mem = scene.mem;
            *WRITER.lock().unwrap() = Some(std::thread::spawn(move || write(mem)));
            Ok(0)
        },
        0,
        0,
    )?;
    rig.mirror.wait_epochs(4)?;

    // Somebody asks for epochs all the time; that does not keep the module, and ends with it.
    let mirror = rig.mirror.clone();
    let syncing = std::thread::spawn(move || loop {
        if mirror.try_set("sync", "1").is_err() {
            return;
        }
    });
    unload()?;
    syncing.join().map_err(|_| anyhow::anyhow!("a panic"))?;
    pagemap::must_be_none_mirrored()?;
    // Frames come back one by one, and wait in lists of their CPU before they count as free.
    let want = free + REGION / 1024 * 9 / 10 - 1024 * PAGE / 1024 * 4;
    wait::until("the region's memory is free", wait::BOUND, || {
        file::try_write("/proc/sys/vm/compact_memory", "1")?;
        Ok(file::meminfo("MemFree")? >= want)
    })?;

    let right = rig.victim.call(
        |_, _, _| {
            STOP.store(true, Ordering::Relaxed);
            let writer = WRITER.lock().unwrap().take().context("no writer")?;
            Ok(u64::from(
                writer.join().map_err(|_| anyhow::anyhow!("a panic"))?,
            ))
        },
        0,
        0,
    )?;
    ensure!(right == 1, "wrong bytes");
    for page in 64..1024 {
        rig.must_be(page, 1)?;
    }

    module::load_kmirror(&format!("region={REGION}"))?;
    rig.mirror.track()?;
    rig.sync()?;
    rig.must_restore(Door::Fail, 100, 1)?;
    Ok(())
}
