// SPDX-License-Identifier: GPL-2.0

//! `kmirrorctl on`, `off`, `set` and `sync`.

use super::Context;
use crate::cli::{OffArgs, OnArgs, PathArg, SetArgs};
use crate::error::Result;
use crate::group::Group;
use crate::region::Region;
use crate::setting::{self, Setting};
use crate::units;

pub(super) fn on(cx: &Context, args: &OnArgs) -> Result<()> {
    let path = cx.resolve(Some(&args.path))?;
    let mut settings = Vec::new();
    if let Some(interval) = &args.interval {
        settings.push(Setting::new("interval_ms", interval)?);
    }
    if let Some(max) = &args.max {
        settings.push(Setting::new("max", max)?);
    }
    // Last, so that its first epoch goes by the other two.
    settings.push(Setting::new("mode", &args.mode)?);
    setting::apply(&cx.system, &path, &settings)?;
    if args.sync {
        setting::sync(&cx.system, &path)?;
    }
    if Region::read(&cx.system)?.total == 0 {
        eprintln!("kmirrorctl: the region is empty, so nothing is covered yet; `kmirrorctl region 1G` makes one");
    }
    done(cx, &path, |group| {
        let covered = covered(group);
        format!("{path} is {}{covered}\n", group.mode_in_force)
    })
}

pub(super) fn off(cx: &Context, args: &OffArgs) -> Result<()> {
    let path = cx.resolve(Some(&args.path))?;
    let mode = if args.inherit { "inherit" } else { "off" };
    setting::apply(&cx.system, &path, &[Setting::new("mode", mode)?])?;
    done(cx, &path, |group| {
        if group.is_protected() {
            format!("{path} is {}, as its parent\n", group.mode_in_force)
        } else {
            format!("{path} is off\n")
        }
    })
}

pub(super) fn set(cx: &Context, args: &SetArgs) -> Result<()> {
    let path = cx.resolve(Some(&args.path))?;
    let settings: Vec<Setting> = args
        .settings
        .iter()
        .map(|text| Setting::parse(text))
        .collect::<Result<_>>()?;
    setting::apply(&cx.system, &path, &settings)?;
    // What is in force may be rounded, or inherited.
    let mut text = String::new();
    for Setting { key, .. } in &settings {
        let value = setting::value(&cx.system, &path, key)?;
        text.push_str(&format!("{path}: {key} is {value}\n"));
    }
    done(cx, &path, |_| text)
}

pub(super) fn sync(cx: &Context, args: &PathArg) -> Result<()> {
    let path = cx.resolve(Some(&args.path))?;
    setting::sync(&cx.system, &path)?;
    done(cx, &path, |group| {
        if group.is_protected() {
            format!("{path} is synchronised{}\n", covered(group))
        } else {
            format!(
                "{path} is off, so there was nothing to do; `kmirrorctl on {path}` protects it\n"
            )
        }
    })
}

/// ": 99.98 % of 15.2 MiB covered".
fn covered(group: &Group) -> String {
    match group.coverage_ppm {
        Some(ppm) if group.stat("protected") > 0 => format!(
            ": {} of {} covered",
            units::percent(ppm),
            units::bytes(group.protected_bytes())
        ),
        _ => ": no memory to protect yet".into(),
    }
}

/// Says in one line what is now, or in JSON all of it.
fn done(cx: &Context, path: &str, text: impl FnOnce(&Group) -> String) -> Result<()> {
    let group = cx.group(path)?;
    cx.print(&group, |_| text(&group))
}
