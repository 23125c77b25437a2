// SPDX-License-Identifier: GPL-2.0

//! `kmirrorctl unit`: what kmirror@.service runs.

use super::Context;
use crate::cli::UnitArgs;
use crate::error::{Error, Result};
use crate::setting::{self, Setting};
use crate::{system, tree, unit_file};
use std::path::Path;
use std::process::Command;

pub(super) fn run(cx: &Context, args: &UnitArgs) -> Result<()> {
    let unit = &args.unit;
    cx.system.require_mirror()?;
    let shown = show(unit)?;
    let value = |key: &str| {
        let line = shown
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default()
    };
    let path = value("ControlGroup");
    if path.is_empty() {
        return Err(Error::missing(format!(
            "{unit} has no cgroup, so it is not running; `systemctl start {unit}` starts it"
        )));
    }
    let path = tree::resolve(&cx.system, path)?;
    if args.stop {
        setting::apply(&cx.system, &path, &[Setting::new("mode", "inherit")?])?;
        return cx.print_group(&path);
    }
    // In the order in which systemd takes them.
    let names =
        std::iter::once(value("FragmentPath")).chain(value("DropInPaths").split_whitespace());
    let mut texts = Vec::new();
    for name in names.filter(|name| !name.is_empty()) {
        texts.push(system::read(Path::new(name))?);
    }
    let Some(settings) = unit_file::settings(texts.iter().map(String::as_str))? else {
        return Err(Error::usage(format!(
            "{unit} has no section {}; `systemctl edit {unit}` adds one, see docs/ctl.md",
            unit_file::SECTION
        )));
    };
    setting::apply(&cx.system, &path, &settings)?;
    cx.print_group(&path)
}

/// Asks systemd where the unit is.
fn show(unit: &str) -> Result<String> {
    let failed = |why: String| {
        Error::failed(format!(
            "systemd does not tell about {unit}: {why}; look at `systemctl status {unit}`"
        ))
    };
    let output = Command::new("systemctl")
        .args([
            "show",
            "--property=ControlGroup,FragmentPath,DropInPaths",
            "--",
            unit,
        ])
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
