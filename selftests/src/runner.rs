// SPDX-License-Identifier: GPL-2.0

//! Runs cases one after the other, each as a process of its own, and cleans up behind them.

use crate::case::{Case, Context, Skip};
use crate::cgroup::Cgroup;
use crate::kmsg::Log;
use crate::ktap::{Outcome, Stream};
use crate::{file, module, wait};
use anyhow::{bail, Context as _, Result};
use nix::errno::Errno;
use nix::poll::PollFlags;
use std::io::Read;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The exit status of a test that was skipped, and the word before its reason.
const SKIPPED: i32 = 4;
const REASON: &str = "skipped: ";

/// Runs `cases` and prints KTAP. Returns the exit status of a kselftest.
pub fn run(cases: &[&Case], seed: u64) -> u8 {
    let mut stream = Stream::start(cases.len());
    Stream::note(&format!("seed {seed}"));
    for case in cases {
        let start = Instant::now();
        let outcome = one(case, seed).unwrap_or_else(|error| {
            Stream::note(&format!("{error:#}"));
            Outcome::Fail
        });
        let took = start.elapsed();
        Stream::note(&format!(
            "{} took {}.{:03} s",
            case.name,
            took.as_secs(),
            took.subsec_millis()
        ));
        if outcome == Outcome::Fail {
            Stream::note(&format!("what this shows: {}", case.guard));
        }
        stream.result(case.name, &outcome);
        if outcome == Outcome::Fail && is_broken() {
            // Whatever is tested now, it is not this kernel as it should be.
            println!("Bail out! the kernel has oopsed");
            break;
        }
    }
    stream.finish()
}

/// Whether the kernel has died a little: /proc/sys/kernel/tainted has bit 7.
fn is_broken() -> bool {
    file::number("/proc/sys/kernel/tainted").is_ok_and(|bits| bits & 1 << 7 != 0)
}

/// Whether the kernel watches itself (DEBUG=1). One that follows its locks says so.
pub fn is_watchful() -> bool {
    Path::new("/proc/lockdep").exists()
}

/// How many times slower it is then.
fn slowness() -> u64 {
    if is_watchful() {
        4
    } else {
        1
    }
}

fn one(case: &Case, seed: u64) -> Result<Outcome> {
    if !Path::new("/sys/kernel/kmirror").exists() && module::find("kmirror.ko").is_err() {
        return Ok(Outcome::Skip("no kmirror.ko".into()));
    }
    module::provide()?;
    let root = Cgroup::at("");
    root.count_memory()?;
    let cgroup = root.child(&format!("kmirror-test-{}", case.name))?;
    cgroup.count_memory()?;
    let mut log = Log::from_now()?;
    let result = direct(case, &cgroup, seed);
    let clean = cgroup.remove_tree().context("cleaning up");
    let complaints = log.complaints()?;
    for line in &complaints {
        Stream::note(&format!("kernel: {line}"));
    }
    let outcome = result?;
    clean?;
    Ok(if complaints.is_empty() {
        outcome
    } else {
        Outcome::Fail
    })
}

/// Runs the director of a case, within its time.
fn direct(case: &Case, cgroup: &Cgroup, seed: u64) -> Result<Outcome> {
    let (output, its) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let mut director = Command::new("/proc/self/exe")
        .args(["--director", case.name, &seed.to_string()])
        .arg(cgroup.path())
        .stdin(Stdio::null())
        .stdout(its.try_clone()?)
        .stderr(its)
        .spawn()
        .context("starting the director")?;
    let limit = case.limit * slowness();
    let ended = watch(&mut director, &output, Duration::from_secs(limit))?;
    if !ended {
        Stream::note(&format!("killed after {limit} s"));
        director.kill()?;
        if !watch(&mut director, &output, wait::BOUND)? {
            bail!("the director of {} cannot be killed", case.name);
        }
    }
    let status = director.wait()?;
    // Victims that are still alive hold the pipe open, so not to its end.
    let text = drain(&output)?;
    let skipped = text.lines().find_map(|line| line.strip_prefix(REASON));
    match (ended, status.code(), skipped) {
        (true, Some(SKIPPED), Some(why)) => return Ok(Outcome::Skip(why.to_owned())),
        (true, Some(0), _) => {
            Stream::note(&text);
            return Ok(Outcome::Pass);
        }
        (true, None, _) => Stream::note(&format!("the director has died: {status}")),
        _ => {}
    }
    Stream::note(&text);
    Ok(Outcome::Fail)
}

/// Waits until the director is gone; copies what it says meanwhile if that is much.
fn watch(director: &mut Child, output: &OwnedFd, limit: Duration) -> Result<bool> {
    // The pipe must hold all that a case says, or the director waits for us.
    // SAFETY: A system call on an open descriptor, without pointers.
    unsafe {
        libc::fcntl(
            std::os::fd::AsRawFd::as_raw_fd(output),
            libc::F_SETPIPE_SZ,
            1 << 20,
        )
    };
    // SAFETY: A system call without pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, director.id(), 0) };
    let fd = i32::try_from(Errno::result(fd).context("pidfd_open")?)?;
    // SAFETY: The descriptor is new and nobody else's.
    let pidfd = unsafe { OwnedFd::from_raw_fd(fd) };
    wait::ready(pidfd.as_fd(), PollFlags::POLLIN, limit)
}

fn drain(output: &OwnedFd) -> Result<String> {
    let mut file = std::fs::File::from(output.try_clone()?);
    let mut bytes = Vec::new();
    let mut buf = [0; 4096];
    while wait::ready(output.as_fd(), PollFlags::POLLIN, Duration::ZERO)? {
        match file.read(&mut buf)? {
            0 => break,
            len => bytes.extend_from_slice(&buf[..len]),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The director's side: runs the body of a case. Returns the exit status.
pub fn director(cases: &[&Case], args: &[String]) -> Result<u8> {
    let [name, seed, cgroup] = args else {
        bail!("a director is not started by hand");
    };
    let case = cases.iter().find(|case| case.name == name);
    let case = case.with_context(|| format!("no case {name}"))?;
    let cx = Context {
        cgroup: Cgroup::at(cgroup),
        seed: seed.parse()?,
    };
    match (case.body)(&cx) {
        Ok(()) => Ok(0),
        Err(error) => Ok(if let Some(skip) = error.downcast_ref::<Skip>() {
            println!("{REASON}{skip}");
            SKIPPED as u8
        } else {
            println!("{error:#}");
            1
        }),
    }
}
