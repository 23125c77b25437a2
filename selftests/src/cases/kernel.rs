// SPDX-License-Identifier: GPL-2.0

//! Tests that are the kernel's own: of memory failure, with kmirror loaded and nothing protected, and of
//! the doorbell that patches/kvm adds to KVM.

use super::kvm::need_kvm;
use crate::case::{skip, Case, Context};
use crate::module;
use crate::zram::Zram;
use anyhow::{ensure, Result};
use nix::mount::{mount, umount, MsFlags};
use std::path::PathBuf;
use std::process::Command;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "kernel_memory_failure",
        "what memory_failure() does for a page that is not mirrored is unchanged",
        unchanged,
    ),
    Case::new(
        "kernel_kvm_doorbell",
        "the hypercall of patches/kvm rings ioeventfds, and answers -KVM_ENOSYS to all else",
        doorbell,
    ),
];

/// A mounted file system of its own; the test's page cache cases need one that is not tmpfs.
struct Mount {
    dir: PathBuf,
    _disk: Zram,
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = umount(&self.dir);
    }
}

fn scratch() -> Result<Mount> {
    let disk = Zram::new(32 << 20)?;
    let made = Command::new("mkfs.ext4")
        .arg("-q")
        .arg(disk.device())
        .status();
    if !made.is_ok_and(|status| status.success()) {
        skip!("no mkfs.ext4");
    }
    let dir = std::env::temp_dir().join(format!("kmirror-test-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let none: Option<&str> = None;
    mount(
        Some(&disk.device()),
        &dir,
        Some("ext4"),
        MsFlags::empty(),
        none,
    )?;
    Ok(Mount { dir, _disk: disk })
}

fn unchanged(_: &Context) -> Result<()> {
    let Ok(program) = module::find("memory-failure") else {
        skip!("memory-failure was not built: no kernel source");
    };
    let program = program.canonicalize()?;
    if !module::probe("hwpoison-inject") {
        skip!("no hwpoison-inject");
    }
    let scratch = scratch()?;
    let run = Command::new(program).current_dir(&scratch.dir).output()?;
    let text = String::from_utf8_lossy(&run.stdout);
    println!("{text}");
    let results = |word: &str| text.lines().filter(|line| line.starts_with(word)).count();
    ensure!(run.status.success(), "it ended with {}", run.status);
    ensure!(results("not ok") == 0, "some of it failed");
    ensure!(!text.contains("# SKIP"), "some of it was skipped");
    // Three kinds of pages, broken hard and soft.
    ensure!(results("ok ") == 6, "{} results, not 6", results("ok "));
    Ok(())
}

fn doorbell(_: &Context) -> Result<()> {
    let Ok(program) = module::find("kmirror_kick_test") else {
        skip!("kmirror_kick_test was not built: no kernel source with patches/kvm");
    };
    need_kvm()?;
    let run = Command::new(program.canonicalize()?).output()?;
    let text = String::from_utf8_lossy(&run.stdout);
    println!("{text}{}", String::from_utf8_lossy(&run.stderr));
    let results = |word: &str| text.lines().filter(|line| line.starts_with(word)).count();
    ensure!(run.status.success(), "it ended with {}", run.status);
    ensure!(results("not ok") == 0, "some of it failed");
    ensure!(results("ok ") == 5, "{} results, not 5", results("ok "));
    Ok(())
}
