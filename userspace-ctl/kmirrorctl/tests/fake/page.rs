// SPDX-License-Identifier: GPL-2.0

//! A system with a process of one page.

use super::Fake;
use std::os::unix::fs::MetadataExt;

pub const WEB: &str = "/system.slice/web.service";
pub const ADDR: u64 = 0x10000;
pub const FRAME: u64 = 0x40;

/// A process of web.service with one page; its word in pagemap, and the flags of its frame.
pub fn with_page(mode: &str, word: u64, flags: u64, replica: bool, stale: u64) -> Fake {
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

pub const PRESENT: u64 = 1 << 63 | FRAME;
pub const ANON: u64 = 1 << 12 | 1 << 14;
pub const MIRRORED: u64 = 1 << 43;
