// SPDX-License-Identifier: GPL-2.0

//! What is tested in L2.

use super::port::Host;
use crate::case::Case;
use crate::file;
use anyhow::{Context as _, Result};

mod doorbell;
mod file_reads;
mod heal;
mod huge;
mod kernel_reads;
mod mce;
mod region;
mod save;
mod service;
mod suspend;
mod system_call;

/// All cases.
pub fn all() -> impl Iterator<Item = &'static Case> {
    let groups: [&[Case]; 11] = [
        mce::CASES,
        huge::CASES,
        save::CASES,
        system_call::CASES,
        kernel_reads::CASES,
        file_reads::CASES,
        doorbell::CASES,
        service::CASES,
        heal::CASES,
        region::CASES,
        suspend::CASES,
    ];
    groups.into_iter().flatten()
}

/// Those that L1 wants to be run.
///
/// QEMU tells an AMD processor of an error that nobody has met in the way of a deferred error, which
/// raises no exception: the record waits in a bank until Linux looks there, every five minutes. Here
/// it looks every second.
pub fn wanted() -> Result<Vec<&'static Case>> {
    file::write(
        "/sys/devices/system/machinecheck/machinecheck0/check_interval",
        "1",
    )?;
    let names = Host::connect()?.order("cases")?;
    names
        .iter()
        .map(|name| {
            all()
                .find(|case| case.name == name)
                .with_context(|| format!("there is no case {name}"))
        })
        .collect()
}
