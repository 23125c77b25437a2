// SPDX-License-Identifier: GPL-2.0

//! What a soak needs of the machine: disks, file systems, huge pages, and an ear for the kernel. All
//! of it is taken back when the value goes.

use super::deed::{BLOCKS, DISK};
use super::influence::{ASLEEP, KHUGEPAGED};
use super::kind::{DIR, KINDS};
use super::trace::Trace;
use crate::kmsg::Log;
use crate::zram::Zram;
use crate::{file, module, PAGE};
use anyhow::{ensure, Context, Result};
use nix::mount::{mount, umount, MsFlags};
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Huge pages for hugetlb: enough for all areas there are at a time, and for the copies of forked
/// children.
const HUGE_PAGES: u64 = 48;
const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";

/// The machine, made ready.
pub(super) struct Machine {
    pub(super) listener: UnixListener,
    pub(super) trace: Trace,
    pub(super) log: Log,
    /// Settings to be put back.
    settings: Vec<(PathBuf, String)>,
    mounts: Vec<PathBuf>,
    _disks: Vec<Zram>,
}

impl Machine {
    /// Makes it ready.
    pub(super) fn new() -> Result<Self> {
        module::provide()?;
        let _ = fs::remove_dir_all(DIR);
        fs::create_dir_all(DIR)?;
        let mut swap = Zram::new(1 << 30)?;
        swap.swap_on()?;
        let disk = Zram::new(BLOCKS * PAGE)?;
        std::os::unix::fs::symlink(disk.device(), DISK)?;
        let mut machine = Self {
            listener: UnixListener::bind(super::actor::socket_path())?,
            trace: Trace::new()?,
            log: Log::from_now()?,
            settings: Vec::new(),
            mounts: Vec::new(),
            _disks: vec![swap, disk],
        };
        machine.mount("tmpfs", "tmpfs", Some("size=256m"))?;
        machine.make_ext4()?;
        machine.set_all();
        let root = Path::new(crate::cgroup::ROOT);
        file::write(root.join("cgroup.subtree_control"), "+memory")
            .context("no memory controller")?;
        Ok(machine)
    }

    fn mount(&mut self, device: &str, kind: &str, options: Option<&str>) -> Result<()> {
        let at = Path::new(DIR).join(kind);
        fs::create_dir_all(&at)?;
        mount(Some(device), &at, Some(kind), MsFlags::empty(), options)
            .with_context(|| format!("mounting {kind}"))?;
        self.mounts.push(at);
        Ok(())
    }

    fn make_ext4(&mut self) -> Result<()> {
        if !file::read("/proc/filesystems")?.contains("\text4\n") {
            return Ok(());
        }
        let disk = Zram::new(128 << 20)?;
        let device = disk.device().to_string_lossy().into_owned();
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F", &device])
            .status();
        if made.is_ok_and(|status| status.success()) {
            self.mount(&device, "ext4", None)?;
        }
        // After the mount, which goes first.
        self._disks.push(disk);
        Ok(())
    }

    /// Changes a setting of the kernel, if it has it.
    fn set(&mut self, path: &str, value: &str) {
        let old = file::read(path).unwrap_or_default();
        if file::try_write(path, value).is_err() {
            return;
        }
        // A choice is shown with brackets around what is chosen.
        let chosen = old.split(['[', ']']).nth(1).unwrap_or(old.trim());
        // printk and the like show more than one number, and take the first.
        let chosen = chosen.split_whitespace().next().unwrap_or_default();
        self.settings.push((path.into(), chosen.to_owned()));
    }

    fn set_all(&mut self) {
        let thp = "/sys/kernel/mm/transparent_hugepage";
        for size in [16, 64, 2048] {
            self.set(&format!("{thp}/hugepages-{size}kB/enabled"), "madvise");
        }
        self.set(&format!("{thp}/shmem_enabled"), "advise");
        self.set(NR_HUGEPAGES, &HUGE_PAGES.to_string());
        // Who reads a frame between its overwriting and the report reads what no hardware would
        // give. So memory is moved when the director says so, and not by itself.
        self.set("/proc/sys/vm/compaction_proactiveness", "0");
        self.set(&format!("{KHUGEPAGED}/scan_sleep_millisecs"), ASLEEP);
        self.set(&format!("{KHUGEPAGED}/pages_to_scan"), "100000");
        self.set("/sys/kernel/mm/ksm/run", "0");
        self.set("/sys/kernel/mm/ksm/sleep_millisecs", "0");
        self.set("/sys/kernel/mm/ksm/pages_to_scan", "1000");
        // Each error is several lines. The log has them all the same, and is read.
        self.set("/proc/sys/kernel/printk", "3");
    }

    /// Every error in hugetlb takes a huge page out of the pool, also one that was restored, and who
    /// finds none there is killed.
    pub(super) fn refill(&self) {
        let _ = file::try_write(NR_HUGEPAGES, &HUGE_PAGES.to_string());
    }

    /// The kinds that can be had here, and what is said about the others.
    pub(super) fn kinds(&self) -> (Vec<usize>, Vec<String>) {
        let mut can = Vec::new();
        let mut cannot = Vec::new();
        for (number, kind) in KINDS.iter().enumerate() {
            match kind.missing() {
                None => can.push(number),
                Some(why) => cannot.push(format!("{} is left out: {why}", kind.name())),
            }
        }
        (can, cannot)
    }

    /// Fails if the kernel has complained; returns what else it said.
    pub(super) fn listen(&mut self) -> Result<Vec<String>> {
        let lines = self.log.lines()?;
        let complaint = lines.iter().find(|line| crate::kmsg::is_complaint(line));
        ensure!(
            complaint.is_none(),
            "kernel: {}",
            complaint.unwrap_or(&String::new())
        );
        Ok(lines)
    }

    /// What the CPUs are doing, in the kernel's words.
    pub(super) fn backtraces(&mut self) -> Vec<String> {
        let _ = file::try_write("/proc/sysrq-trigger", "l");
        self.log.lines().unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for (path, value) in self.settings.iter().rev() {
            let _ = file::try_write(path, value);
        }
        for at in self.mounts.iter().rev() {
            let _ = umount(at);
        }
        let _ = fs::remove_dir_all(DIR);
    }
}
