// SPDX-License-Identifier: GPL-2.0

//! Cgroups that come and go, and processes that join, leave, fork and die.

use crate::case::{Case, Context};
use crate::cgroup::Cgroup;
use crate::inject::Door;
use crate::memory::Mapping;
use crate::mirror::{self, Mirror};
use crate::rig::{self, Rig};
use crate::victim::Victim;
use crate::{file, pagemap, PAGE};
use anyhow::{ensure, Context as _, Result};
use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::{fork, ForkResult};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;
use std::thread::JoinHandle;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "inherit",
        "a cgroup without a mode of its own follows its parent, and its parent's epochs",
        inherit,
    ),
    Case::new(
        "cgroup_removed",
        "the lifetime notifier: what was kept for a cgroup goes with it",
        removed,
    ),
    Case::new(
        "cgroup_removed_while_syncing",
        "removing a cgroup ends its worker and wakes those who wait for it",
        removed_while_syncing,
    ),
    Case::new(
        "task_moves",
        "an epoch looks at the processes that are in the cgroup now",
        moves,
    ),
    Case::new(
        "tasks_come_and_go",
        "an address space is held while an epoch walks it",
        come_and_go,
    )
    .limit(90),
];

fn inherit(cx: &Context) -> Result<()> {
    let (parent, mirror) = cx.tracked("parent")?;
    let child = parent.child("child")?;
    let apart = parent.child("apart")?;
    ensure!(Mirror::of(&child).get("mode")? == "inherit");
    Mirror::of(&apart).set("mode", "off")?;
    let victim = Victim::start(&child, 8, 1)?;
    let open = Victim::start(&apart, 8, 1)?;
    mirror.sync()?;
    let mut rig = Rig {
        mirror: Mirror::of(&child),
        cgroup: child,
        victim,
    };
    rig.must_be_mirrored(0)?;
    rig.must_restore(Door::Fail, 0, 1)?;
    ensure!(mirror.event("restored")? == 1, "the parent's events");
    ensure!(mirror.number("current")? >= rig.mirror.number("current")?);
    let frame = pagemap::frame(open.pid, open.mem.addr(0))?;
    ensure!(
        pagemap::flags(frame)? & pagemap::MIRRORED == 0,
        "off, and mirrored"
    );

    // The child's own word counts, and is taken back.
    rig.mirror.set("mode", "off")?;
    rig.must_not_be_mirrored(1)?;
    mirror.sync()?;
    rig.must_not_be_mirrored(1)?;
    rig.mirror.set("mode", "inherit")?;
    mirror.sync()?;
    rig.must_restore(Door::Fail, 1, 1)?;
    mirror.set("mode", "off")?;
    rig.must_not_be_mirrored(2)
}

fn removed(cx: &Context) -> Result<()> {
    let before = mirror::region("free")?;
    let rig = Rig::synced(cx, 256)?;
    ensure!(
        mirror::region("free")? <= before - 256 * PAGE,
        "replicas take no room"
    );
    let Rig {
        cgroup,
        mirror,
        victim,
    } = rig;
    victim.end()?;
    cgroup.wait_event("populated", 0, crate::wait::BOUND)?;
    cgroup.remove()?;
    ensure!(!mirror.dir().exists(), "its directory is still there");
    let after = mirror::region("free")?;
    ensure!(
        after == before,
        "{} bytes are not given back",
        before - after
    );

    // One of the same name has nothing to do with it.
    let cgroup = cx.cgroup.child("a")?;
    let mirror = Mirror::of(&cgroup);
    ensure!(mirror.get("mode")? == "inherit" && mirror.number("current")? == 0);
    Ok(())
}

fn removed_while_syncing(cx: &Context) -> Result<()> {
    let (parent, mirror) = cx.tracked("parent")?;
    let _victim = Victim::start(&parent, 64, 1)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        // Everything below the parent, whatever is there.
        let syncing = scope.spawn(|| -> Result<u64> {
            let mut epochs = 0;
            while !stop.load(Ordering::Relaxed) {
                mirror.sync().context("of the parent")?;
                epochs += 1;
            }
            Ok(epochs)
        });
        let result = (0..12).try_for_each(|round| come_and_be_gone(&parent, round));
        stop.store(true, Ordering::Relaxed);
        let epochs = syncing.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        ensure!(epochs > 0, "no epoch has run");
        result
    })
}

/// A mirrored cgroup with somebody in it, removed while an epoch of its own is asked for.
fn come_and_be_gone(parent: &Cgroup, round: u64) -> Result<()> {
    let cgroup = parent.child(&format!("child{round}"))?;
    let mirror = Mirror::of(&cgroup);
    mirror.track()?;
    let victim = Victim::start(&cgroup, 128, 1)?;
    std::thread::scope(|scope| -> Result<()> {
        let syncing = scope.spawn(|| loop {
            if let Err(error) = mirror.try_set("sync", "1") {
                return error;
            }
        });
        let removal = (|| -> Result<()> {
            victim.end()?;
            cgroup.wait_event("populated", 0, crate::wait::BOUND)?;
            Ok(cgroup.remove()?)
        })();
        if removal.is_err() {
            // Ends the thread in any case.
            mirror.set("mode", "off")?;
        }
        let error = syncing.join().map_err(|_| anyhow::anyhow!("a panic"))?;
        let gone = [libc::ENODEV, libc::ENOENT].map(Some);
        ensure!(gone.contains(&error.raw_os_error()), "mirror.sync: {error}");
        removal
    })
}

fn moves(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 32)?;
    let (other, its_mirror) = cx.tracked("b")?;
    let open = cx.cgroup.child("open")?;
    let pid = rig.victim.pid;

    // To another that is mirrored: safe on the way, and after.
    other.add(pid)?;
    let (home, own) = (rig.cgroup.clone(), rig.mirror.clone());
    (rig.cgroup, rig.mirror) = (other, its_mirror);
    let restored =
        |rig: &Rig| -> Result<u64> { Ok(own.event("restored")? + rig.mirror.event("restored")?) };
    rig.strike(Door::Fail, 0)?;
    rig.must_be(0, 1)?;
    ensure!(restored(&rig)? == 1);
    rig.fill(1, 2)?;
    rig.sync()?;
    rig.strike(Door::Fail, 1)?;
    rig.must_be(1, 2)?;
    rig.strike(Door::Mce, 2)?;
    rig.must_be(2, 1)?;
    ensure!(restored(&rig)? == 3, "{} restored", restored(&rig)?);

    // To one that is not: nothing new is copied for it.
    open.add(pid)?;
    let from = std::mem::replace(&mut rig.cgroup, open);
    rig.fill(3, 2)?;
    rig.sync()?;
    Mirror::of(&home).sync()?;
    rig.must_lose(Door::Fail, 3)?;
    rig.must_not_lie(Door::Fail, 4, 1)?;

    // And back.
    from.add(pid)?;
    rig.cgroup = from;
    rig.fill(5, 2)?;
    rig.sync()?;
    rig.strike(Door::Fail, 5)?;
    rig.must_be(5, 2)?;
    for page in 6..32 {
        rig.must_be(page, 1)?;
    }
    Ok(())
}

/// In the victim that makes others come and go.
static STOP: AtomicBool = AtomicBool::new(false);
static CHURN: Mutex<Option<JoinHandle<Result<u64, Errno>>>> = Mutex::new(None);

/// Forks a process that writes some pages and is gone, again and again.
fn churn(mem: Mapping) -> Result<u64, Errno> {
    let mut born = 0;
    while !STOP.load(Ordering::Relaxed) {
        // SAFETY: The child only writes memory that nobody holds a lock for, and ends.
        match unsafe { fork() }? {
            ForkResult::Child => {
                for page in 0..mem.pages() {
                    mem.store(page, born % 512, born);
                }
                // SAFETY: Ends the process.
                unsafe { libc::_exit(0) };
            }
            ForkResult::Parent { child } => {
                waitpid(child, None)?;
                born += 1;
            }
        }
    }
    Ok(born)
}

fn come_and_go(cx: &Context) -> Result<()> {
    let before = mirror::region("free")?;
    let mut rig = Rig::synced(cx, 64)?;
    let mut churner = Victim::start(&rig.cgroup, 64, 1)?;
    churner.call(
        |scene, _, _| {
            let mem = scene.mem;
            *CHURN.lock().unwrap() = Some(std::thread::spawn(move || churn(mem)));
            Ok(0)
        },
        0,
        0,
    )?;
    for round in 0..20 {
        rig.fill(round, 2)?;
        rig.sync()?;
        rig.must_restore(Door::ALL[round as usize % 5], round, 2)?;
        rig.must_restore(Door::Fail, 63 - round, 1)?;
        // A process that joins in the middle is there for the next epoch.
        if round % 5 == 0 {
            let mut guest = Victim::start(&rig.cgroup, 8, 4)?;
            rig.sync()?;
            let frame = pagemap::frame(guest.pid, guest.mem.addr(0))?;
            crate::inject::strike(&rig.cgroup, "fail", frame)??;
            let seen = rig::seen(&mut guest, 0, 4)?;
            ensure!(
                seen == crate::memory::Seen::Right,
                "a process that has joined: {seen:?}"
            );
        }
    }
    let born = churner.call(
        |_, _, _| {
            STOP.store(true, Ordering::Relaxed);
            let churn = CHURN.lock().unwrap().take().context("no churn")?;
            Ok(churn.join().map_err(|_| anyhow::anyhow!("a panic"))??)
        },
        0,
        0,
    )?;
    println!("{born} processes have come and gone");
    ensure!(born >= 10, "only {born} processes have come and gone");

    // Off, and what was kept for any of them is free, dead or alive.
    rig.mirror.set("mode", "off")?;
    ensure!(rig.mirror.number("current")? == 0);
    let retired = file::keyed("/sys/kernel/kmirror/stat", "retired")?;
    ensure!(mirror::region("free")? == before, "retired {retired}");
    Ok(())
}
