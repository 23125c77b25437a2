// SPDX-License-Identifier: GPL-2.0

//! Tests of kmirror, and what they are made of.
//!
//! A *case* shows one promise. It runs as a process of its own, the director, which stays outside
//! of the cgroups that it protects. What is protected is a *victim*: another process, started in
//! such a cgroup, which does on order what the director tells it. So a victim can be frozen, hit
//! and killed, and nobody else comes to harm.
//!
//! - [`runner`], [`ktap`], [`kmsg`]: all cases, one after the other, and what is printed;
//! - [`case`], [`cases`]: what a case is; all of them;
//! - [`rig`], [`victim`], [`memory`], [`sigbus`]: a protected victim and its memory;
//! - [`soak`]: random errors under random work;
//! - [`nested`]: a guest in the guest, and true machine checks;
//! - [`cgroup`], [`mirror`], [`inject`], [`pagemap`], [`module`], [`kmemleak`], [`zram`], [`disk`],
//!   [`uffd`]: what the kernel offers;
//! - [`file`], [`wait`], [`rng`]: small helpers.

pub mod case;
pub mod cases;
pub mod cgroup;
pub mod disk;
pub mod file;
pub mod inject;
pub mod kmemleak;
pub mod kmsg;
pub mod ktap;
pub mod memory;
pub mod mirror;
pub mod module;
pub mod nested;
pub mod pagemap;
pub mod rig;
pub mod rng;
pub mod runner;
pub mod sigbus;
pub mod soak;
pub mod uffd;
pub mod victim;
pub mod wait;
pub mod zram;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// The same, as the size of something in memory.
pub const PAGE_SIZE: usize = 4096;

/// A number as people write it: decimal, or with 0x.
pub fn number(text: &str) -> anyhow::Result<u64> {
    use anyhow::Context;
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.with_context(|| format!("{text} is no number"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers() {
        for (text, number) in [("17", 17), ("0x1f", 31), ("0", 0)] {
            assert_eq!(super::number(text).ok(), Some(number));
        }
        for text in ["", "0x", "1f", "-1", "18446744073709551616"] {
            assert!(super::number(text).is_err(), "{text}");
        }
    }
}
