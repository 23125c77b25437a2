// SPDX-License-Identifier: GPL-2.0

//! The files of /sys/kernel/kmirror, as docs/abi/ has them.

use crate::case::{Case, Context};
use crate::mirror::{self, Mirror};
use crate::{cgroup::Cgroup, file};
use anyhow::{ensure, Context as _, Result};
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "abi_files",
        "the tables of attributes: names, rights and defaults",
        files,
    ),
    Case::new(
        "abi_nonsense",
        "what is written is read as a whole, and refused before anything is changed",
        nonsense,
    ),
    Case::new(
        "abi_values",
        "what is set is what is in force, and what is read back",
        values,
    ),
    Case::new(
        "abi_cgroups",
        "the lifetime notifier: directories follow the tree of cgroups",
        cgroups,
    ),
];

/// Rights of the files of a cgroup.
const OF_CGROUP: [(&str, u32); 9] = [
    ("mirror.mode", 0o644),
    ("mirror.interval_ms", 0o644),
    ("mirror.store", 0o644),
    ("mirror.max", 0o644),
    ("mirror.current", 0o444),
    ("mirror.coverage", 0o444),
    ("mirror.stat", 0o444),
    ("mirror.events", 0o444),
    ("mirror.sync", 0o200),
];

fn must_have(dir: &Path, want: &[(&str, u32)]) -> Result<()> {
    for &(name, rights) in want {
        let path = dir.join(name);
        let meta = fs::metadata(&path).with_context(|| format!("{}", path.display()))?;
        let got = meta.permissions().mode() & 0o7777;
        ensure!(got == rights, "{}: {got:o}, not {rights:o}", path.display());
        ensure!(
            meta.uid() == 0 && meta.gid() == 0,
            "{}: not root's",
            path.display()
        );
        if rights & 0o200 == 0 {
            ensure!(
                file::try_write(&path, "1").is_err(),
                "{} is written",
                path.display()
            );
        }
        if rights & 0o400 == 0 {
            ensure!(fs::read(&path).is_err(), "{} is read", path.display());
        } else {
            let text = file::read(&path)?;
            ensure!(text.ends_with('\n'), "{}: no newline", path.display());
        }
    }
    let files: BTreeSet<_> = fs::read_dir(dir)?
        .filter_map(|entry| entry.ok().filter(|entry| entry.path().is_file()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let known: BTreeSet<_> = want.iter().map(|(name, _)| name.to_string()).collect();
    ensure!(files == known, "{}: {files:?}", dir.display());
    Ok(())
}

fn files(cx: &Context) -> Result<()> {
    let root = Path::new(mirror::ROOT);
    must_have(
        root,
        &[("version", 0o444), ("stat", 0o444), ("events", 0o444)],
    )?;
    must_have(
        &root.join("region"),
        &[
            ("total", 0o644),
            ("free", 0o444),
            ("node", 0o444),
            ("placement", 0o444),
        ],
    )?;
    must_have(&root.join("cgroup"), &OF_CGROUP)?;
    let cgroup = cx.cgroup.child("a")?;
    let mirror = Mirror::of(&cgroup);
    must_have(mirror.dir(), &OF_CGROUP)?;

    ensure!(file::number(root.join("version"))? == 2);
    let top = Mirror::of(&Cgroup::at(""));
    ensure!(top.get("mode")? == "off");
    ensure!(top.get("interval_ms")? == "1000");
    ensure!(top.get("store")? == "guest");
    ensure!(top.get("max")? == "max");
    ensure!(mirror.get("mode")? == "inherit");
    ensure!(mirror.get("max")? == "max");
    ensure!(mirror.number("current")? == 0);
    ensure!(mirror.number("coverage")? == 0, "off covers nothing");
    for key in [
        "protected",
        "current",
        "stale",
        "pinned",
        "lazyfree",
        "huge",
        "shared_foreign",
        "notifier",
        "shadow_stack",
        "no_space",
        "no_host",
        "epochs",
        "scanned",
        "copied",
        "deferred",
        "scan_ns",
        "copy_ns",
        "late",
    ] {
        ensure!(mirror.stat(key)? == 0, "{key}");
    }
    for key in ["restored", "unrestorable", "replica_lost"] {
        ensure!(mirror.event(key)? == 0, "{key}");
        file::keyed(root.join("events"), key)?;
    }
    for name in ["stat", "events"] {
        let text = mirror.get(name)?;
        let keys: BTreeSet<_> = text
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        ensure!(
            keys.len() == text.lines().count(),
            "a key of mirror.{name} comes twice"
        );
    }
    Ok(())
}

fn nonsense(cx: &Context) -> Result<()> {
    let (cgroup, mirror) = cx.tracked("a")?;
    let _ = cgroup;
    mirror.set("interval_ms", "5000")?;
    mirror.set("max", "1048576")?;
    let top = Mirror::of(&Cgroup::at(""));
    let total = mirror::region_file("total");
    let (einval, erange) = (Errno::EINVAL, Errno::ERANGE);
    let mut table: Vec<(PathBuf, &str, Errno)> = Vec::new();
    for text in [
        "",
        "\n",
        "on",
        "Off",
        "tracked off",
        "trackedx",
        "0",
        "off\0",
        "strict",
    ] {
        table.push((mirror.file("mode"), text, einval));
    }
    table.push((top.file("mode"), "inherit", einval));
    for text in [
        "",
        "Guest",
        "region",
        "guest host",
        "host+guest",
        "guest+",
        "0",
    ] {
        table.push((mirror.file("store"), text, einval));
    }
    table.push((top.file("store"), "inherit", einval));
    for text in ["", "x", "-1", "100x", "1 2", "0x10", "1e3", "Inherit", "١"] {
        table.push((mirror.file("interval_ms"), text, einval));
    }
    table.push((top.file("interval_ms"), "inherit", einval));
    for text in ["0", "9", "600001", "99999999999999999999"] {
        table.push((mirror.file("interval_ms"), text, erange));
    }
    for text in ["", "x", "-1", "maximum", "10Q", "1 M", "Max"] {
        table.push((mirror.file("max"), text, einval));
    }
    table.push((mirror.file("max"), "99999999999999999999", erange));
    for text in ["", "0", "2", "x", "11", "-1", "1 1"] {
        table.push((mirror.file("sync"), text, einval));
    }
    for text in ["", "x", "-1", "12x", "1 2", "4194304@0"] {
        table.push((total.clone(), text, einval));
    }
    for text in ["4096", "99999999999999999999", "16E"] {
        table.push((total.clone(), text, erange));
    }

    let read = |path: &Path| fs::read_to_string(path).ok();
    for (path, text, want) in table {
        let before = read(&path);
        let got = file::try_write(&path, text);
        // An empty write never reaches the file.
        if text.is_empty() {
            continue;
        }
        let errno = got.err().and_then(|error| error.raw_os_error());
        ensure!(
            errno == Some(want as i32),
            "{text:?} to {}: {errno:?}, not {want}",
            path.display()
        );
        ensure!(
            read(&path) == before,
            "{text:?} has changed {}",
            path.display()
        );
    }
    let missing = mirror.dir().join("mirror.nothing");
    ensure!(file::try_write(missing, "1").is_err());
    Ok(())
}

fn values(cx: &Context) -> Result<()> {
    let cgroup = cx.cgroup.child("a")?;
    let mirror = Mirror::of(&cgroup);
    let below = Mirror::of(&cgroup.child("b")?);
    for mode in ["tracked", "off", "inherit", "tracked", "tracked", "inherit"] {
        mirror.set("mode", mode)?;
        ensure!(mirror.get("mode")? == mode);
        // With a newline, as echo writes it.
        mirror.set("mode", &format!("{mode}\n"))?;
        ensure!(below.get("mode")? == "inherit");
    }
    for ms in ["10", "600000", "1234"] {
        mirror.set("interval_ms", ms)?;
        ensure!(mirror.get("interval_ms")? == ms);
        ensure!(
            below.get("interval_ms")? == ms,
            "what is inherited is what is in force"
        );
    }
    below.set("interval_ms", "77")?;
    ensure!(below.get("interval_ms")? == "77" && mirror.get("interval_ms")? == "1234");
    below.set("interval_ms", "inherit")?;
    ensure!(below.get("interval_ms")? == "1234");
    mirror.set("interval_ms", "inherit")?;
    ensure!(below.get("interval_ms")? == "1000");
    for store in ["guest", "inherit"] {
        mirror.set("store", store)?;
        ensure!(mirror.get("store")? == "guest" && below.get("store")? == "guest");
    }
    for max in ["0", "4096", "1048576", "max"] {
        mirror.set("max", max)?;
        ensure!(mirror.get("max")? == max);
    }
    mirror.set("max", "1M")?;
    ensure!(mirror.get("max")? == "1048576");
    Ok(())
}

fn cgroups(cx: &Context) -> Result<()> {
    let before = fs::read_dir(Path::new(mirror::ROOT).join("cgroup"))?.count();
    for round in 0..3 {
        let outer = cx.cgroup.child("outer")?;
        let inner = outer.child("inner")?;
        let dirs = [Mirror::of(&outer), Mirror::of(&inner)];
        for mirror in &dirs {
            ensure!(
                mirror.dir().is_dir(),
                "round {round}: {}",
                mirror.dir().display()
            );
            mirror.track()?;
        }
        // Modes of a life before have nothing to do with the next.
        ensure!(dirs[1].get("mode")? == "tracked");
        inner.remove()?;
        ensure!(!dirs[1].dir().exists(), "round {round}: still there");
        ensure!(dirs[0].dir().is_dir());
        outer.remove()?;
        ensure!(!dirs[0].dir().exists(), "round {round}: still there");
        let fresh = cx.cgroup.child("outer")?;
        ensure!(Mirror::of(&fresh).get("mode")? == "inherit");
        fresh.remove()?;
    }
    ensure!(fs::read_dir(Path::new(mirror::ROOT).join("cgroup"))?.count() == before);
    Ok(())
}
