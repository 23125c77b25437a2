// SPDX-License-Identifier: GPL-2.0

//! The command line. Man pages and completions are made from it.

use crate::paint::When;
use clap::{Args, Parser, Subcommand, ValueHint};
use std::path::PathBuf;

/// Shows and controls kmirror, the memory mirror
///
/// kmirror keeps a second copy of the memory of chosen cgroups, so that an uncorrectable memory error
/// no longer kills the programs in them.
///
/// PATH is a cgroup: its path below the root of cgroup v2 (/system.slice/web.service), that of its
/// directory in /sys, or just its name if no other cgroup has it (web.service).
#[derive(Debug, Parser)]
#[command(name = "kmirrorctl", version, after_long_help = STATUS)]
#[command(max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,

    /// Use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: When,

    /// The root of the system to look at, for tests
    #[arg(long, global = true, hide = true, default_value = "/")]
    pub root: PathBuf,

    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The exit statuses, for the help and the man page; see [`crate::error::Kind`].
const STATUS: &str = "\
Exit status:
  0  done
  1  the kernel refused, or something unforeseen went wrong
  2  the command line is wrong
  3  kmirror is not there: no module, or a kernel without the patches
  4  there is no such cgroup, process or page
  5  it takes root
  6  it destroys something, and --yes was not given
  7  doctor has found a fault
  8  inject has broken a page, and it was lost";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the region and what is covered
    Status(StatusArgs),
    /// Watch coverage, copies and cost, live
    Top(TopArgs),
    /// Protect a cgroup and all below it
    On(OnArgs),
    /// Stop protecting a cgroup, and drop its replicas
    Off(OffArgs),
    /// Change settings of a cgroup: all of them or, if one is refused, none
    Set(SetArgs),
    /// Copy everything now, and wait for it
    Sync(PathArg),
    /// Show the mirror region, or make it grow or shrink
    Region(RegionArgs),
    /// Show what has happened: restored pages, lost pages, lost replicas
    Events(EventsArgs),
    /// Watch a cgroup for a time, and draw its coverage and cost
    Plot(PlotArgs),
    /// Say what is wrong with the set-up, and why a cgroup or a page is not covered
    Doctor(DoctorArgs),
    /// Break a page, as a fire drill. Kills the process if the page is not covered
    Inject(InjectArgs),
    /// Serve metrics for Prometheus, or write or print them once
    Exporter(ExporterArgs),
    /// Apply what the section [X-Kmirror] of a systemd unit says; kmirror@.service runs this
    Unit(UnitArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Write the man pages into a directory
    Man(ManArgs),
}

/// One cgroup.
#[derive(Debug, Args)]
pub struct PathArg {
    /// The cgroup
    #[arg(value_name = "PATH", value_hint = ValueHint::DirPath)]
    pub path: String,
}

/// Of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// One cgroup, with all its numbers
    #[arg(value_name = "PATH", value_hint = ValueHint::DirPath)]
    pub path: Option<String>,

    /// Also cgroups that were left alone
    #[arg(long, short)]
    pub all: bool,
}

/// Of `top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Only this cgroup and those below it
    #[arg(value_name = "PATH", value_hint = ValueHint::DirPath)]
    pub path: Option<String>,

    /// Time between two looks, in milliseconds
    ///
    /// Each look walks the page tables of all protected processes.
    #[arg(long, short = 'd', value_name = "MS", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub delay: u64,

    /// Print so many looks as text (or, with --json, one line of JSON each), and end
    #[arg(long, short = 'n', value_name = "COUNT")]
    pub iterations: Option<u64>,
}

/// Of `on`.
#[derive(Debug, Args)]
pub struct OnArgs {
    /// The cgroup
    #[arg(value_name = "PATH", value_hint = ValueHint::DirPath)]
    pub path: String,

    /// How: a mode that the module has
    #[arg(long, value_name = "MODE", default_value = "tracked")]
    pub mode: String,

    /// Length of an epoch in milliseconds, 10 to 600000, or inherit
    #[arg(long, short, value_name = "MS")]
    pub interval: Option<String>,

    /// The most replica memory that it may use: bytes, or with K, M, G, or max
    #[arg(long, short, value_name = "SIZE")]
    pub max: Option<String>,

    /// Wait until everything has been copied once
    #[arg(long, short)]
    pub sync: bool,
}

/// Of `off`.
#[derive(Debug, Args)]
pub struct OffArgs {
    /// The cgroup
    #[arg(value_name = "PATH", value_hint = ValueHint::DirPath)]
    pub path: String,

    /// Go by the parent's mode again, instead of being off whatever it is
    #[arg(long)]
    pub inherit: bool,
}

/// Of `set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// The cgroup
    #[arg(value_name = "PATH", value_hint = ValueHint::DirPath)]
    pub path: String,

    /// Settings, by the names of the files mirror.KEY: mode, interval_ms, max
    #[arg(value_name = "KEY=VALUE", required = true)]
    pub settings: Vec<String>,
}

/// Of `region`.
#[derive(Debug, Args)]
pub struct RegionArgs {
    /// The new size: bytes, or with K, M, G, T
    #[arg(value_name = "SIZE")]
    pub size: Option<String>,

    /// Shrink it although replicas are lost by that
    #[arg(long)]
    pub yes: bool,
}

/// Of `events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Only this cgroup and those below it
    #[arg(value_name = "PATH", value_hint = ValueHint::DirPath)]
    pub path: Option<String>,

    /// Go on, with a line for whatever happens
    #[arg(long, short)]
    pub follow: bool,
}

/// Of `plot`.
#[derive(Debug, Args)]
pub struct PlotArgs {
    /// The cgroup
    #[arg(value_name = "PATH", value_hint = ValueHint::DirPath)]
    pub path: Option<String>,

    /// The picture, SVG or PNG by its name
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,

    /// For how long, in seconds
    #[arg(long, short, value_name = "SECONDS", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub time: u64,

    /// Time between two samples, in milliseconds
    ///
    /// Each sample walks the page tables of all processes in the cgroup.
    #[arg(long, short, value_name = "MS", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u64).range(50..=60_000))]
    pub every: u64,

    /// Keep the recording too, as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub save: Option<PathBuf>,

    /// Draw a recording, instead of watching
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["path", "save"])]
    pub from: Option<PathBuf>,
}

/// Of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Only this cgroup, protected or not; otherwise all that are protected
    #[arg(value_name = "PATH", value_hint = ValueHint::DirPath, conflicts_with = "pid")]
    pub path: Option<String>,

    /// A page of this process
    #[arg(long, short, value_name = "PID", requires = "addr")]
    pub pid: Option<u32>,

    /// The page at this address of it, as in /proc/PID/maps, with 0x
    #[arg(long, short, value_name = "ADDRESS", requires = "pid")]
    pub addr: Option<String>,

    /// Have everything copied first
    #[arg(long, short)]
    pub sync: bool,
}

/// Of `inject`.
///
/// Reports the frame of a page to the kernel as broken, through hwpoison-inject's corrupt-pfn or, if
/// that is not there, hard_offline_page. The frame stays out of use until the next boot. Such a report
/// leaves the bytes in the frame: a drill shows that the program goes on, in another frame, and not
/// that the bytes came from the replica. The module kmirror_inject and the selftests destroy them.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct InjectArgs {
    /// A random covered page of this cgroup
    #[arg(value_name = "PATH", value_hint = ValueHint::DirPath, conflicts_with = "pid")]
    pub path: Option<String>,

    /// A page of this process
    #[arg(long, short, value_name = "PID", requires = "addr")]
    pub pid: Option<u32>,

    /// The page at this address of it, as in /proc/PID/maps, with 0x
    #[arg(long, short, value_name = "ADDRESS", requires = "pid")]
    pub addr: Option<String>,

    /// Really do it
    #[arg(long)]
    pub yes: bool,
}

/// Of `exporter`.
#[derive(Debug, Args)]
pub struct ExporterArgs {
    /// Serve /metrics here: a loopback address and port, or unix:PATH; or at systemd's socket
    #[arg(long, short, value_name = "ADDRESS")]
    pub listen: Option<String>,

    /// Write them to this file, for the textfile collector of the node exporter (NAME.prom)
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(conflicts_with = "listen")]
    pub textfile: Option<PathBuf>,
}

/// Of `unit`.
#[derive(Debug, Args)]
pub struct UnitArgs {
    /// The unit, with its type: postgresql.service
    #[arg(value_name = "UNIT")]
    pub unit: String,

    /// Stop protecting it
    #[arg(long)]
    pub stop: bool,
}

/// Of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Where they go
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
}
