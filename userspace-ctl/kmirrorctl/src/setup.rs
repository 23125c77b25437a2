// SPDX-License-Identifier: GPL-2.0

//! The set-up: is everything there that kmirror needs?

use crate::error::Result;
use crate::finding::Finding;
use crate::group::Group;
use crate::region::Region;
use crate::service::Service;
use crate::system::{self, System};
use crate::units;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;

/// What was found out about the system.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Facts {
    /// Whether the kernel has what a memory mirror needs; `None` if it hides its symbols.
    pub patched: Option<bool>,
    /// CONFIG_MEMORY_MIRROR as the kernel's configuration in /boot has it.
    pub config: Option<String>,
    /// Whether cgroup v2 is mounted.
    pub cgroup2: bool,
    /// Whether the memory controller is there.
    pub memory_controller: bool,
    /// The region, if the module is loaded.
    pub region: Option<Region>,
    /// The host's service, if there is one that answers.
    pub service: Option<Service>,
    /// Slots of the region lost to errors.
    pub retired: u64,
    /// NUMA nodes with memory.
    pub nodes: Vec<u32>,
    /// /sys/kernel/mm/ksm/run.
    pub ksm: u64,
    /// Whether this is a virtual machine.
    pub virtual_machine: bool,
    /// Whether debugfs shows the replicas.
    pub debugfs: bool,
    /// Bytes of anonymous memory on each node, by cgroup.
    pub placed: BTreeMap<String, BTreeMap<u32, u64>>,
}

impl Facts {
    /// Finds out, also for these cgroups.
    pub fn collect(system: &System, groups: &[Group]) -> Result<Self> {
        let text = |path: &str| fs::read_to_string(system.path(path)).unwrap_or_default();
        let loaded = system.require_mirror().is_ok();
        let symbols = text("/proc/kallsyms");
        let release = text("/proc/sys/kernel/osrelease");
        let config = text(&format!("/boot/config-{}", release.trim()));
        Ok(Self {
            patched: if loaded {
                Some(true)
            } else if symbols.is_empty() {
                None
            } else {
                Some(symbols.contains(" memory_mirror_"))
            },
            config: config
                .lines()
                .find(|line| line.contains("CONFIG_MEMORY_MIRROR"))
                .map(str::to_owned),
            cgroup2: system.cgroup("/").join("cgroup.controllers").exists(),
            memory_controller: text("/sys/fs/cgroup/cgroup.controllers")
                .split_whitespace()
                .any(|name| name == "memory"),
            region: loaded.then(|| Region::read(system)).transpose()?,
            service: loaded.then(|| Service::read(system)).flatten(),
            retired: crate::keyed::Keyed::parse(&text("/sys/kernel/kmirror/stat"))
                .map_or(0, |stat| stat.get("retired")),
            nodes: node_list(&text("/sys/devices/system/node/has_memory")),
            ksm: text("/sys/kernel/mm/ksm/run").trim().parse().unwrap_or(0),
            virtual_machine: text("/proc/cpuinfo")
                .lines()
                .any(|line| line.starts_with("flags") && line.has_word("hypervisor")),
            debugfs: system.path(crate::replica_list::PATH).exists(),
            placed: groups
                .iter()
                .filter(|group| group.is_governor())
                .map(|group| {
                    let path = system.cgroup(&group.path).join("memory.numa_stat");
                    let text = system::read_if_there(&path).ok().flatten();
                    (group.path.clone(), anon_by_node(&text.unwrap_or_default()))
                })
                .collect(),
        })
    }

    /// What they mean.
    pub fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        self.kernel(&mut found);
        if let Some(region) = self.region {
            self.region(region, &mut found);
        }
        if let Some(service) = &self.service {
            found.extend(service.findings());
        }
        self.surroundings(&mut found);
        found
    }

    /// Whether the host says where the region is.
    fn is_placed(&self) -> bool {
        self.service
            .as_ref()
            .is_some_and(|service| service.placement.is_some())
    }

    fn kernel(&self, found: &mut Vec<Finding>) {
        if !self.cgroup2 {
            found.push(Finding::fault(
                "cgroup v2 is not mounted at /sys/fs/cgroup (this system uses cgroup v1), and kmirror follows the tree of v2",
                "boot with systemd.unified_cgroup_hierarchy=1",
            ));
        } else if !self.memory_controller {
            found.push(Finding::note(
                "the memory controller of cgroup v2 is off, so shared memory that nobody has mapped belongs to no cgroup",
                "boot without cgroup_disable=memory, and not with v1's memory controller",
            ));
        }
        match (self.region, self.patched, &self.config) {
            (Some(_), _, _) => found.push(Finding::good("the kernel has the patches, and kmirror is loaded")),
            (None, Some(true), _) => found.push(Finding::fault(
                "the kernel has the patches, but kmirror is not loaded",
                "`modprobe kmirror region=1G` loads it; `dmesg` says why if that fails",
            )),
            (None, _, Some(line)) if !line.ends_with("=y") => found.push(Finding::fault(
                "the kernel has the patches, but was built without CONFIG_MEMORY_MIRROR",
                "build it with CONFIG_MEMORY_MIRROR=y, see docs/usage.md",
            )),
            (None, Some(false), _) => found.push(Finding::fault(
                "the running kernel does not have the patches that kmirror needs",
                "build and boot a kernel with patches/linux/ and CONFIG_MEMORY_MIRROR=y, see docs/usage.md",
            )),
            (None, None, _) => found.push(Finding::fault(
                "kmirror is not loaded, and the kernel does not tell whether it has the patches",
                "run this as root, and try `modprobe kmirror region=1G`",
            )),
        }
    }

    fn region(&self, region: Region, found: &mut Vec<Finding>) {
        if region.total == 0 {
            found.push(Finding::fault(
                "there is no mirror region, so nothing is covered",
                "`kmirrorctl region 1G` makes one; it takes one page for each page that is covered",
            ));
            return;
        }
        if region.free == 0 {
            found.push(Finding::fault(
                format!(
                    "the mirror region of {} is full",
                    units::bytes(region.total)
                ),
                format!(
                    "make it larger: `kmirrorctl region {}M`",
                    (region.total >> 20) * 2
                ),
            ));
        } else {
            found.push(Finding::good(format!(
                "the mirror region has {}, {} of it free",
                units::bytes(region.total),
                units::bytes(region.free)
            )));
        }
        if self.retired > 0 {
            found.push(Finding::note(
                format!(
                    "{} of the region were lost to memory errors",
                    units::pages(self.retired)
                ),
                "more on the same module is a reason to replace it; see `ras-mc-ctl --errors`",
            ));
        }
        match (region.node, self.nodes.len()) {
            // What the host says is worth more than what it shows to the guest.
            _ if self.is_placed() => {}
            (_, 0 | 1) => found.push(Finding::note(
                "there is one NUMA node, so replicas and pages are on the same memory modules",
                "an error that takes more than one page at a time may take both",
            )),
            (None, _) => found.push(Finding::note(
                "the region may be on any NUMA node, so on the same one as the pages",
                format!(
                    "load kmirror with region=SIZE@NODE; nodes are {:?}",
                    self.nodes
                ),
            )),
            (Some(node), _) => {
                for (path, placed) in &self.placed {
                    let (here, all) = (
                        placed.get(&node).copied().unwrap_or(0),
                        placed.values().sum::<u64>(),
                    );
                    if here > all / 2 {
                        found.push(Finding::note(
                            format!(
                                "{} of {} of {path} are on node {node}, as their replicas are",
                                units::bytes(here),
                                units::bytes(all)
                            ),
                            "put the region on another node, or the program (cpuset.mems)",
                        ));
                    }
                }
            }
        }
    }

    fn surroundings(&self, found: &mut Vec<Finding>) {
        if self.ksm == 1 {
            found.push(Finding::note(
                "KSM merges pages in this system; each page that it merges or separates must be copied again",
                "`echo 0 > /sys/kernel/mm/ksm/run` stops it",
            ));
        }
        if self.virtual_machine && !self.is_placed() {
            found.push(Finding::note(
                "this is a virtual machine: KSM on its host may merge a page with its replica, and one error then takes both; that cannot be seen from here",
                "start it with -machine mem-merge=off, or have kmirrord place the region",
            ));
        }
        if self.region.is_some() && !self.debugfs {
            found.push(Finding::note(
                "debugfs does not show the replicas, so the doctor knows less about single pages",
                "`mount -t debugfs debugfs /sys/kernel/debug`",
            ));
        }
    }
}

trait Words {
    fn has_word(&self, word: &str) -> bool;
}

impl Words for str {
    fn has_word(&self, word: &str) -> bool {
        self.split_whitespace().any(|have| have == word)
    }
}

/// Reads a list such as `0,2-3`.
fn node_list(text: &str) -> Vec<u32> {
    let ranges = text.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?.min(1023))
    });
    ranges.flatten().collect()
}

/// The line `anon N0=1 N1=2` of memory.numa_stat.
fn anon_by_node(text: &str) -> BTreeMap<u32, u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("anon "));
    line.unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| {
            let (node, bytes) = word.strip_prefix('N')?.split_once('=')?;
            Some((node.parse().ok()?, bytes.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_nodes_are_read() {
        assert_eq!(node_list("0\n"), [0]);
        assert_eq!(node_list("0,2-3\n"), [0, 2, 3]);
        assert_eq!(node_list("\n"), [0u32; 0]);
        assert_eq!(node_list("0-4294967295").len(), 1024);
    }

    #[test]
    fn placement_is_read() {
        let placed = anon_by_node("file N0=5 N1=6\nanon N0=4096 N1=8192\n");
        assert_eq!(placed, BTreeMap::from([(0, 4096), (1, 8192)]));
        assert!(anon_by_node("nonsense").is_empty());
    }
}
