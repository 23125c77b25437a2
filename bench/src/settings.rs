// SPDX-License-Identifier: GPL-2.0

//! What the host has asked for, on the kernel's command line.

use anyhow::{Context, Result};
use kmirror_selftests::file;
use std::str::FromStr;

/// A setting; `bench.NAME=` on the command line.
pub(crate) fn text(name: &str) -> Result<String> {
    let line = file::read("/proc/cmdline")?;
    let key = format!("bench.{name}=");
    let word = line.split_whitespace().find_map(|w| w.strip_prefix(&key));
    Ok(word.with_context(|| format!("no {key}"))?.to_owned())
}

/// One that is a number.
pub(crate) fn number<T: FromStr>(name: &str) -> Result<T> {
    let text = text(name)?;
    let number = text.parse().ok();
    number.with_context(|| format!("bench.{name}={text} is no number"))
}

/// Whether the guest's clock counts instructions. Otherwise it shows the time of day.
pub(crate) fn counting() -> Result<bool> {
    Ok(text("clock")? == "instructions")
}
