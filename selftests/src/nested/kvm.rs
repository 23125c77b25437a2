// SPDX-License-Identifier: GPL-2.0

//! L1's KVM, with the project's patches or without; and what it has done for L2, by its tracepoints.

use crate::{file, module};
use anyhow::{bail, ensure, Context, Result};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const TRACING: &str = "/sys/kernel/tracing";

/// `KVM_HC_KMIRROR_KICK`.
const KICK: u32 = 13;

/// Loads KVM as the patches of `patches/kvm` make it, or as it was without them. No L2 is running.
pub fn load(patched: bool) -> Result<()> {
    // tools/nested/host has loaded the first.
    static PATCHED: AtomicBool = AtomicBool::new(true);
    const UNPATCHED: &str = "/kmirror/l1/kvm-unpatched.ko";
    if PATCHED.load(Relaxed) == patched {
        return Ok(());
    }
    let vendor = ["kvm_amd", "kvm_intel"]
        .into_iter()
        .find(|name| module::is_loaded(name));
    let vendor = vendor.context("no KVM is loaded")?;
    for name in [vendor, "kvm"] {
        module::unload(name).with_context(|| format!("unloading {name}"))?;
    }
    if !patched {
        ensure!(
            Path::new(UNPATCHED).exists(),
            "the kernel has no kvm-unpatched.ko beside its kvm.ko"
        );
        if let Err(errno) = module::load(Path::new(UNPATCHED), "")? {
            bail!("{UNPATCHED}: {errno}");
        }
    }
    ensure!(module::probe(vendor), "{vendor} cannot be loaded");
    PATCHED.store(patched, Relaxed);
    Ok(())
}

/// Counts from now on.
pub fn count_hypercalls() -> Result<()> {
    let event = format!("{TRACING}/events/kvm/kvm_hypercall");
    file::write(format!("{event}/filter"), &format!("nr == {KICK}"))?;
    file::write(format!("{TRACING}/trace"), "")?;
    file::write(format!("{event}/enable"), "1")
}

/// How often the doorbell was rung since then. Nothing else is traced, and what a full ring has lost is
/// counted, too.
pub fn kicks() -> Result<u64> {
    let mut count = 0;
    for cpu in std::fs::read_dir(format!("{TRACING}/per_cpu"))? {
        let stats = cpu?.path().join("stats");
        let text = file::read(&stats)?;
        for key in ["entries", "overrun", "dropped events", "read events"] {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            let number = line.with_context(|| format!("no {key} in {}", stats.display()))?;
            count += number.trim().parse::<u64>()?;
        }
    }
    Ok(count)
}
