// SPDX-License-Identifier: GPL-2.0

//! The demonstration behind `make demo`: one database program three times, twice on breaking memory.
//!
//! sqlite3 inserts, updates and checks, told what to do round by round through its standard input.
//! First without errors, for the reference; then in a cgroup that is `tracked`, then in one that is
//! `off`. While a round is under way, random pages of the program's memory are destroyed and
//! reported as broken. The program knows nothing of any of this.

use anyhow::{bail, ensure, Context, Result};
use kmirror_selftests::cgroup::Cgroup;
use kmirror_selftests::inject::{report, Door};
use kmirror_selftests::mirror::Mirror;
use kmirror_selftests::pagemap::{self, Entry};
use kmirror_selftests::rng::Rng;
use kmirror_selftests::PAGE;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};

const ROUNDS: u64 = 10;
const ROWS: u64 = 1200;
/// Pages broken in each round.
const HITS: u64 = 8;
const SIGBUS: i32 = 7;

/// What a run came to.
struct Outcome {
    rounds: u64,
    broken: u64,
    restored: u64,
    signal: Option<i32>,
    dump: Option<String>,
    coverage_ppm: u64,
    replica_bytes: u64,
}

fn main() -> Result<()> {
    let reference = run("reference", None, false)?;
    ensure!(
        reference.signal.is_none(),
        "sqlite3 failed without any error"
    );
    let covered = run("protected", Some("tracked"), true)?;
    let bare = run("unprotected", Some("off"), true)?;
    table(&reference, &covered, &bare);

    ensure!(
        bare.signal == Some(SIGBUS),
        "the unprotected program was not killed"
    );
    ensure!(covered.signal.is_none(), "the protected program was killed");
    ensure!(
        covered.dump == reference.dump,
        "the protected program has other data"
    );
    ensure!(
        covered.restored == covered.broken,
        "not every page was restored"
    );
    Ok(())
}

/// Runs the program in a cgroup of its own, with or without errors.
fn run(name: &str, mode: Option<&str>, errors: bool) -> Result<Outcome> {
    println!(
        "\n{name}: {ROUNDS} rounds of insert, update and check{}",
        match mode {
            Some(mode) => format!(", mirror.mode {mode}, {HITS} pages broken in each"),
            None => ", no errors".into(),
        }
    );
    let cgroup = Cgroup::at(format!("/demo-{name}"));
    fs::create_dir_all(cgroup.dir())?;
    let mirror = Mirror::of(&cgroup);
    if let Some(mode) = mode {
        mirror.set("interval_ms", "100")?;
        mirror.set("mode", mode)?;
    }
    let database = format!("/tmp/{name}.db");
    let mut program = Program::start(&cgroup, &database)?;

    let mut rng = Rng::new(7);
    let mut outcome = Outcome {
        rounds: 0,
        broken: 0,
        restored: 0,
        signal: None,
        dump: None,
        coverage_ppm: 0,
        replica_bytes: 0,
    };
    for round in 0..ROUNDS {
        if program.begin(round).is_err() {
            break;
        }
        if errors {
            for _ in 0..HITS {
                if hit(
                    &cgroup,
                    &mirror,
                    &program,
                    mode == Some("tracked"),
                    &mut rng,
                )? {
                    outcome.broken += 1;
                }
            }
        }
        if program.finish(round).is_err() {
            break;
        }
        outcome.rounds += 1;
        if mode == Some("tracked") {
            mirror.sync()?;
            outcome.coverage_ppm = mirror.number("coverage")?;
            outcome.replica_bytes = mirror.number("current")?;
        }
        print!(".");
        std::io::stdout().flush()?;
    }
    println!();
    outcome.signal = program.end()?;
    if mode.is_some() {
        outcome.restored = mirror.event("restored")?;
    }
    if outcome.signal.is_none() {
        outcome.dump = Some(digest(&database)?);
    }
    cgroup.remove_tree()?;
    fs::remove_file(database).ok();
    Ok(outcome)
}

/// Breaks a random page of the program while it stands still. Returns whether there was one.
///
/// The error comes right after an epoch: what is written later than that is not covered, and would
/// be lost as it is today. Which page it is does not matter.
fn hit(
    cgroup: &Cgroup,
    mirror: &Mirror,
    program: &Program,
    tracked: bool,
    rng: &mut Rng,
) -> Result<bool> {
    let _frozen = cgroup.freeze()?;
    if tracked {
        mirror.sync()?;
    }
    let Some(pfn) = program.random_frame(rng)? else {
        return Ok(false);
    };
    if tracked && pagemap::flags(pfn)? & pagemap::MIRRORED == 0 {
        return Ok(false);
    }
    // The report's own result is the kernel's verdict, which shows in what becomes of the program.
    let _ = report(Door::FailRequired.as_str(), pfn);
    Ok(true)
}

/// A running sqlite3.
struct Program {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Program {
    fn start(cgroup: &Cgroup, database: &str) -> Result<Self> {
        fs::remove_file(database).ok();
        let procs = cgroup.file("cgroup.procs");
        let mut command = Command::new("sqlite3");
        command
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        // SAFETY: Writing to a file is allowed between fork and exec; nothing is shared that could
        // be locked, since this program has one thread.
        unsafe { command.pre_exec(move || fs::write(&procs, "0")) };
        let mut child = command.spawn().context("sqlite3")?;
        let answers = BufReader::new(child.stdout.take().context("no output")?);
        let mut this = Self { child, answers };
        // A page cache of 64 MiB, all of it in the program's own memory.
        this.send(
            "PRAGMA cache_size=-65536; PRAGMA journal_mode=memory; PRAGMA synchronous=off;
             PRAGMA temp_store=memory;
             CREATE TABLE t(id INTEGER PRIMARY KEY, round INT, n INT, body TEXT);
             CREATE INDEX by_n ON t(n);
             SELECT 'round 0 ready';",
        )?;
        this.expect("round 0 ready")?;
        Ok(this)
    }

    /// Tells the program what to do in a round, and lets it begin.
    fn begin(&mut self, round: u64) -> Result<()> {
        let first = round * ROWS + 1;
        let last = first + ROWS - 1;
        self.send(&format!(
            "WITH RECURSIVE r(i) AS (SELECT {first} UNION ALL SELECT i+1 FROM r WHERE i<{last})
               INSERT INTO t SELECT i, {round}, (i*7919)%10007, printf('%.*c', 400+i%300, char(65+i%26)) FROM r;
             UPDATE t SET n=(n*31+{round})%10007, body=body||'.' WHERE id%5={round}%5;
             DELETE FROM t WHERE id%97={round};
             SELECT count(*), sum(n), sum(length(body)) FROM t;
             PRAGMA integrity_check;
             SELECT 'round {round} done';"
        ))
    }

    /// Waits until the round is done.
    fn finish(&mut self, round: u64) -> Result<()> {
        self.expect(&format!("round {round} done"))
    }

    fn send(&mut self, text: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("no input")?;
        writeln!(input, "{text}")?;
        input.flush()?;
        Ok(())
    }

    fn expect(&mut self, wanted: &str) -> Result<()> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.answers.read_line(&mut line)? == 0 {
                bail!("sqlite3 has ended");
            }
            if line.trim_end() == wanted {
                return Ok(());
            }
        }
    }

    /// A random frame of its private anonymous memory.
    fn random_frame(&self, rng: &mut Rng) -> Result<Option<u64>> {
        let pid = self.child.id() as i32;
        let mut ranges = Vec::new();
        let mut pages = 0;
        for line in fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
            let mut words = line.split_whitespace();
            let (Some(range), Some("rw-p")) = (words.next(), words.next()) else {
                continue;
            };
            let name = words.nth(3).unwrap_or("");
            if !name.is_empty() && name != "[heap]" {
                continue;
            }
            let (start, end) = range.split_once('-').context("maps")?;
            let (start, end) = (
                u64::from_str_radix(start, 16)?,
                u64::from_str_radix(end, 16)?,
            );
            let count = (end - start) / PAGE;
            ranges.push((start, count));
            pages += count;
        }
        for _ in 0..1000 {
            let mut index = rng.below(pages.max(1));
            for &(start, count) in &ranges {
                if index < count {
                    if let Entry::Present(pfn) = pagemap::entry(pid, start + index * PAGE)? {
                        return Ok(Some(pfn));
                    }
                    break;
                }
                index -= count;
            }
        }
        Ok(None)
    }

    /// Closes its input and waits for it; the signal that killed it, if one did.
    fn end(mut self) -> Result<Option<i32>> {
        drop(self.child.stdin.take());
        Ok(self.child.wait()?.signal())
    }
}

/// A digest of all that is in the database, as another process reads it.
fn digest(database: &str) -> Result<String> {
    let out = Command::new("sh")
        .args(["-c", &format!("sqlite3 {database} .dump | sha256sum")])
        .output()?;
    ensure!(out.status.success(), "the database cannot be read");
    let text = String::from_utf8(out.stdout)?;
    Ok(text
        .split_whitespace()
        .next()
        .context("no digest")?
        .to_owned())
}

fn table(reference: &Outcome, covered: &Outcome, bare: &Outcome) {
    let end = |o: &Outcome| match o.signal {
        None => "finished".to_owned(),
        Some(SIGBUS) => "killed by SIGBUS".to_owned(),
        Some(signal) => format!("killed by signal {signal}"),
    };
    let data = |o: &Outcome| match &o.dump {
        None => "lost".to_owned(),
        Some(dump) if Some(dump) == reference.dump.as_ref() => "as without errors".to_owned(),
        Some(_) => "DIFFERENT".to_owned(),
    };
    let row = |name: &str, left: String, right: String| {
        println!("{name:<26} {left:>20} {right:>20}");
    };
    println!();
    row("", "protected".into(), "unprotected".into());
    row("mirror.mode", "tracked".into(), "off".into());
    row(
        "pages broken",
        covered.broken.to_string(),
        bare.broken.to_string(),
    );
    row(
        "pages restored",
        covered.restored.to_string(),
        bare.restored.to_string(),
    );
    row("the program", end(covered), end(bare));
    row(
        "rounds done",
        format!("{} of {ROUNDS}", covered.rounds),
        format!("{} of {ROUNDS}", bare.rounds),
    );
    row("its database", data(covered), data(bare));
    row(
        "coverage after an epoch",
        format!("{:.2} %", covered.coverage_ppm as f64 / 10_000.0),
        "-".into(),
    );
    row(
        "memory for replicas",
        format!(
            "{:.1} MiB",
            covered.replica_bytes as f64 / f64::from(1 << 20)
        ),
        "-".into(),
    );
    if let Some(dump) = &covered.dump {
        println!("\nsha256 of both dumps: {dump}");
    }
}
