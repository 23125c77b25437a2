// SPDX-License-Identifier: GPL-2.0

//! Runs, one after the other, until it is time: each begins with fresh processes and a seed of its
//! own, so that one that fails can be done again from its beginning.

use super::director::Director;
use super::generator::Generator;
use super::ledger::Tally;
use super::machine::Machine;
use super::shorten::shorten;
use super::step::{self, Step, Verb};
use super::verdict::{Died, Failure};
use crate::cgroup::Cgroup;
use crate::rng::mix;
use crate::{file, module};
use anyhow::{Context, Result};
use std::time::{Duration, Instant};

/// How often a run that failed is tried again before it counts as one that does not.
const TRIES: usize = 3;
/// Times that a shorter run is tried, and for how long at most.
const QUESTIONS: usize = 400;
const SHORTENING: Duration = Duration::from_secs(600);
/// Steps that are printed if a run cannot be made to fail again.
const TAIL: usize = 60;
/// kB of memory that must be left. What is broken stays so until the next boot.
const SPARE: u64 = 400 << 10;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it begins.
    pub seed: u64,
    /// How long it goes on.
    pub time: Duration,
    /// Errors after which it ends, too.
    pub errors: u64,
    /// Rounds of a run.
    pub rounds: u64,
    /// Errors in a round, at most.
    pub strikes: u64,
    /// Steps to be done instead.
    pub replay: Option<String>,
    /// For a test of the soak itself: steps of this name change what nobody knows of.
    pub plant: Option<String>,
    /// Seconds between two lines of progress.
    pub progress: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            time: Duration::from_secs(60),
            errors: u64::MAX,
            rounds: 150,
            strikes: 64,
            replay: None,
            plant: None,
            progress: 20,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Runs that ended well, and those that did not.
    pub passed: u64,
    /// The same.
    pub failed: u64,
    /// Errors in all.
    pub errors: u64,
    /// Pages that came back.
    pub restored: u64,
    /// Pages that were lost and read again as they were on disk.
    pub from_disk: u64,
    /// What is left of the run that failed, and why it did.
    pub shortened: Vec<String>,
    /// The same.
    pub why: Option<String>,
}

/// What ends a run.
enum End {
    Well,
    /// A process was killed by the kernel, as it may be.
    Early(String),
    Badly(String),
}

/// Does steps with fresh processes. Those that were done are left in `done`.
fn perform(
    machine: &mut Machine,
    tally: &mut Tally,
    parent: &Cgroup,
    plant: Option<Verb>,
    mut next: impl FnMut(&mut Director<'_>) -> Option<Step>,
    done: &mut Vec<Step>,
) -> End {
    let mut all = || -> Result<()> {
        let begin = Instant::now();
        crate::mirror::resize(module::REGION).context("resizing the region")?;
        let mut director = Director::new(machine, tally, parent, plant)?;
        director.tally.spend("begin", begin);
        while let Some(step) = next(&mut director) {
            done.push(step);
            director.step(&step)?;
        }
        director.end()
    };
    match all() {
        Ok(()) => End::Well,
        Err(error) if error.is::<Died>() => End::Early(format!("{error:#}")),
        Err(error) if error.is::<Failure>() => End::Badly(format!("{error:#}")),
        Err(error) => End::Badly(format!("trouble: {error:#}")),
    }
}

/// Soaks, in cgroups below `parent`.
pub fn soak(options: &Options, parent: &Cgroup) -> Result<Report> {
    let plant = match &options.plant {
        Some(name) => Some(Verb::named(name).context("no such step to plant a fault in")?),
        None => None,
    };
    let mut machine = Machine::new()?;
    let (kinds, missing) = machine.kinds();
    missing.iter().for_each(|line| println!("# {line}"));
    let mut tally = Tally::default();
    let mut report = Report::default();
    let start = Instant::now();
    let mut told = Instant::now();
    for number in 0.. {
        // The first run has the seed itself, so that any run can be done again by its own.
        let seed = match number {
            0 => options.seed,
            _ => mix(options.seed ^ mix(number)),
        };
        let mut done = Vec::new();
        let given = options.replay.as_deref().map(step::parse).transpose()?;
        let mut given = given.map(Vec::into_iter);
        let mut generator = Generator::new(seed, &kinds, options.strikes);
        let mut rounds = 0;
        let next = |director: &mut Director<'_>| {
            if told.elapsed().as_secs() >= options.progress {
                told = Instant::now();
                println!(
                    "# {:4} s, {}",
                    start.elapsed().as_secs(),
                    director.tally.progress()
                );
            }
            if let Some(given) = &mut given {
                return given.next();
            }
            let step = generator.next(&director.model);
            rounds += u64::from(step.verb == Verb::Round);
            let late = start.elapsed() > options.time || director.tally.errors() >= options.errors;
            (rounds <= 2 * options.rounds && !(late && step.verb == Verb::Round)).then_some(step)
        };
        let end = perform(&mut machine, &mut tally, parent, plant, next, &mut done);
        match end {
            End::Well => report.passed += 1,
            End::Early(why) => {
                println!("# a run ends early: {why}");
                report.passed += 1;
            }
            End::Badly(why) => {
                report.failed += 1;
                println!("# FAILED after {} steps: {why}", done.len());
                println!("# again: make soak SEED={seed}");
                let mut left = Vec::new();
                if !is_broken() {
                    left = again_shorter(&mut machine, parent, plant, &done);
                }
                if left.is_empty() {
                    println!("# it does not fail again; its last steps:");
                    let from = done.len().saturating_sub(TAIL);
                    done[from..].iter().for_each(|step| println!("#   {step}"));
                }
                report.shortened = left.iter().map(Step::to_string).collect();
                report.why = Some(why);
                break;
            }
        }
        let spare = file::meminfo("MemAvailable")? > SPARE;
        let late = start.elapsed() > options.time || tally.errors() >= options.errors;
        if given.is_some() || late || !spare {
            break;
        }
    }
    report.errors = tally.errors();
    report.restored = tally.kinds.values().map(|kind| kind.restored).sum();
    report.from_disk = tally.kinds.values().map(|kind| kind.older).sum();
    tally.figures().iter().for_each(|line| println!("{line}"));
    println!("figure all milliseconds {}", start.elapsed().as_millis());
    Ok(report)
}

/// Whether the kernel has oopsed, so that nothing can be learned from it any more.
fn is_broken() -> bool {
    file::number("/proc/sys/kernel/tainted").is_ok_and(|bits| bits & 1 << 7 != 0)
}

/// Finds out which steps of a run are needed for it to fail, and prints them.
fn again_shorter(
    machine: &mut Machine,
    parent: &Cgroup,
    plant: Option<Verb>,
    steps: &[Step],
) -> Vec<Step> {
    let mut last = String::new();
    let mut fails = |list: &[Step], tries: usize| {
        (0..tries).any(|_| {
            let mut list = list.iter().copied();
            // Figures of its own, which nobody wants.
            let mut tally = Tally::default();
            let next = |_: &mut Director<'_>| list.next();
            let end = perform(machine, &mut tally, parent, plant, next, &mut Vec::new());
            if let End::Badly(why) = end {
                last = why;
                return true;
            }
            false
        })
    };
    println!("# making it shorter");
    if !fails(steps, TRIES) {
        return Vec::new();
    }
    let start = Instant::now();
    let mut questions = 0;
    let may_ask = || {
        questions += 1;
        questions <= QUESTIONS && start.elapsed() < SHORTENING && !is_broken()
    };
    let left = shorten(steps.to_vec(), may_ask, |list| fails(list, 1));
    println!(
        "# {} of {} steps are enough, for make soak REPLAY=file:",
        left.len(),
        steps.len()
    );
    println!("#--- begin");
    left.iter().for_each(|step| println!("{step}"));
    println!("#--- end: {last}");
    left
}
