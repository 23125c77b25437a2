// SPDX-License-Identifier: GPL-2.0

//! What stands for xv6's usertests and its commands: many short programs, pipes, memory that comes
//! and goes, files; and the commands of busybox.

use super::program::{command, run, Dialogue};
use super::Work;
use anyhow::{ensure, Context, Result};
use std::fs;
use std::hint::black_box;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;

const DIR: &str = "/tmp/suite";

/// fork, exec, pipe, sbrk and files.
pub(super) struct Suite;

impl Suite {
    pub(super) fn new() -> Result<Self> {
        fs::create_dir_all(DIR)?;
        Ok(Self)
    }
}

/// fork, exec and exit.
fn processes() -> Result<()> {
    for _ in 0..5 {
        run(&["/bin/busybox", "true"])?;
    }
    Ok(())
}

/// 64 KiB to a process and back.
fn pipes() -> Result<()> {
    let mut cat = command(&["/bin/busybox", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut into = cat.stdin.take().context("no stdin")?;
    let mut from = cat.stdout.take().context("no stdout")?;
    let (mut there, mut back) = (vec![0; 4096], vec![0; 4096]);
    for turn in 0..16 {
        there.fill(turn);
        into.write_all(&there)?;
        from.read_exact(&mut back)?;
        ensure!(there == back, "the pipe has other bytes");
    }
    drop(into);
    ensure!(cat.wait()?.success(), "cat failed");
    Ok(())
}

/// Memory that is asked for, written, and given back.
fn memory() {
    for size in [64 << 10, 1 << 20, 2 << 20] {
        let mut memory = vec![0_u8; size];
        memory.iter_mut().step_by(512).for_each(|byte| *byte = 1);
        black_box(memory);
    }
}

/// Files that are made, written, linked, renamed, read and removed.
fn files() -> Result<()> {
    let dir = Path::new(DIR);
    let bytes = [7; 6000];
    for number in 0..20 {
        let (name, link) = (dir.join(number.to_string()), dir.join("link"));
        fs::write(&name, bytes)?;
        fs::hard_link(&name, &link)?;
        fs::rename(&link, dir.join("renamed"))?;
        ensure!(
            fs::read(dir.join("renamed"))? == bytes,
            "the file has other bytes"
        );
        fs::remove_file(dir.join("renamed"))?;
        fs::create_dir(&link)?;
        fs::remove_dir(&link)?;
    }
    for number in 0..20 {
        fs::remove_file(dir.join(number.to_string()))?;
    }
    Ok(())
}

impl Work for Suite {
    fn unit(&mut self) -> Result<()> {
        processes()?;
        pipes()?;
        memory();
        files()
    }
}

/// A shell that runs commands.
pub(super) struct Commands(Dialogue);

/// Commands as processes of their own, as in xv6.
const SCRIPT: &str = r"b=/bin/busybox; cd /tmp/suite
i=0; while [ $i -lt 200 ]; do echo line $i of a text with some words; i=$((i + 1)); done >text
$b cat text | $b grep 7 | $b wc -l >count
$b sort -r text | $b head -n 20 | $b sed s/line/LINE/ >sorted
$b mkdir -p a/b; $b cp text a/b/copy; $b ln a/b/copy a/link; $b ls -lR . >list; $b md5sum a/b/copy text >sums
$b mv a/b/copy a/moved; $b cmp a/moved text; $b rm -r a; $b find . -name 'te*' >found
$b sleep 0 & $b kill -0 $!; wait
$b awk '{ n += $2 } END { print n }' text >sum; $b tar cf all.tar text list sums; $b gzip -c all.tar | $b gunzip >again
$b cat sum; echo done
";

impl Commands {
    pub(super) fn new() -> Result<Self> {
        fs::create_dir_all(DIR)?;
        Ok(Self(Dialogue::start(command(&["/bin/busybox", "sh"]))?))
    }
}

impl Work for Commands {
    fn unit(&mut self) -> Result<()> {
        let said = self.0.ask(SCRIPT, "done")?;
        ensure!(said.trim() == "19900", "the shell says {said:?}");
        Ok(())
    }
}
