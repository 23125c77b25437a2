// SPDX-License-Identifier: GPL-2.0

//! kmirrorctl with the real module: what it sets is in force, and what it says is so.

use crate::case::{skip, Case, Context};
use crate::mirror::NEVER_MS;
use crate::rig::Rig;
use crate::{module, pagemap};
use anyhow::{ensure, Context as _, Result};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "ctl_settings",
        "kmirrorctl: what on, set, sync and off write, and what status and doctor make of it",
        settings,
    ),
    Case::new(
        "ctl_inject",
        "kmirrorctl inject: nothing without --yes, a covered page with it, and never another one",
        inject,
    ),
];

/// A user that is not root.
const NOBODY: u32 = 65534;

/// kmirrorctl as built by tools/tools, beside the selftests or in the path.
struct Ctl(PathBuf);

impl Ctl {
    fn find() -> Result<Self> {
        if let Ok(path) = module::find("tools/kmirrorctl") {
            return Ok(Self(path));
        }
        let installed = Path::new("/usr/bin/kmirrorctl");
        if !installed.is_file() {
            skip!("kmirrorctl is not built");
        }
        Ok(Self(installed.to_owned()))
    }

    /// Runs it. Its exit status, and what it has said.
    fn run(&self, args: &[&str]) -> Result<(i32, String)> {
        self.run_as(0, args)
    }

    /// The same, as this user.
    fn run_as(&self, uid: u32, args: &[&str]) -> Result<(i32, String)> {
        let output = Command::new(&self.0)
            .args(args)
            .uid(uid)
            .output()
            .with_context(|| format!("{}", self.0.display()))?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text += &String::from_utf8_lossy(&output.stderr);
        let status = output.status.code().context("kmirrorctl was killed")?;
        Ok((status, text))
    }

    /// Runs it; this status and these words must come out.
    fn must(&self, args: &[&str], status: i32, words: &str) -> Result<()> {
        let (got, text) = self.run(args)?;
        ensure!(
            got == status && text.contains(words),
            "kmirrorctl {args:?} has status {got}, not {status} with {words:?}:\n{text}"
        );
        Ok(())
    }
}

fn settings(cx: &Context) -> Result<()> {
    let ctl = Ctl::find()?;
    let mut rig = Rig::new(cx, 64)?;
    let mirror = rig.mirror.clone();
    let path = format!("/{}", rig.cgroup.path().display());
    let pid = rig.victim.pid.to_string();
    let first = format!("{:#x}", rig.mem().addr(0));

    ctl.must(&["off", &path], 0, "is off")?;
    ensure!(mirror.get("mode")? == "off");
    ctl.must(&["doctor", &path], 7, "is not protected")?;
    ctl.must(
        &["doctor", "--pid", &pid, "--addr", &first],
        0,
        "is not protected",
    )?;

    ctl.must(
        &["on", &path, "-i", NEVER_MS, "-m", "32M", "-s"],
        0,
        "covered",
    )?;
    ensure!(mirror.get("mode")? == "tracked");
    ensure!(mirror.get("interval_ms")? == NEVER_MS);
    ensure!(mirror.number("max")? == 32 << 20);
    rig.must_be_mirrored(0)?;

    ctl.must(
        &["set", &path, "max=16M", "mode=tracked"],
        0,
        "max is 16777216",
    )?;
    ctl.must(&["set", &path, "max=8M", "mode=strange"], 1, "no mode")?;
    ensure!(mirror.number("max")? == 16 << 20, "half of it was set");

    // What has been written is not covered, and the doctor must not say that it is.
    rig.fill(0, 2)?;
    ensure!(mirror.stat("stale")? > 0);
    let one = ["doctor", "--json", "--pid", &pid, "--addr", &first];
    let (_, text) = ctl.run(&one)?;
    ensure!(!text.contains(r#""state": "current""#), "written:\n{text}");
    ctl.must(&["sync", &path], 0, "synchronised")?;
    rig.must_be_mirrored(0)?;
    if mirror.stat("stale")? == 0 {
        ctl.must(&one, 0, r#""state": "current""#)?;
    }
    ctl.must(&["status"], 0, &path)?;
    ctl.must(
        &["status", "--json", &path],
        0,
        r#""mode_in_force": "tracked""#,
    )?;
    ctl.must(&["status", "/no/such"], 4, "there is no cgroup")?;
    Ok(())
}

fn inject(cx: &Context) -> Result<()> {
    let ctl = Ctl::find()?;
    if !module::probe("hwpoison-inject") {
        skip!("no hwpoison-inject");
    }
    const PAGES: u64 = 64;
    let mut rig = Rig::synced(cx, PAGES)?;
    let path = format!("/{}", rig.cgroup.path().display());
    let pid = rig.victim.pid.to_string();
    let addr = format!("{:#x}", rig.mem().addr(7));
    let one = ["inject", "--pid", &pid, "--addr", &addr];

    let (frame, before) = (rig.frame(7)?, rig.counters()?);
    ctl.must(&one, 6, "WARNING")?;
    ctl.must(&["inject", &path], 6, "WARNING")?;
    ensure!(
        rig.frame(7)? == frame && rig.counters()? == before,
        "without --yes"
    );

    let mut really = one.to_vec();
    really.push("--yes");
    let (status, text) = ctl.run_as(NOBODY, &really)?;
    ensure!(
        status == 5 && text.contains("by root only"),
        "not root, and {status}: {text}"
    );
    ensure!(
        rig.frame(7)? == frame && rig.counters()? == before,
        "without being root"
    );

    ctl.must(&really, 0, "restored to frame")?;
    ensure!(rig.frame(7)? != frame, "it is where it was");
    ensure!(pagemap::flags(frame)? & pagemap::HWPOISON != 0);
    ensure!(rig.counters()?.restored == before.restored + 1);
    rig.must_be(7, 1)?;

    // A random one of the cgroup, wherever it is in the process, which has written to its stack meanwhile.
    rig.sync()?;
    ctl.must(&["inject", &path, "--yes"], 0, "restored")?;
    ensure!(rig.counters()?.restored == before.restored + 2);
    for page in 0..PAGES {
        rig.must_be(page, 1)?;
    }
    ctl.must(&["events", &path], 0, "restored      2")?;

    // One that was written since is lost, and that has a status of its own.
    rig.fill(9, 2)?;
    let addr = format!("{:#x}", rig.mem().addr(9));
    let lost = ["inject", "--pid", &pid, "--addr", &addr, "--yes"];
    ctl.must(&lost, 8, "LOST")?;
    Ok(())
}
