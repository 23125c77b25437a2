// SPDX-License-Identifier: GPL-2.0

//! Where a kernel thread spends its time: the kernel's own profiler (`perf_event_open()`) stops it every
//! 20,011 ns and writes down who called whom. Under counting, nanoseconds are instructions; what the
//! profiler itself takes is never seen, for it is not sampled while it samples.
//!
//! C header: `include/uapi/linux/perf_event.h`

use anyhow::{ensure, Context, Result};
use kmirror_selftests::file;
use nix::errno::Errno;
use nix::unistd::Pid;
use serde::Serialize;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Not a divisor of any interval.
const PERIOD_NS: u64 = 20_011;
/// Of the ring that samples come through; a power of two.
const RING: usize = 4 << 20;
const PAGE_SIZE: usize = kmirror_selftests::PAGE_SIZE;

/// How many samples fell into which part of the work.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Parts {
    /// Walking page tables and inodes, cleaning entries.
    pub(crate) scan: u64,
    /// Flushing the TLB.
    pub(crate) flush: u64,
    /// Locking a page and proving that nobody can write to it unseen.
    pub(crate) begin: u64,
    /// Copying bytes.
    pub(crate) copy: u64,
    /// Hashing the copy.
    pub(crate) hash: u64,
    /// Looking for replicas that no page needs any more.
    pub(crate) sweep: u64,
    /// kmirror's own accounts: what is copied when, slots, index, counters.
    pub(crate) accounts: u64,
    /// Waking up, going to sleep, and whatever else is not kmirror's.
    pub(crate) rest: u64,
}

impl Parts {
    /// Counts a sample, by who called whom, from the innermost function outwards: the first that
    /// belongs to a part decides.
    fn count(&mut self, chain: &[u64], symbols: &Symbols) {
        let mut known = chain.iter().filter_map(|&ip| symbols.at(ip));
        let part = known.find_map(|(name, kmirror)| Self::part(name, kmirror));
        *part.unwrap_or(|parts| &mut parts.rest)(self) += 1;
    }

    /// To which part a function belongs, if to any.
    fn part(name: &str, kmirror: bool) -> Option<fn(&mut Self) -> &mut u64> {
        let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
        Some(match kmirror {
            _ if has(&["flush_tlb", "tlb_flush"]) => |parts| &mut parts.flush,
            _ if has(&["copy_mc"]) => |parts| &mut parts.copy,
            _ if has(&["hash_page", "xxh64"]) => |parts| &mut parts.hash,
            _ if has(&["memory_mirror_begin", "memory_mirror_end"]) => |parts| &mut parts.begin,
            _ if has(&["memory_mirror_walk", "mirror_cache_"]) => |parts| &mut parts.scan,
            true if has(&["sweep"]) => |parts| &mut parts.sweep,
            true => |parts| &mut parts.accounts,
            false => return None,
        })
    }
}

/// The kernel's functions.
#[derive(Debug)]
struct Symbols(Vec<(u64, String, bool)>);

impl Symbols {
    fn read() -> Result<Self> {
        let text = file::read("/proc/kallsyms")?;
        let mut all: Vec<_> = text.lines().filter_map(Self::line).collect();
        ensure!(
            all.iter().any(|(addr, ..)| *addr != 0),
            "/proc/kallsyms shows no addresses"
        );
        all.sort();
        Ok(Self(all))
    }

    fn line(line: &str) -> Option<(u64, String, bool)> {
        let mut words = line.split_whitespace();
        let addr = u64::from_str_radix(words.next()?, 16).ok()?;
        let kind = words.next()?;
        let name = words.next()?;
        let kmirror = words.next() == Some("[kmirror]");
        matches!(kind, "t" | "T" | "w" | "W").then(|| (addr, name.to_owned(), kmirror))
    }

    /// The name of the function at an address, and whether it is kmirror's.
    fn at(&self, addr: u64) -> Option<(&str, bool)> {
        let after = self.0.partition_point(|(start, ..)| *start <= addr);
        let (_, name, kmirror) = self.0.get(after.checked_sub(1)?)?;
        Some((name, *kmirror))
    }
}

/// `struct perf_event_attr` as it first was, which the kernel takes for ever.
#[repr(C)]
#[derive(Debug, Default)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint: u32,
    config1: u64,
}

/// A profiler of one thread, on from the beginning.
#[derive(Debug)]
pub(crate) struct Profiler {
    // Held, since the ring lives as long as it.
    _event: OwnedFd,
    ring: *mut u8,
}

impl Profiler {
    pub(crate) fn of(thread: Pid) -> Result<Self> {
        const SOFTWARE: u32 = 1;
        const IP_AND_CALLCHAIN: u64 = 1 | 1 << 5;
        const EXCLUDE_USER: u64 = 1 << 4;
        let attr = Attr {
            kind: SOFTWARE,
            size: size_of::<Attr>() as u32,
            sample_period: PERIOD_NS,
            sample_type: IP_AND_CALLCHAIN,
            flags: EXCLUDE_USER,
            ..Attr::default()
        };
        // SAFETY: The structure is of the size that it says, and outlives the call.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attr,
                thread.as_raw(),
                -1,
                -1,
                0,
            )
        };
        let fd = i32::try_from(Errno::result(fd).context("perf_event_open")?)?;
        // SAFETY: The descriptor is new and nobody else's.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: The kernel chooses a place where nothing is.
        let ring = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE_SIZE + RING,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                event.as_raw_fd(),
                0,
            )
        };
        if ring == libc::MAP_FAILED {
            return Err(Errno::last()).context("the ring of samples");
        }
        Ok(Self {
            _event: event,
            ring: ring.cast(),
        })
    }

    /// What was sampled so far.
    pub(crate) fn parts(&self) -> Result<Parts> {
        const HEAD: usize = 1024;
        // SAFETY: The first page of the mapping is `struct perf_event_mmap_page`, in which
        // `data_head` is a word at this place. It lives as long as `self`.
        let head = unsafe { &*self.ring.add(HEAD).cast::<AtomicU64>() };
        // After it has been read, the samples before it are whole.
        let head = usize::try_from(head.load(Ordering::Acquire))?;
        ensure!(head <= RING, "more samples than the ring holds");
        // SAFETY: The ring follows the first page. Up to `head` the kernel has written it, and it
        // does not come back to it, since nobody tells it that this was read.
        let bytes = unsafe { std::slice::from_raw_parts(self.ring.add(PAGE_SIZE), head) };
        parse(bytes, &Symbols::read()?)
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        // SAFETY: The mapping is ours, and no reference into it is left.
        unsafe { libc::munmap(self.ring.cast(), PAGE_SIZE + RING) };
    }
}

/// Records as they are in the ring: a header of 8 bytes, an address, and a list of addresses.
fn parse(mut bytes: &[u8], symbols: &Symbols) -> Result<Parts> {
    const SAMPLE: u32 = 9;
    /// Above this a word of a call chain says of what kind those after it are.
    const CONTEXT: u64 = u64::MAX - 4095;
    let mut parts = Parts::default();
    while let Some((head, _)) = bytes.split_first_chunk::<8>() {
        let kind = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]);
        let size = usize::from(u16::from_ne_bytes([head[6], head[7]]));
        ensure!(size >= 8 && size <= bytes.len(), "a record of {size} bytes");
        let (record, rest) = bytes.split_at(size);
        bytes = rest;
        if kind != SAMPLE {
            continue;
        }
        let words = record[8..].chunks_exact(8);
        let words: Vec<u64> = words
            .map(|word| word.try_into().map(u64::from_ne_bytes))
            .collect::<Result<_, _>>()?;
        let chain = words.get(2..).context("a sample without a chain")?;
        let chain: Vec<u64> = chain.iter().copied().filter(|&ip| ip < CONTEXT).collect();
        // It begins with the address itself.
        parts.count(&chain, symbols);
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbols() -> Symbols {
        let text = "1000 T schedule\n2000 T memory_mirror_walk\n2800 d memory_mirror_data
            3000 t flush_tlb_mm_range\n4000 T copy_mc_generic\n5000 t _RNv5sweep [kmirror]
            6000 t _RNv4copy [kmirror]\n7000 T xxh64\n8000 T memory_mirror_begin\n9000 T xas_load
            a000 t mirror_cache_sb";
        Symbols(text.lines().filter_map(Symbols::line).collect())
    }

    fn sample(chain: &[u64]) -> Vec<u8> {
        let words = 2 + chain.len() + 1;
        let mut bytes = 9_u32.to_ne_bytes().to_vec();
        bytes.extend(1_u16.to_ne_bytes());
        bytes.extend(((words + 1) as u16 * 8).to_ne_bytes());
        bytes.extend(chain[0].to_ne_bytes());
        bytes.extend((chain.len() as u64 + 1).to_ne_bytes());
        // PERF_CONTEXT_KERNEL
        bytes.extend((u64::MAX - 127).to_ne_bytes());
        bytes.extend(chain.iter().flat_map(|ip| ip.to_ne_bytes()));
        bytes
    }

    #[test]
    fn the_innermost_known_function_decides() {
        let chains: [&[u64]; 10] = [
            &[0x2010, 0x6010],
            &[0x9004, 0x2010, 0x6010],
            &[0x9004, 0xa010, 0x6010],
            &[0x3001, 0x2010, 0x6010],
            &[0x4001, 0x6010],
            &[0x7001, 0x6010],
            &[0x8001, 0x6010],
            &[0x9001, 0x5010, 0x6010],
            &[0x9001, 0x6010, 0x2010],
            &[0x1001, 0x9001],
        ];
        let mut ring: Vec<u8> = chains.iter().flat_map(|chain| sample(chain)).collect();
        // Another kind of record: samples that were lost, say.
        ring.extend([2, 0, 0, 0, 0, 0, 8, 0]);
        let parts = parse(&ring, &symbols()).unwrap();
        let got = [
            parts.scan,
            parts.flush,
            parts.copy,
            parts.hash,
            parts.begin,
            parts.sweep,
            parts.accounts,
            parts.rest,
        ];
        assert_eq!(got, [3, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(got.iter().sum::<u64>(), chains.len() as u64);
    }

    #[test]
    fn a_broken_ring_is_refused() {
        let ring = sample(&[0x2010]);
        assert!(parse(&ring[..ring.len() - 8], &symbols()).is_err());
        assert!(parse(&[9, 0, 0, 0, 0, 0, 0, 0], &symbols()).is_err());
    }
}
