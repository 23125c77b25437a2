// SPDX-License-Identifier: GPL-2.0

//! Programs that are run again and again: a compiler, and stress-ng.

use super::program::run;
use super::Work;
use anyhow::Result;

/// Runs one command with its words.
pub(super) struct Tool(Vec<&'static str>);

impl Tool {
    /// gcc, with optimisation, on two real files (from the kernel's scripts/dtc/libfdt), which name
    /// their own headers as if the system had them.
    pub(super) fn compile() -> Self {
        Self(vec![
            "/bin/sh",
            "-c",
            "cd /kmirror/libfdt && for f in fdt_rw fdt_ro; do gcc -O2 -I. -c -o /tmp/$f.o $f.c || exit; done",
        ])
    }

    /// All of stress-ng's ways to write memory, on 32 MiB.
    pub(super) fn stress() -> Self {
        Self(vec![
            "stress-ng",
            "--vm",
            "1",
            "--vm-bytes",
            "32m",
            "--vm-method",
            "all",
            "--vm-ops",
            "2000",
            "--seed",
            "1",
            "--temp-path",
            "/tmp",
            "--oom-avoid",
        ])
    }
}

impl Work for Tool {
    fn unit(&mut self) -> Result<()> {
        run(&self.0)
    }
}
