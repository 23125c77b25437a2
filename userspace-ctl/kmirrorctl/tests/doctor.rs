// SPDX-License-Identifier: GPL-2.0

//! `doctor` and `inject`: what they see, say and leave alone.

mod fake;

use fake::Fake;
use serde_json::Value;
use std::os::unix::fs::MetadataExt;

const WEB: &str = "/system.slice/web.service";
const ADDR: u64 = 0x10000;
const FRAME: u64 = 0x40;

/// A process of web.service with one page; its word in pagemap, and the flags of its frame.
fn with_page(mode: &str, word: u64, flags: u64, replica: bool, stale: u64) -> Fake {
    let fake = Fake::loaded();
    let stat = format!("protected 10\ncurrent {}\nstale {stale}\n", 10 - stale);
    fake.group(WEB, mode, &stat, "restored 0\n");
    fake.write("/proc/77/cgroup", &format!("0::{WEB}\n"));
    fake.write(
        "/proc/77/smaps",
        "00010000-00011000 rw-p 00000000 00:00 0 [heap]\nVmFlags: rd wr\n",
    );
    let mut pagemap = vec![0u8; 0x100];
    pagemap[0x80..0x88].copy_from_slice(&word.to_ne_bytes());
    fake.write_bytes("/proc/77/pagemap", &pagemap);
    let mut kpageflags = vec![0u8; 0x400];
    kpageflags[0x200..0x208].copy_from_slice(&flags.to_ne_bytes());
    fake.write_bytes("/proc/kpageflags", &kpageflags);
    fake.write(&format!("/sys/fs/cgroup{WEB}/cgroup.procs"), "77\n");
    let id = fake
        .path(&format!("/sys/fs/cgroup{WEB}"))
        .metadata()
        .unwrap()
        .ino();
    let list = if replica {
        format!("{FRAME} 9 {id}\n")
    } else {
        String::new()
    };
    fake.write("/sys/kernel/debug/kmirror/replicas", &list);
    fake
}

const PRESENT: u64 = 1 << 63 | FRAME;
const ANON: u64 = 1 << 12 | 1 << 14;
const MIRRORED: u64 = 1 << 43;

#[test]
fn each_state_of_a_page_has_its_sentence() {
    for (mode, word, flags, replica, stale, state, says) in [
        (
            "tracked",
            PRESENT,
            ANON | MIRRORED,
            true,
            0,
            "current",
            "is current",
        ),
        (
            "tracked",
            PRESENT,
            ANON | MIRRORED,
            true,
            3,
            "current_unless_written",
            "dirty bit",
        ),
        (
            "tracked",
            PRESENT,
            ANON,
            true,
            1,
            "not_current",
            "replica is stale",
        ),
        (
            "tracked",
            PRESENT,
            ANON,
            false,
            1,
            "not_current",
            "no replica yet",
        ),
        (
            "tracked",
            PRESENT,
            ANON | MIRRORED,
            false,
            0,
            "not_current",
            "dropped just now",
        ),
        (
            "off",
            PRESENT,
            ANON,
            false,
            0,
            "not_current",
            "is not protected",
        ),
        (
            "tracked",
            PRESENT,
            1 << 12,
            false,
            0,
            "not_current",
            "MADV_FREE",
        ),
        (
            "tracked",
            PRESENT,
            1 << 24,
            false,
            0,
            "not_current",
            "page of zeros",
        ),
        (
            "tracked",
            PRESENT,
            ANON | 1 << 19,
            false,
            0,
            "not_current",
            "broken",
        ),
        (
            "tracked",
            1 << 62,
            0,
            false,
            0,
            "not_current",
            "swapped out",
        ),
        (
            "tracked",
            0,
            0,
            false,
            0,
            "not_current",
            "no page at this address",
        ),
    ] {
        let fake = with_page(mode, word, flags, replica, stale);
        let text = fake.ok(&["doctor", "--pid", "77", "--addr", "0x10123", "--json"]);
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["state"], state, "{text}");
        let what = json["what"].as_str().unwrap();
        assert!(what.contains(says), "{what}");
        assert_eq!(json["address"], ADDR);
    }
    let fake = with_page("tracked", PRESENT, ANON, true, 0);
    let text = fake.ok(&["doctor", "--pid", "77", "--addr", "0x20000", "--json"]);
    assert!(text.contains("nothing is mapped"), "{text}");
    assert_eq!(
        fake.err(&["doctor", "--pid", "78", "--addr", "0x10000"]).0,
        4
    );
    assert_eq!(fake.err(&["doctor", "--pid", "77", "--addr", "here"]).0, 2);
}

#[test]
fn each_fault_of_the_set_up_is_found() {
    let mut fakes: Vec<(Fake, &str)> = Vec::new();
    let bare = Fake::bare();
    bare.write("/proc/kallsyms", "0 T memory_failure\n");
    fakes.push((bare, "does not have the patches"));
    let unloaded = Fake::bare();
    unloaded.write("/proc/kallsyms", "0 T memory_mirror_begin\n");
    fakes.push((unloaded, "not loaded"));
    let config = Fake::bare();
    config.write("/proc/kallsyms", "0 T memory_failure\n");
    config.write("/proc/sys/kernel/osrelease", "7.3.4\n");
    config.write("/boot/config-7.3.4", "# CONFIG_MEMORY_MIRROR is not set\n");
    fakes.push((config, "built without CONFIG_MEMORY_MIRROR"));
    fakes.push((Fake::bare(), "cgroup v1"));
    let none = Fake::busy();
    none.write("/sys/kernel/kmirror/region/total", "0\n");
    fakes.push((none, "there is no mirror region"));
    let full = Fake::busy();
    full.write("/sys/kernel/kmirror/region/free", "0\n");
    fakes.push((full, "is full"));
    for (fake, says) in &fakes {
        let output = fake.run(&["doctor"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(7), "{says}: {text}");
        assert!(
            text.contains("FAULT") && text.contains(says),
            "{says}: {text}"
        );
    }
}

#[test]
fn what_is_only_worth_knowing_is_no_fault() {
    let fake = Fake::busy();
    fake.write("/sys/devices/system/node/has_memory", "0-1\n");
    fake.write(
        &format!("/sys/fs/cgroup{WEB}/memory.numa_stat"),
        "anon N0=4096 N1=1048576\n",
    );
    fake.write("/sys/kernel/mm/ksm/run", "1\n");
    let text = fake.ok(&["doctor"]);
    for says in [
        "on node 1, as their replicas are",
        "KSM merges",
        "8.0 KiB of the region were lost",
        "9 pages are written since",
        "2 pages are held by somebody",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    let (status, _) = fake.err(&["doctor", "db.service"]);
    assert_eq!(status, 7, "it was asked for, and is off");
}

#[test]
fn nothing_is_broken_without_yes() {
    let fake = with_page("tracked", PRESENT, ANON | MIRRORED, true, 0);
    let door = "/sys/kernel/debug/hwpoison/corrupt-pfn";
    let (status, text) = fake.err(&["inject", "web.service"]);
    assert_eq!(status, 3, "no door: {text}");
    fake.write(door, "");
    for args in [
        &["inject", "web.service"][..],
        &["inject", "--pid", "77", "--addr", "0x10000"],
    ] {
        let (status, text) = fake.err(args);
        assert_eq!(status, 6);
        assert!(text.contains("WARNING") && text.contains("--yes"), "{text}");
    }
    assert_eq!(fake.read(door), "");
    // Here nothing happens by the report, and that is said.
    let (status, text) = fake.err(&["inject", "web.service", "--yes"]);
    assert_eq!(status, 1, "{text}");
    assert_eq!(fake.read(door), "0x40");
    assert_eq!(fake.err(&["inject"]).0, 2);
}

#[test]
fn only_covered_pages_are_chosen_at_random() {
    let fake = with_page("tracked", PRESENT, ANON, true, 1);
    fake.write("/sys/kernel/debug/hwpoison/corrupt-pfn", "");
    let (status, text) = fake.err(&["inject", "web.service", "--yes"]);
    assert_eq!(status, 4, "{text}");
    assert_eq!(fake.read("/sys/kernel/debug/hwpoison/corrupt-pfn"), "");
}
