// SPDX-License-Identifier: GPL-2.0

//! Why a cgroup is not wholly covered.

use crate::finding::Finding;
use crate::group::Group;
use crate::units;

/// A reason among the keys of `mirror.stat`, what it means, and what helps. `{}` is the cgroup.
const REASONS: [(&str, &str, &str); 12] = [
    ("lazyfree", "given away with MADV_FREE and may vanish at any time", "nothing; an allocator can be told to use MADV_DONTNEED"),
    ("huge", "hugetlb pages of 1 GiB", "use pages of 2 MiB"),
    ("notifier", "of a process with a secondary MMU (KVM, a GPU, shared virtual addresses), which writes past the page tables", "run that part as another process"),
    ("shadow_stack", "shadow stacks", "nothing; they are few"),
    ("shared_foreign", "mapped by processes outside the cgroup too", "protect their cgroup as well"),
    ("no_space", "without a replica because the mirror region is full", "make it larger with `kmirrorctl region SIZE`"),
    ("over_limit", "without a replica because of mirror.max, here or above", "raise it with `kmirrorctl set {} max=SIZE`"),
    ("no_memory", "without a replica because the system is short of memory", "free some"),
    ("pinned", "held by somebody who could write to them (direct I/O, io_uring, RDMA), or just new", "most are copied with the next epoch; registered buffers stay uncovered"),
    ("locked", "being worked on by somebody else (writeback, migration)", "they are copied with the next epoch"),
    ("busy", "unreadable, or protection was just being switched off", "look at `dmesg` for memory errors"),
    ("not_user", "freed or written back meanwhile", "nothing needs to be done"),
];

/// What keeps a cgroup, whose `mirror.stat` was read, from being covered.
pub fn findings(group: &Group) -> Vec<Finding> {
    let path = &group.path;
    if !group.is_protected() {
        return vec![Finding::fault(
            format!("{path} is not protected: its mode is {}", group.mode),
            format!("`kmirrorctl on {path}` protects it"),
        )];
    }
    let protected = group.stat("protected");
    if protected == 0 {
        return vec![Finding::note(
            format!("{path} has no memory to protect"),
            "are there processes in it? `systemd-cgls` shows them",
        )];
    }
    let ppm = group.coverage_ppm.unwrap_or(0);
    let sum = format!(
        "{path}: {} of {} are covered",
        units::percent(ppm),
        units::pages(protected)
    );
    let mut found = vec![if ppm >= 990_000 {
        Finding::good(sum)
    } else {
        Finding::note(sum, "the lines below say why not all")
    }];
    let stale = group.stat("stale");
    if stale > 0 {
        found.push(Finding::note(
            format!(
                "{path}: {} written since they were copied, or not copied yet",
                pages_are(stale)
            ),
            format!("a shorter interval covers them sooner (now {} ms); `kmirrorctl sync {path}` does now", group.interval_ms),
        ));
    }
    for (key, what, next) in REASONS {
        let pages = group.stat(key);
        if pages > 0 {
            found.push(Finding::note(
                format!("{path}: {} {what}", pages_are(pages)),
                next.replace("{}", path),
            ));
        }
    }
    let (epochs, late) = (group.stat("epochs"), group.stat("late"));
    if late > epochs / 10 && late > 0 {
        found.push(Finding::note(
            format!("{path}: {late} epochs did not begin in time, {epochs} were run"),
            format!("lengthen the interval with `kmirrorctl set {path} interval_ms=...`, or protect smaller cgroups with a thread each"),
        ));
    }
    let lost = group.events.get("unrestorable");
    if lost > 0 {
        found.push(Finding::note(
            format!(
                "{path}: {} lost to memory errors and not restored",
                units::plural(lost, "page")
            ),
            "`dmesg | grep 'not restored'` has the reason for each",
        ));
    }
    found
}

fn pages_are(pages: u64) -> String {
    let verb = if pages == 1 { "is" } else { "are" };
    format!("{} {verb}", units::plural(pages, "page"))
}
