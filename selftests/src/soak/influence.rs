// SPDX-License-Identifier: GPL-2.0

//! What the director does to the kernel and to kmirror while processes are at work.

use super::director::Director;
use super::step::{Step, Verb};
use crate::mirror::{self, Mirror, NEVER_MS};
use crate::{file, wait, PAGE};
use anyhow::{bail, Context, Result};
use std::time::Duration;

const KSM: &str = "/sys/kernel/mm/ksm";
pub(super) const KHUGEPAGED: &str = "/sys/kernel/mm/transparent_hugepage/khugepaged";
/// Milliseconds that khugepaged sleeps when it is not told to look.
pub(super) const ASLEEP: &str = "100000000";
/// How long the kernel's own threads may take to look at everything.
const LOOK: Duration = Duration::from_secs(2);

/// The modes that a cgroup can be set to, by number.
const MODES: [&str; 3] = ["off", "tracked", "inherit"];

impl Director<'_> {
    /// A step that is not about one process.
    pub(super) fn influence(&mut self, step: &Step) -> Result<()> {
        let [a, b, c, ..] = step.args;
        match step.verb {
            Verb::Move => {
                let family = self.model.procs[&a].family as usize;
                let pid = self.hands[&a].pid;
                self.sandbox.families[family].groups[b as usize].add(pid)
            }
            Verb::Mode => {
                let mirror = self.mirror(a, b);
                mirror.set("mode", MODES[c as usize % MODES.len()])?;
                self.quieten(a, &mirror)
            }
            Verb::Interval => {
                let mirror = self.mirror(a, b);
                let ms = if c < 1000 {
                    c.max(10).to_string()
                } else {
                    NEVER_MS.into()
                };
                mirror.set("interval_ms", &ms)?;
                self.quieten(a, &mirror)
            }
            Verb::Limit => {
                let limit = match c {
                    0 => "max".into(),
                    pages => (pages * PAGE).to_string(),
                };
                self.mirror(a, b).set("max", &limit)
            }
            Verb::Sync => self.mirror(a, b).sync(),
            Verb::Region => {
                // There need not be so much in one piece.
                let _ = mirror::resize(a << 20);
                Ok(())
            }
            Verb::Press => {
                let path = self.sandbox.families[a as usize].cgroup.file("memory.max");
                // It is not reached at once where much is locked, and then is an error.
                let _ = file::try_write(path, &(b * PAGE).to_string());
                Ok(())
            }
            Verb::Reclaim => {
                let path = self.sandbox.families[a as usize]
                    .cgroup
                    .file("memory.reclaim");
                // The same.
                let _ = file::try_write(path, &(b * PAGE).to_string());
                Ok(())
            }
            Verb::Compact => file::write("/proc/sys/vm/compact_memory", "1"),
            Verb::Ksm => self.merge(),
            Verb::Khugepaged => self.make_huge(),
            Verb::Split => self.split(a, b),
            Verb::Again => self.strike_again(a),
            Verb::Replica => self.strike_replica(a, b),
            other => bail!("{other:?} is not for the director"),
        }
    }

    fn mirror(&self, family: u64, group: u64) -> Mirror {
        Mirror::of(&self.sandbox.families[family as usize].groups[group as usize])
    }

    /// A new interval and a new mode begin an epoch. Where none is to run by itself, this one is
    /// waited for: an error must not come in the middle of it, see [`super::strike`].
    fn quieten(&self, family: u64, group: &Mirror) -> Result<()> {
        if self
            .model
            .restless
            .iter()
            .any(|&(restless, _)| restless == family)
        {
            return Ok(());
        }
        group.sync()?;
        Mirror::of(&self.sandbox.families[family as usize].cgroup).sync()
    }

    /// Lets KSM look at everything twice. It does not run otherwise: it does not survive a broken
    /// frame in its tree, with kmirror or without.
    fn merge(&mut self) -> Result<()> {
        let run = format!("{KSM}/run");
        if file::try_write(&run, "2").is_err() {
            return Ok(());
        }
        let scans = || file::number(format!("{KSM}/full_scans"));
        let end = scans().context("KSM")? + 2;
        file::write(&run, "1")?;
        // With nothing to merge it does not even begin to count.
        let _ = wait::until("KSM has looked twice", LOOK, || Ok(scans()? >= end));
        file::write(&run, "0")
    }

    /// Lets khugepaged look at everything. It sleeps otherwise, see [`super::machine`].
    fn make_huge(&mut self) -> Result<()> {
        let passes = || file::number(format!("{KHUGEPAGED}/full_scans"));
        let Ok(before) = passes() else {
            return Ok(());
        };
        file::write(format!("{KHUGEPAGED}/scan_sleep_millisecs"), "0")?;
        // Where it has nobody to look at it does not even begin to count.
        let _ = wait::until(
            "khugepaged has looked",
            LOOK,
            || Ok(passes()? >= before + 2),
        );
        file::write(format!("{KHUGEPAGED}/scan_sleep_millisecs"), ASLEEP)
    }

    fn split(&mut self, proc: u64, area: u64) -> Result<()> {
        let Some(hand) = self.hands.get(&proc) else {
            return Ok(());
        };
        let (Some(place), Some(area)) = (hand.places.get(&area), self.model.areas.get(&area))
        else {
            return Ok(());
        };
        let end = place + area.pages * PAGE;
        let text = format!("{},{place:#x},{end:#x}", hand.pid);
        // Those that are in use by somebody are not split.
        let _ = file::try_write("/sys/kernel/debug/split_huge_pages", &text);
        Ok(())
    }
}
