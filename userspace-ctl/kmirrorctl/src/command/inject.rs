// SPDX-License-Identifier: GPL-2.0

//! `kmirrorctl inject`.

use super::Context;
use crate::cli::InjectArgs;
use crate::drill::{self, Door, Outcome, Target};
use crate::error::{Error, Kind, Result};
use crate::{page, tree};
use nix::unistd::Uid;
use serde::Serialize;
use std::io::Read;

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    target: &'a Target,
    door: Door,
    outcome: Outcome,
}

pub(super) fn run(cx: &Context, args: &InjectArgs) -> Result<()> {
    cx.system.require_mirror()?;
    if cx.system.is_running() && !Uid::effective().is_root() {
        return Err(Error::new(
            Kind::Denied,
            "memory is broken by root only; run this with sudo",
        ));
    }
    let target = match (&args.path, args.pid, &args.addr) {
        (Some(path), None, None) => {
            let path = tree::resolve(&cx.system, path)?;
            Target::random(&cx.system, &path, random()?)?
        }
        (None, Some(pid), Some(addr)) => Target::at(&cx.system, pid, page::address(addr)?)?,
        _ => {
            return Err(Error::usage(
                "say which page: a cgroup for a random covered page of it; or --pid and --addr",
            ))
        }
    };
    let door = Door::find(&cx.system)?;
    if !args.yes {
        return Err(Error::new(Kind::Unconfirmed, warning(&target)));
    }
    let outcome = drill::strike(&cx.system, door, &target)?;
    let report = Report {
        target: &target,
        door,
        outcome,
    };
    cx.print(&report, |_| sentence(&target, outcome))?;
    match outcome {
        Outcome::Restored(_) | Outcome::Dropped => Ok(()),
        Outcome::Lost => Err(Error::new(Kind::Lost, "")),
        Outcome::Unharmed => Err(Error::failed(
            "the kernel took the report and left the page alone; `dmesg` says why",
        )),
    }
}

fn warning(target: &Target) -> String {
    let Target {
        pid,
        address,
        frame,
        cgroup,
        ..
    } = target;
    let risk = if target.mirrored {
        "it has a replica, but if it was written since its last epoch, it is lost and the process is killed"
    } else {
        "it has NO current replica, so the process will be KILLED when it touches it"
    };
    let shared = match target.mapped {
        Some(mapped) if mapped > 1 => format!(", mapped {mapped} times, so others may be hit too"),
        _ => String::new(),
    };
    format!(
        "WARNING: this reports frame {frame:#x} as broken, the page at {address:#x} of process {pid} in {cgroup}{shared}; \
         {risk}; the frame stays out of use until the next boot; nothing was done, add --yes to do it"
    )
}

fn sentence(target: &Target, outcome: Outcome) -> String {
    let Target {
        pid,
        address,
        frame,
        ..
    } = target;
    let became = match outcome {
        Outcome::Restored(Some(to)) => format!("restored to frame {to:#x}"),
        Outcome::Restored(None) => "restored; it is mapped when it is touched".into(),
        Outcome::Lost => "LOST; the next one to touch it is killed".into(),
        Outcome::Dropped => "dropped; it is read again when it is needed".into(),
        Outcome::Unharmed => "left alone".into(),
    };
    format!("page {address:#x} of process {pid}, frame {frame:#x}: {became}\n")
}

/// A random number from the kernel.
fn random() -> Result<u64> {
    let path = std::path::Path::new("/dev/urandom");
    let mut bytes = [0; 8];
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Error::file(path, &error))?;
    Ok(u64::from_ne_bytes(bytes))
}
