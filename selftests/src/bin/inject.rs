// SPDX-License-Identifier: GPL-2.0

//! Breaks memory under a program: freezes its cgroup, overwrites a frame, reports it, and thaws.
//!
//! ```text
//! inject [--door DOOR] --cgroup PATH --pfn FRAME
//! inject [--door DOOR] --pid PID --addr ADDRESS
//! ```
//!
//! DOOR is one that the module kmirror_inject knows, `fail` if none is given. Prints one line. Exit
//! status 0 if the error was reported, whatever became of the page.

use anyhow::{bail, Context, Result};
use kmirror_selftests::cgroup::Cgroup;
use kmirror_selftests::pagemap::Entry;
use kmirror_selftests::{inject, number};
use std::process::ExitCode;

fn main() -> ExitCode {
    match real_main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("inject: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn real_main() -> Result<()> {
    let (mut door, mut cgroup) = ("fail".to_owned(), None);
    let (mut pfn, mut pid, mut addr) = (None, None, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args
            .next()
            .with_context(|| format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--door" => door = value,
            "--cgroup" => cgroup = Some(Cgroup::at(value.trim_start_matches("/sys/fs/cgroup/"))),
            "--pfn" => pfn = Some(number(&value)?),
            "--pid" => pid = Some(i32::try_from(number(&value)?)?),
            "--addr" => addr = Some(number(&value)?),
            _ => bail!("{arg} is not known"),
        }
    }
    match (cgroup, pfn, pid, addr) {
        (Some(cgroup), Some(pfn), None, None) => match inject::strike(&cgroup, &door, pfn)? {
            Ok(()) => println!("frame {pfn:#x} by {door}: reported"),
            Err(error) => println!("frame {pfn:#x} by {door}: {error}"),
        },
        (None, None, Some(pid), Some(addr)) => {
            let struck = inject::strike_at(&Cgroup::of(pid)?, &door, pid, addr)?;
            let became = match struck.new {
                Entry::Present(new) if new == struck.old => "left in place".to_owned(),
                Entry::Present(new) => format!("restored to frame {new:#x}"),
                Entry::Swapped => "lost".to_owned(),
                Entry::None => "dropped".to_owned(),
            };
            let error = struck.result.err().map(|e| format!(" ({e})"));
            let old = struck.old;
            println!(
                "page {addr:#x} of {pid}, frame {old:#x} by {door}: {became}{}",
                error.unwrap_or_default()
            );
        }
        _ => bail!("either --cgroup and --pfn, or --pid and --addr"),
    }
    Ok(())
}
