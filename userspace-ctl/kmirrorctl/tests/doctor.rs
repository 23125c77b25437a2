// SPDX-License-Identifier: GPL-2.0

//! `doctor`: what it sees and says.

mod fake;

use fake::page::{with_page, ADDR, ANON, MIRRORED, PRESENT, WEB};
use fake::Fake;
use serde_json::Value;

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
fn what_speaks_against_a_page_is_said() {
    let maps = |name: &str, flags: &str| {
        format!("00010000-00011000 rw-p 00000000 00:00 0 {name}\nVmFlags: rd wr {flags}\n")
    };
    let (lru, writeback) = (1 << 5, 1 << 8);
    type Change = fn(&Fake);
    let nothing: Change = |_| ();
    let cases: [(u64, String, Change, &str); 7] = [
        (ANON, maps("[stack]", "ss"), nothing, "shadow stack"),
        (ANON, maps("/dev/mem", "io"), nothing, "memory of a device"),
        (lru, maps("/usr/bin/x", ""), nothing, "clean page of a file"),
        (
            lru,
            maps("[vvar]", ""),
            nothing,
            "no memory that can be mirrored",
        ),
        (
            ANON,
            maps("[heap]", ""),
            |fake| {
                let stat = "protected 10\ncurrent 9\nnotifier 1\n";
                fake.group(WEB, "tracked", stat, "restored 0\n");
            },
            "may have a secondary MMU",
        ),
        (
            ANON | writeback,
            maps("[heap]", ""),
            nothing,
            "being written back",
        ),
        (
            ANON,
            maps("[heap]", ""),
            |fake| std::fs::remove_file(fake.path("/sys/kernel/debug/kmirror/replicas")).unwrap(),
            "not flagged as mirrored",
        ),
    ];
    for (flags, smaps, change, says) in cases {
        let fake = with_page("tracked", PRESENT, flags, false, 0);
        fake.write("/proc/77/smaps", &smaps);
        change(&fake);
        let text = fake.ok(&["doctor", "--pid", "77", "--addr", "0x10000"]);
        assert!(
            text.contains(says) && text.contains("-> "),
            "{says}: {text}"
        );
    }
}

#[test]
fn what_keeps_a_cgroup_from_being_covered_is_said() {
    let stat = "protected 1000\ncurrent 100\nstale 1\nunmirrored 0\npinned 1\nlazyfree 2\nhuge 3\nshared_foreign 4\nnotifier 5\n\
        locked 6\nshadow_stack 7\nnot_user 8\nno_memory 9\nbusy 10\nno_space 11\nover_limit 12\nepochs 10\nlate 5\n";
    let fake = Fake::loaded();
    fake.group("/a", "tracked", stat, "restored 0\nunrestorable 3\n");
    let text = fake.ok(&["doctor", "a"]);
    for says in [
        "10.00 % of",
        "1 page is written since",
        "1 page is held by somebody",
        "2 pages are given away with MADV_FREE",
        "3 pages are hugetlb pages of 1 GiB",
        "4 pages are mapped by processes outside",
        "5 pages are of a process with a secondary MMU",
        "6 pages are being worked on",
        "7 pages are shadow stacks",
        "8 pages are freed or written back",
        "9 pages are without a replica because the system is short",
        "10 pages are unreadable",
        "11 pages are without a replica because the mirror region is full",
        "12 pages are without a replica because of mirror.max",
        "kmirrorctl set /a max=SIZE",
        "5 epochs did not begin in time",
        "3 pages lost to memory errors",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    fake.group("/a", "tracked", "protected 0\ncurrent 0\n", "");
    assert!(fake
        .ok(&["doctor", "a"])
        .contains("has no memory to protect"));
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

/// What `doctor` says of the whole system.
fn says(fake: &Fake) -> String {
    String::from_utf8(fake.run(&["doctor"]).stdout).unwrap()
}

#[test]
fn what_is_only_so_in_some_systems_is_said_there_alone() {
    let plain = || {
        let fake = Fake::busy();
        fake.write("/sys/devices/system/node/has_memory", "0-1\n");
        fake.write("/sys/kernel/debug/kmirror/replicas", "");
        fake
    };
    type Change = fn(&Fake);
    let changes: [(Change, &str); 6] = [
        (
            |fake| fake.write("/sys/fs/cgroup/cgroup.controllers", "cpu pids\n"),
            "the memory controller of cgroup v2 is off",
        ),
        (
            |fake| fake.write("/sys/devices/system/node/has_memory", "0\n"),
            "there is one NUMA node",
        ),
        (
            |fake| fake.write("/sys/kernel/kmirror/region/node", "-1\n"),
            "may be on any NUMA node",
        ),
        (
            |fake| fake.write("/proc/cpuinfo", "flags\t\t: fpu hypervisor lm\n"),
            "KSM on its host",
        ),
        (
            |fake| std::fs::remove_file(fake.path("/sys/kernel/debug/kmirror/replicas")).unwrap(),
            "debugfs does not show the replicas",
        ),
        (
            |fake| fake.write("/sys/kernel/mm/ksm/run", "1\n"),
            "KSM merges",
        ),
    ];
    for (change, what) in changes {
        let fake = plain();
        assert!(!says(&fake).contains(what), "{what}: said of every system");
        change(&fake);
        let said = says(&fake);
        assert!(said.contains(what), "{what}: {said}");
    }
    // A word that only begins like it is none.
    let fake = plain();
    fake.write("/proc/cpuinfo", "flags\t\t: fpu hypervisors\n");
    assert!(!says(&fake).contains("virtual machine"));
}

#[test]
fn what_the_host_says_of_the_region_counts() {
    let fake = Fake::busy();
    fake.write("/proc/cpuinfo", "flags\t\t: fpu hypervisor lm\n");
    fake.write("/sys/devices/system/node/has_memory", "0\n");
    let said = says(&fake);
    assert!(!said.contains("the host's service"), "{said}");
    let stat = |connected: u8| {
        format!("slots 1\nused 0\nfree 1\nretired 0\nhost_connected {connected}\nhost_slots 512\nhost_used 3\n")
    };
    let placement = |pages: u32, line: &str| {
        let text = format!("pages {pages}\npresent 512\n{line}\nnode0 512\n");
        fake.write("/sys/kernel/kmirror/region/placement", &text);
        says(&fake)
    };
    // The service is gone, and what it has said with it.
    fake.write("/sys/kernel/kmirror/stat", &stat(0));
    let said = placement(512, "apart 512\nlocked 1\nunmerged 1");
    assert!(!said.contains("the host has"), "{said}");
    fake.write("/sys/kernel/kmirror/stat", &stat(1));
    let said = placement(512, "apart 512\nlocked 1\nunmerged 1");
    for says in ["a pool of 2.0 MiB, 12.0 KiB of it used", "no other memory"] {
        assert!(said.contains(says), "{says}: {said}");
    }
    for not in ["one NUMA node", "KSM", "swap"] {
        assert!(!said.contains(not), "{not}: {said}");
    }
    let said = placement(512, "apart 500\nwanted_node 3\nlocked 0\nunmerged 0");
    for says in [
        "48.0 KiB of the region on nodes that have other memory",
        "wanted on its node 3",
        "KSM on the host may merge",
        "may swap replicas out",
    ] {
        assert!(said.contains(says), "{says}: {said}");
    }
    let said = placement(512, "apart 0\nwanted_node -1\nlocked 1\nunmerged 1");
    assert!(said.contains("it has no other node"), "{said}");
    // Connected, and nothing said yet.
    let said = placement(0, "locked 1");
    assert!(
        said.contains("one NUMA node") && said.contains("KSM on its host"),
        "{said}"
    );
}

#[test]
fn a_kernel_that_hides_its_symbols_and_a_system_without_a_protected_cgroup() {
    let fake = Fake::bare();
    fake.write("/sys/fs/cgroup/cgroup.controllers", "memory\n");
    let output = fake.run(&["doctor"]);
    assert_eq!(output.status.code(), Some(7));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("does not tell whether it has the patches"),
        "{said}"
    );
    assert!(said.contains("modprobe kmirror"), "what to do: {said}");
    let said = says(&Fake::loaded());
    assert!(
        said.contains("no cgroup is protected") && said.contains("kmirrorctl on"),
        "{said}"
    );
    assert!(!says(&Fake::busy()).contains("no cgroup is protected"));
}

#[test]
fn everything_is_copied_first_if_asked_for() {
    let sync = format!("/sys/kernel/kmirror/cgroup{WEB}/mirror.sync");
    let fake = with_page("tracked", PRESENT, ANON | MIRRORED, true, 0);
    let page = ["doctor", "--pid", "77", "--addr", "0x10000"];
    fake.ok(&page);
    fake.run(&["doctor", WEB]);
    assert_eq!(fake.read(&sync), "", "nobody has asked for it");
    fake.ok(&[&page[..], &["--sync"]].concat());
    assert_eq!(fake.read(&sync), "1\n");
    fake.write(&sync, "");
    fake.run(&["doctor", WEB, "--sync"]);
    assert_eq!(fake.read(&sync), "1\n");
}

#[test]
fn a_page_has_an_address_and_a_process() {
    let fake = with_page("tracked", PRESENT, ANON | MIRRORED, true, 0);
    for args in [
        &["doctor", "--pid", "77"][..],
        &["doctor", "--addr", "0x10000"],
        &["doctor", "web.service", "--pid", "77", "--addr", "0x10000"],
    ] {
        assert_eq!(fake.err(args).0, 2, "{args:?}");
    }
}
