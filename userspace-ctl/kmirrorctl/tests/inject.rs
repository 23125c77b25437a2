// SPDX-License-Identifier: GPL-2.0

//! `inject`: what it breaks, and all that it must not.

mod fake;

use fake::page::{with_page, ADDR, ANON, FRAME, MIRRORED, PRESENT, WEB};
use fake::Fake;
use kmirrorctl::drill::{self, Door, Outcome, Target};
use kmirrorctl::error::Kind;
use kmirrorctl::system::System;

const DOOR: &str = "/sys/kernel/debug/hwpoison/corrupt-pfn";

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

/// A system whose page is covered, with a door that is open, and the page as a target.
fn covered() -> (Fake, System, Target) {
    let fake = with_page("tracked", PRESENT, ANON | MIRRORED, true, 0);
    fake.write("/sys/kernel/kmirror/events", "restored 0\n");
    fake.write(DOOR, "");
    let system = System::at(fake.root());
    let target = Target::at(&system, 77, ADDR).unwrap();
    assert_eq!(target.frame, FRAME);
    (fake, system, target)
}

#[test]
fn the_warning_says_what_may_happen() {
    let (fake, ..) = covered();
    let page = ["inject", "--pid", "77", "--addr", "0x10000"];
    let (_, text) = fake.err(&page);
    assert!(
        text.contains("it has a replica") && !text.contains("others"),
        "{text}"
    );
    let mut counts = vec![0; 0x400];
    counts[0x200] = 3;
    fake.write_bytes("/proc/kpagecount", &counts);
    let (_, text) = fake.err(&page);
    assert!(text.contains("mapped 3 times"), "{text}");
    let fake = with_page("tracked", PRESENT, ANON, true, 1);
    fake.write(DOOR, "");
    let (_, text) = fake.err(&page);
    assert!(text.contains("NO current replica"), "{text}");
}

#[test]
fn the_replicas_of_others_are_left_alone() {
    let (fake, ..) = covered();
    fake.write(
        "/sys/kernel/debug/kmirror/replicas",
        &format!("{FRAME} 9 1\n"),
    );
    let (status, text) = fake.err(&["inject", "web.service", "--yes"]);
    assert_eq!(status, 4, "{text}");
    assert_eq!(fake.read(DOOR), "");
}

#[test]
fn a_page_that_has_moved_is_left_alone() {
    let (fake, system, mut target) = covered();
    target.frame += 1;
    let error = drill::strike(&system, Door::CorruptPfn, &target).unwrap_err();
    assert!(error.text.contains("has moved"), "{error}");
    assert_eq!(fake.read(DOOR), "");
}

#[test]
fn a_page_that_is_not_there_is_no_target() {
    for word in [0, 1 << 62] {
        let fake = with_page("tracked", word, 0, false, 0);
        fake.write(DOOR, "");
        let (status, text) = fake.err(&["inject", "--pid", "77", "--addr", "0x10000", "--yes"]);
        assert_eq!(status, 4, "{text}");
        assert_eq!(fake.read(DOOR), "");
    }
}

#[test]
fn the_processes_stand_still_meanwhile() {
    let (freeze, events) = (
        format!("/sys/fs/cgroup{WEB}/cgroup.freeze"),
        format!("/sys/fs/cgroup{WEB}/cgroup.events"),
    );
    // If it cannot be known whether they do, nothing is broken, and they go on.
    let (fake, system, target) = covered();
    fake.write(&freeze, "0\n");
    let error = drill::strike(&system, Door::CorruptPfn, &target).unwrap_err();
    assert_eq!(error.kind, Kind::Missing, "{error}");
    assert_eq!(
        (fake.read(DOOR).as_str(), fake.read(&freeze).as_str()),
        ("", "0")
    );
    // They do, and go on.
    fake.write(&events, "populated 1\nfrozen 1\n");
    let outcome = drill::strike(&system, Door::CorruptPfn, &target).unwrap();
    assert_eq!(outcome, Outcome::Unharmed);
    assert_eq!(
        (fake.read(DOOR).as_str(), fake.read(&freeze).as_str()),
        ("0x40", "0")
    );
    // Who has been stopped by somebody else is not started.
    fake.write(&freeze, "1\n");
    drill::strike(&system, Door::CorruptPfn, &target).unwrap();
    assert_eq!(fake.read(&freeze), "1\n");
}

#[test]
fn it_does_not_stop_itself() {
    let (fake, system, target) = covered();
    fake.write(&format!("/sys/fs/cgroup{WEB}/cgroup.freeze"), "0\n");
    let own = std::process::id();
    for inside in ["", "/below"] {
        fake.write(
            &format!("/proc/{own}/cgroup"),
            &format!("0::{WEB}{inside}\n"),
        );
        // Without cgroup.events it would be an error to stop anybody.
        let outcome = drill::strike(&system, Door::CorruptPfn, &target).unwrap();
        assert_eq!(outcome, Outcome::Unharmed);
    }
    // One whose name only begins like it is another.
    fake.write(&format!("/proc/{own}/cgroup"), &format!("0::{WEB}-too\n"));
    assert!(drill::strike(&system, Door::CorruptPfn, &target).is_err());
}

#[test]
fn each_door_is_told_in_its_own_way() {
    let (fake, system, target) = covered();
    std::fs::remove_file(fake.path(DOOR)).unwrap();
    let other = "/sys/devices/system/memory/hard_offline_page";
    fake.write(other, "");
    assert_eq!(Door::find(&system).unwrap(), Door::HardOffline);
    drill::strike(&system, Door::HardOffline, &target).unwrap();
    assert_eq!(fake.read(other), "0x40000", "an address, not a frame");
}

#[test]
fn a_report_that_is_refused_is_an_error() {
    let (fake, ..) = covered();
    std::fs::remove_file(fake.path(DOOR)).unwrap();
    std::fs::create_dir(fake.path(DOOR)).unwrap();
    let (status, text) = fake.err(&["inject", "web.service", "--yes"]);
    assert_eq!(status, 1);
    assert!(text.contains("did not take the report"), "{text}");
}

#[test]
fn one_page_is_named_in_one_way() {
    let (fake, ..) = covered();
    for args in [
        &["inject", "--yes"][..],
        &["inject", "--pid", "77", "--yes"],
        &["inject", "--addr", "0x10000", "--yes"],
        &[
            "inject",
            "web.service",
            "--pid",
            "77",
            "--addr",
            "0x10000",
            "--yes",
        ],
        &["inject", "--pid", "77", "--addr", "10000x", "--yes"],
    ] {
        assert_eq!(fake.err(args).0, 2, "{args:?}");
    }
    assert_eq!(fake.read(DOOR), "");
}
