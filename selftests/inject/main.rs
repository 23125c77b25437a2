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
//! An error comes at one moment, but overwriting and reporting are two: whoever uses this freezes
//! the cgroup of the processes that map the frame meanwhile (cgroup.freeze), see `inject` in
//! selftests/src/.

#![forbid(unsafe_code)]

use kernel::{debugfs, prelude::*, sync::Arc, uaccess::UserSliceReader};
use kernel_inject::{memory_failure, overwrite, overwrite_and_report, MceLog, Report};

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
    _file: Pin<KBox<debugfs::File<Arc<()>>>>,
    _dir: debugfs::Dir,
}

impl kernel::Module for Module {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let dir = debugfs::Dir::new(c"kmirror_inject");
        let file = KBox::pin_init(
            dir.write_callback_file(
                c"inject",
                Ok::<_, Error>(Arc::new((), GFP_KERNEL)?),
                &|_: &Arc<()>, reader: &mut UserSliceReader| {
                    let mut text = [0; 64];
                    let len = reader.len();
                    let text = text.get_mut(..len).ok_or(EINVAL)?;
                    reader.read_slice(text)?;
                    inject(text)
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

fn inject(text: &[u8]) -> Result {
    let text = core::str::from_utf8(text).map_err(|_| EINVAL)?;
    let (door, pfn) = text.trim().split_once(' ').ok_or(EINVAL)?;
    let pfn: usize = pfn.parse().map_err(|_| EINVAL)?;
    let (door, keep) = match door.strip_prefix("keep_") {
        Some(door) => (door, true),
        None => (door, false),
    };
    let held = match door {
        "held_fail" => Some(false),
        "held_required" => Some(true),
        _ => None,
    };
    let report = match door {
        "fail" | "held_fail" => Some(Report::Latent),
        "fail_required" | "held_required" => Some(Report::ActionRequired),
        "fail_counted" => Some(Report::CountIncreased),
        "mce" | "mce_deferred" | "silent" => None,
        _ => return Err(EINVAL),
    };

    if let (Some(required), false) = (held, keep) {
        return overwrite_and_report(pfn, PATTERN, required);
    }
    if !keep {
        overwrite(pfn, PATTERN)?;
    }
    match report {
        Some(report) => memory_failure(pfn, report),
        None if door == "silent" => Ok(()),
        None => {
            let log = KBox::pin_init(MceLog::new(), GFP_KERNEL)?;
            log.as_ref().log(pfn, door == "mce_deferred");
            Ok(())
        }
    }
}
