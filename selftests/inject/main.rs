// SPDX-License-Identifier: GPL-2.0

//! kmirror_inject: breaks memory, for tests. Never load it where data matters.
//!
//! One file, `/sys/kernel/debug/kmirror_inject/inject`, takes `<door> <frame number>`. The frame is
//! overwritten through the kernel's own mapping, so that nothing is left of its contents, and then
//! reported by the door:
//!
//! - `fail`: `memory_failure()`, as for an error that the hardware has found by itself;
//! - `fail_required`: the same, for an error that the writer has run into;
//! - `fail_counted`: the same as `fail`, with a reference to the page handed over;
//! - `mce`, `mce_deferred`: a record through the decode chain of machine checks, action optional or
//!   deferred;
//! - `held_fail`, `held_required`: `memory_failure()`, action optional or required, with a reference
//!   handed over that was taken before the overwriting. Between the two moments nobody can copy the
//!   frame, so this is what to use while the epochs of a mirror run by themselves;
//! - `silent`: not at all. Nobody has noticed the error yet.
//!
//! With `keep_` before the door the contents are left alone: a second report of the same error.
//! The write returns when the report has been dealt with, with its error if there was one.
//!
//! `hold` breaks nothing. It keeps the page in that frame where it is, until something else is written
//! here, such as `release`. Who looks a frame number up, holds the frame and then looks whether the
//! page still is there, breaks the frame that he means; without that the kernel may have moved the
//! page, and the frame may be anybody's. The doors but `held_*` give it up before they report it.
//!
//! An error comes at one moment, but overwriting and reporting are two: whoever uses this freezes
//! the cgroup of the processes that map the frame meanwhile (cgroup.freeze), see `inject` in
//! selftests/src/.

#![forbid(unsafe_code)]

use kernel::{debugfs, new_mutex, prelude::*, sync::Mutex, uaccess::UserSliceReader};
use kernel_inject::{memory_failure, memory_failure_held, overwrite, Hold, MceLog, Report};

module! {
    type: Module,
    name: "kmirror_inject",
    authors: ["The kmirror developers"],
    description: "Breaks memory, for tests of kmirror",
    license: "GPL",
}

/// What a broken frame contains.
const PATTERN: u8 = 0x5a;

struct Module {
    _file: Pin<KBox<debugfs::File<Mutex<Option<Hold>>>>>,
    _dir: debugfs::Dir,
}

impl kernel::Module for Module {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let dir = debugfs::Dir::new(c"kmirror_inject");
        let file = KBox::pin_init(
            dir.write_callback_file(
                c"inject",
                new_mutex!(None),
                &|held: &Mutex<Option<Hold>>, reader: &mut UserSliceReader| {
                    let mut text = [0; 64];
                    let len = reader.len();
                    let text = text.get_mut(..len).ok_or(EINVAL)?;
                    reader.read_slice(text)?;
                    obey(held, text)
                },
            ),
            GFP_KERNEL,
        )?;
        Ok(Self {
            _file: file,
            _dir: dir,
        })
    }
}

fn obey(held: &Mutex<Option<Hold>>, text: &[u8]) -> Result {
    let text = core::str::from_utf8(text).map_err(|_| EINVAL)?;
    let (door, pfn) = text.trim().split_once(' ').ok_or(EINVAL)?;
    let pfn: usize = pfn.parse().map_err(|_| EINVAL)?;
    // Another frame's is given up here.
    let hold = held.lock().take().filter(|hold| hold.pfn() == pfn);
    match door {
        "release" => {}
        "hold" => {
            let hold = match hold {
                Some(hold) => hold,
                None => Hold::take(pfn)?,
            };
            let before = held.lock().replace(hold);
            drop(before);
        }
        door => inject(door, pfn, hold)?,
    }
    Ok(())
}

fn inject(door: &str, pfn: usize, hold: Option<Hold>) -> Result {
    let (door, keep) = match door.strip_prefix("keep_") {
        Some(door) => (door, true),
        None => (door, false),
    };
    // With a reference handed over; taken before the overwriting or after.
    let (counted, early) = match door {
        "held_fail" | "held_required" => (true, true),
        "fail_counted" => (true, false),
        _ => (false, false),
    };
    let report = match door {
        "fail" | "fail_counted" | "held_fail" => Some(Report::Latent),
        "fail_required" | "held_required" => Some(Report::ActionRequired),
        "mce" | "mce_deferred" | "silent" => None,
        _ => return Err(EINVAL),
    };
    let mut hold = match hold {
        None if early => Some(Hold::take(pfn)?),
        hold => hold,
    };

    match &hold {
        _ if keep => {}
        Some(hold) => hold.overwrite(PATTERN),
        None => overwrite(pfn, PATTERN)?,
    }
    if !counted {
        // It would be one too many.
        drop(hold.take());
    }
    match (report, counted) {
        (Some(report), true) => {
            let hold = match hold {
                Some(hold) => hold,
                None => Hold::take(pfn)?,
            };
            memory_failure_held(hold, report)
        }
        (Some(report), false) => memory_failure(pfn, report),
        (None, _) if door == "silent" => Ok(()),
        (None, _) => {
            let log = KBox::pin_init(MceLog::new(), GFP_KERNEL)?;
            log.as_ref().log(pfn, door == "mce_deferred");
            Ok(())
        }
    }
}
