// SPDX-License-Identifier: GPL-2.0

//! The driver: measures workloads, each under every mode, one JSON line for each on the port.

use crate::mode::Mode;
use crate::peer::Kind;
use crate::sample::{Parts, Profiler};
use crate::tenant::{Done, Tenant};
use crate::window::{cover, Coverage, Effort, Meter};
use crate::{probe, settings};
use anyhow::{Context, Result};
use kmirror_selftests::cgroup::Cgroup;
use kmirror_selftests::mirror::Mirror;
use kmirror_selftests::{file, module};
use nix::time::{clock_gettime, ClockId};
use nix::unistd::Pid;
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Where the host listens.
const PORT: &str = "/dev/ttyS1";
/// Looks at coverage in each epoch. Not a divisor of anything in the workloads.
const SAMPLES: u32 = 11;

/// What was measured of one workload under one mode.
#[derive(Debug, Serialize)]
struct Row {
    workload: String,
    mode: String,
    /// Which of several of the same.
    run: u32,
    units: u64,
    ns: u64,
    #[serde(flatten)]
    extra: Option<Extra>,
}

/// What is told besides.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Extra {
    Tracked(Box<Tracked>),
    Peer(Peer),
}

/// What there is to tell of a tracker outside.
#[derive(Debug, Serialize)]
struct Peer {
    interval_ms: u64,
    rounds: u64,
    /// Pages copied in the window, and CPU time taken for finding and copying them.
    copied: u64,
    worker_ns: u64,
}

/// What there is to tell of kmirror.
#[derive(Debug, Serialize)]
struct Tracked {
    interval_ms: u64,
    #[serde(flatten)]
    effort: Effort,
    /// What was done to begin with.
    first: Effort,
    #[serde(flatten)]
    details: Option<Details>,
    /// Pages that could be current.
    protected: u64,
    /// Bytes of replicas.
    replica: u64,
}

/// What is only looked at where time is counted.
#[derive(Debug, Serialize)]
struct Details {
    /// Where the mirror's thread was found at work.
    parts: Parts,
    coverage: Coverage,
}

pub(crate) fn run() -> Result<()> {
    let mut port = OpenOptions::new().write(true).open(PORT)?;
    let result = measure(&mut |line: &str| Ok(writeln!(port, "{line}")?));
    let end = match &result {
        Ok(()) => "\"end\"".to_owned(),
        Err(error) => serde_json::to_string(&serde_json::json!({"error": format!("{error:#}")}))?,
    };
    // The host has no other way to learn it.
    writeln!(port, "{end}")?;
    result
}

fn measure(tell: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    let modes = settings::text("modes")?;
    let modes: Vec<Mode> = modes.split(',').map(Mode::parse).collect::<Result<_>>()?;
    let runs: u32 = settings::number("runs")?;
    // The memory controller says whose a page of a file is.
    file::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory")?;
    let workload = settings::text("workload")?;
    if let Some(probe) = probe::Kind::parse(&workload) {
        return tell(&probe.measure().context(workload)?);
    }
    // In turn: what changes on the machine while a clock runs changes all modes.
    for run in 0..runs {
        for &mode in &modes {
            provide(mode)?;
            let row = one(&workload, mode, run).with_context(|| format!("{workload}, {mode}"))?;
            tell(&serde_json::to_string(&row)?)?;
        }
    }
    Ok(())
}

/// Loads kmirror, or unloads it.
fn provide(mode: Mode) -> Result<()> {
    match (mode.needs_module(), module::is_loaded("kmirror")) {
        (true, false) => {
            module::load_kmirror(&format!("region={}", settings::text("region")?))?;
        }
        (false, true) => module::unload("kmirror").context("unloading kmirror")?,
        _ => {}
    }
    Ok(())
}

/// One workload under one mode, from its start to its end.
fn one(workload: &str, mode: Mode, run: u32) -> Result<Row> {
    let cgroup = Cgroup::at("/").child("bench")?;
    let register = matches!(mode, Mode::Peer(Kind::PagemapScan, _));
    let mut tenant = Tenant::start(workload, cgroup, register)?;
    let (done, extra) = match (mode, mode.interval()) {
        (_, None) => {
            let window = Duration::from_millis(settings::number("window_ms")?);
            // Whatever is only done the first time.
            tenant.work(window / 4)?;
            (tenant.work(window)?, None)
        }
        (Mode::Peer(kind, _), Some(interval)) => {
            let (done, peer) = rounds(&mut tenant, kind, interval)?;
            (done, Some(Extra::Peer(peer)))
        }
        (_, Some(interval)) => {
            let (done, tracked) = epochs(&mut tenant, interval)?;
            (done, Some(Extra::Tracked(Box::new(tracked))))
        }
    };
    tenant.stop()?;
    Ok(Row {
        workload: workload.to_owned(),
        mode: mode.to_string(),
        run,
        units: done.units,
        ns: u64::try_from(done.time.as_nanos())?,
        extra,
    })
}

/// A window of whole epochs, after some in which everything takes its usual course.
fn epochs(tenant: &mut Tenant, interval: Duration) -> Result<(Done, Tracked)> {
    let settle: u64 = settings::number("settle")?;
    let count = window_epochs(interval)?;
    let mirror = Mirror::of(tenant.cgroup());
    mirror.set("interval_ms", &interval.as_millis().to_string())?;
    mirror.set("mode", "tracked")?;
    let meter = Meter::of(tenant)?;
    let first = meter.settle(tenant, interval, settle)?;
    let (done, effort) = meter.work(tenant, interval * count)?;
    let replica = meter.mirror().number("current")?;
    let protected = meter.mirror().stat("protected")?;
    let details = settings::counting()?
        .then(|| details(tenant, &meter, interval))
        .transpose()?;
    let tracked = Tracked {
        interval_ms: u64::try_from(interval.as_millis())?,
        effort,
        first,
        details,
        protected,
        replica,
    };
    meter.mirror().set("mode", "off")?;
    Ok((done, tracked))
}

/// What the work of kmirror consists of, and what it is good for.
fn details(tenant: &mut Tenant, meter: &Meter, interval: Duration) -> Result<Details> {
    let epochs = window_epochs(interval)?.div_ceil(2);
    // Whoever reads the coverage walks page tables too, but in another thread.
    let profiler = Profiler::of(meter.worker())?;
    let coverage = cover(tenant, meter.mirror(), interval / SAMPLES, SAMPLES * epochs)?;
    Ok(Details {
        parts: profiler.parts()?,
        coverage,
    })
}

/// Epochs of a window.
fn window_epochs(interval: Duration) -> Result<u32> {
    let count: u32 = settings::number("epochs")?;
    // The shorter the epoch, the more of them fit into a window.
    Ok(if interval.as_millis() < 500 {
        3 * count
    } else {
        count
    })
}

/// The same with a tracker outside.
fn rounds(tenant: &mut Tenant, kind: Kind, interval: Duration) -> Result<(Done, Peer)> {
    let settle: u64 = settings::number("settle")?;
    let ms = u64::try_from(interval.as_millis())?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["track", kind.name()])
        .arg(tenant.cgroup().path())
        .arg(ms.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    let mut copied = 0;
    for _ in 0..settle {
        tenant.work(interval)?;
        copied = lines.next().context("the tracker has ended")??.parse()?;
    }
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(i32::try_from(child.id())?))?;
    let before = Duration::from(clock_gettime(clock)?);
    let done = tenant.work(interval * window_epochs(interval)?)?;
    let worker = Duration::from(clock_gettime(clock)?) - before;
    child.kill()?;
    child.wait()?;
    let said: Vec<u64> = lines
        .map(|line| Ok(line?.parse()?))
        .collect::<Result<_>>()?;
    let peer = Peer {
        interval_ms: ms,
        rounds: said.len() as u64,
        copied: said.last().context("no round in the window")? - copied,
        worker_ns: u64::try_from(worker.as_nanos())?,
    };
    Ok((done, peer))
}
