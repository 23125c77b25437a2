// SPDX-License-Identifier: GPL-2.0

//! A step: one thing that one process, or the director, does. A run is a list of steps, which can be
//! printed, shortened, and read in again.

use anyhow::{bail, Context, Result};
use std::fmt;
use std::str::FromStr;

/// The most numbers that a step has.
const NUMBERS: usize = 7;

macro_rules! verbs {
    ($($(#[$doc:meta])* $verb:ident = $name:literal $($arg:literal)*;)*) => {
        /// What is done. The words after the name say what the numbers of the step are.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Verb {
            $($(#[$doc])* $verb,)*
        }

        const VERBS: &[(Verb, &str, &[&str])] = &[$((Verb::$verb, $name, &[$($arg),*]),)*];
    };
}

verbs! {
    /// All have finished before it goes on.
    Round = "round";
    /// A process of its own, in a family.
    Spawn = "spawn" "proc" "family";
    /// Is killed.
    Kill = "kill" "proc";
    /// Goes to another cgroup of its family.
    Move = "move" "proc" "group";
    /// Protection of a cgroup: off, tracked, inherited.
    Mode = "mode" "family" "group" "mode";
    /// Length of its epochs.
    Interval = "interval" "family" "group" "ms";
    /// Its limit on replicas, in pages; 0 is none.
    Limit = "limit" "family" "group" "pages";
    /// An epoch on demand.
    Sync = "sync" "family" "group";
    /// Size of the region.
    Region = "region" "mib";
    /// memory.max of a family, in pages.
    Press = "press" "family" "pages";
    /// memory.reclaim of a family.
    Reclaim = "reclaim" "family" "pages";
    /// All memory is compacted.
    Compact = "compact";
    /// KSM has looked at everything twice.
    Ksm = "ksm";
    /// khugepaged has looked at everything.
    Khugepaged = "khugepaged";
    /// The huge pages of an area are split.
    Split = "split" "proc" "area";
    /// The frame of a page breaks.
    Strike = "strike" "proc" "area" "page" "door";
    /// The frame that broke last is reported again.
    Again = "again" "door";
    /// The frame of some replica breaks.
    Replica = "replica" "nth" "door";

    /// A child with the same memory.
    Fork = "fork" "proc" "child";
    /// Ends by itself.
    Exit = "exit" "proc";
    /// Maps an area, a new one or one that others have.
    Map = "map" "proc" "area" "kind" "pages";
    /// Gives it back.
    Unmap = "unmap" "proc" "area";
    /// Looks at the bytes of pages.
    Check = "check" "proc" "area" "first" "count";
    /// Stores words.
    Store = "store" "proc" "area" "page" "off" "len" "key";
    /// read(2) into the page.
    KernelRead = "read_into" "proc" "area" "page" "off" "len" "key";
    /// write(2) from the page.
    KernelWrite = "write_from" "proc" "area" "page";
    /// Direct I/O into the page.
    DirectRead = "direct_read" "proc" "area" "page" "key";
    /// Direct I/O from the page.
    DirectWrite = "direct_write" "proc" "area" "page";
    /// process_vm_writev() to a page of another process.
    VmWrite = "vm_write" "proc" "area" "page" "off" "len" "key" "peer";
    /// /proc/PID/mem of another process.
    ProcMem = "proc_mem" "proc" "area" "page" "off" "len" "key" "peer";
    /// Registers a page with io_uring.
    Pin = "uring_pin" "proc" "area" "page";
    /// IORING_OP_READ_FIXED into the page that is registered.
    PinRead = "uring_read" "proc" "area" "page" "key";
    /// Gives it back.
    Unpin = "uring_unpin" "proc";
    /// pwrite() to the file.
    FileWrite = "file_write" "proc" "area" "page" "off" "len" "key";
    /// pread() of the file.
    FileRead = "file_read" "proc" "area" "page";
    /// fsync().
    Fsync = "fsync" "proc" "area";
    /// A hole in the file, in words.
    Punch = "punch" "proc" "area" "from" "len";
    /// Shorter, and as long as before.
    Truncate = "truncate" "proc" "area" "pages";
    /// MADV_DONTNEED.
    DontNeed = "dontneed" "proc" "area" "first" "count";
    /// MADV_FREE.
    Free = "free" "proc" "area" "first" "count";
    /// MADV_PAGEOUT.
    PageOut = "pageout" "proc" "area" "first" "count";
    /// MADV_COLD.
    Cold = "cold" "proc" "area" "first" "count";
    /// MADV_POPULATE_WRITE.
    Populate = "populate" "proc" "area" "first" "count";
    /// MADV_COLLAPSE.
    Collapse = "collapse" "proc" "area" "first" "count";
    /// MADV_MERGEABLE.
    Merge = "merge" "proc" "area" "first" "count";
    /// MADV_UNMERGEABLE.
    Unmerge = "unmerge" "proc" "area" "first" "count";
    /// mlock() or munlock().
    Lock = "lock" "proc" "area" "on";
    /// mprotect(): read-only or not.
    Protect = "protect" "proc" "area" "on";
    /// mremap() to another place.
    Mremap = "mremap" "proc" "area";
    /// move_pages() to a node.
    MovePages = "move_pages" "proc" "area" "first" "count" "node";
}

impl Verb {
    fn entry(self) -> &'static (Self, &'static str, &'static [&'static str]) {
        // The table is in the order of the enum.
        &VERBS[self as usize]
    }

    /// How it is written.
    pub(super) fn name(self) -> &'static str {
        self.entry().1
    }

    /// The one that is written so.
    pub(super) fn named(name: &str) -> Option<Self> {
        let entry = VERBS.iter().find(|entry| entry.1 == name)?;
        Some(entry.0)
    }

    /// The one with this number.
    pub(super) fn numbered(number: u64) -> Option<Self> {
        let entry = VERBS.get(usize::try_from(number).ok()?)?;
        Some(entry.0)
    }

    /// Whether a process does it, not the director.
    pub(super) fn is_ones_own(self) -> bool {
        self as usize >= Self::Fork as usize
    }

    /// Whether it reads or writes one page in some way.
    pub(super) fn is_deed(self) -> bool {
        let number = self as usize;
        (Self::Store as usize..=Self::FileRead as usize).contains(&number)
    }

    /// Whether it changes what is where, so that a strike has to come before or after.
    pub(super) fn is_delicate(self) -> bool {
        use Verb::*;
        matches!(
            self,
            Map | Unmap | Mremap | Fsync | Punch | Truncate | DontNeed | Free
        )
    }
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// What.
    pub(super) verb: Verb,
    /// Who, where, with what.
    pub(super) args: [u64; NUMBERS],
}

impl Step {
    /// A step with these numbers.
    pub(super) fn new(verb: Verb, numbers: &[u64]) -> Self {
        assert_eq!(numbers.len(), verb.entry().2.len(), "{verb:?}");
        let mut args = [0; NUMBERS];
        args[..numbers.len()].copy_from_slice(numbers);
        Self { verb, args }
    }

    /// The words that it writes: page, first word, how many, key. For those that write one page.
    pub(super) fn stroke(&self) -> Option<(u64, u64, u64, u64)> {
        use Verb::*;
        let [_, _, page, a, b, c, _] = self.args;
        match self.verb {
            Store | KernelRead | VmWrite | ProcMem | FileWrite => Some((page, a, b, c)),
            DirectRead | PinRead => Some((page, 0, crate::memory::WORDS, a)),
            _ => None,
        }
    }

    /// Whose memory it is about: for those that a process does to an area.
    pub(super) fn owner(&self) -> u64 {
        match self.verb {
            Verb::VmWrite | Verb::ProcMem => self.args[6],
            _ => self.args[0],
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name, words) = self.verb.entry();
        f.write_str(name)?;
        for (word, value) in words.iter().zip(self.args) {
            if *word == "key" {
                write!(f, " {word}={value:#x}")?;
            } else {
                write!(f, " {word}={value}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Step {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let mut parts = line.split_whitespace();
        let name = parts.next().context("an empty line")?;
        let verb = Verb::named(name).with_context(|| format!("nothing is called {name}"))?;
        let mut numbers = Vec::new();
        for (part, word) in parts.zip(verb.entry().2) {
            let value = part
                .strip_prefix(word)
                .and_then(|rest| rest.strip_prefix('='));
            let value = value.with_context(|| format!("{line}: no {word}"))?;
            numbers.push(match value.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16)?,
                None => value.parse()?,
            });
        }
        if numbers.len() != verb.entry().2.len() {
            bail!("{line}: too short");
        }
        Ok(Self::new(verb, &numbers))
    }
}

/// Reads a list of steps; what follows a # is a remark.
pub(super) fn parse(text: &str) -> Result<Vec<Step>> {
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .map(str::parse)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_read() {
        for (index, (verb, name, words)) in VERBS.iter().enumerate() {
            assert_eq!(*verb as usize, index);
            assert_eq!(Verb::named(name), Some(*verb));
            let numbers: Vec<u64> = (0..words.len() as u64).map(|n| n * 0x1234_5678).collect();
            let step = Step::new(*verb, &numbers);
            assert_eq!(parse(&format!("# one\n{step} # that\n\n")).unwrap(), [step]);
        }
        assert!(parse("spawn proc=1").is_err());
        assert!(parse("dance proc=1").is_err());
        assert!(parse("spawn proc=x family=1").is_err());
    }
}
