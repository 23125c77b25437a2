// SPDX-License-Identifier: GPL-2.0

//! What L1's KVM has done for L2, by its tracepoints.

use crate::file;
use anyhow::{Context, Result};

const TRACING: &str = "/sys/kernel/tracing";

/// `KVM_HC_KMIRROR_KICK`.
const KICK: u32 = 13;

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
