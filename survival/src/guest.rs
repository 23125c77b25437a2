// SPDX-License-Identifier: GPL-2.0

//! The driver: sets the scene, then does what the host says.
//!
//! The host sends one line for each order through a virtio port, and gets lines back, the last of
//! which is a single dot. After `ready` it stores the whole machine; each trial begins there.

use crate::census::Census;
use crate::servers;
use anyhow::{bail, ensure, Context, Result};
use kmirror_selftests::cgroup::{Cgroup, Frozen};
use kmirror_selftests::mirror::{self, Mirror};
use kmirror_selftests::{file, inject, module, wait};
use nix::poll::PollFlags;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

/// How long the clients may take for anything before they count as stuck. Guests without KVM are
/// slow, and the machine may be busy; the host has a look at that too.
const STUCK: Duration = Duration::from_secs(120);

/// A setting from the kernel's command line.
fn setting(name: &str) -> Result<String> {
    let line = file::read("/proc/cmdline")?;
    let key = format!("survival.{name}=");
    let word = line.split_whitespace().find_map(|w| w.strip_prefix(&key));
    Ok(word.with_context(|| format!("no {key}"))?.to_owned())
}

pub(crate) fn run() -> Result<()> {
    let mut port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(port("survival")?)?;
    let mut guest = match Guest::start() {
        Ok(guest) => guest,
        Err(error) => {
            // The host has no other way to learn it.
            port.write_all(format!("failed {error:#}\n.\n").as_bytes())?;
            return Err(error);
        }
    };
    port.write_all(b"ready\n.\n")?;
    let mut orders = BufReader::new(port.try_clone()?);
    let mut line = String::new();
    loop {
        line.clear();
        if orders.read_line(&mut line)? == 0 {
            bail!("the host has gone");
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut answer = match guest.obey(&words) {
            Ok(answer) => answer,
            Err(error) => format!("error {error:#}\n"),
        };
        answer += ".\n";
        port.write_all(answer.as_bytes())?;
    }
}

/// The virtio port of this name.
fn port(name: &str) -> Result<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        if file::read(entry.path().join("name"))?.trim() == name {
            return Ok(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    bail!("no port {name}")
}

struct Guest {
    slice: Cgroup,
    mirror: Mirror,
    clients: Clients,
    /// The blocks of the mirror region.
    region: HashSet<u64>,
    lasting: BTreeMap<(i32, u64), String>,
    frozen: Option<Frozen<'static>>,
    log: File,
}

impl Guest {
    /// Starts everything and waits until it is at work.
    fn start() -> Result<Self> {
        // Memory in large pieces is taken first, while there is some.
        file::write("/proc/sys/vm/nr_hugepages", &setting("hugepages")?)?;
        file::write("/sys/kernel/mm/transparent_hugepage/enabled", "always")?;
        // The region is made alone: the module's own text is in large blocks too.
        module::load_kmirror("")?;
        let before = Census::take(0)?.free_blocks()?;
        file::write(mirror::region_file("total"), &setting("region")?)?;
        let region = Census::take(0)?.taken_blocks(&before)?;
        let injector = module::find("kmirror_inject.ko")?;
        module::load(&injector, "")?.context("kmirror_inject.ko")?;

        // The memory controller says whose a page is.
        file::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory")?;
        let slice = Cgroup::at("/").child("protected")?;
        let mirror = Mirror::of(&slice);
        mirror.set("interval_ms", &setting("interval")?)?;
        mirror.set("mode", "tracked")?;

        servers::start(&slice)?;
        let mut clients = Clients::start(&slice)?;
        clients.expect("ready", 4 * STUCK)?;
        // Two epochs for what rests, and one more for what was hot.
        let epochs = mirror.stat("epochs")? + setting("epochs")?.parse::<u64>()?;
        wait::until("epochs", 4 * STUCK, || {
            clients.ticks(1)?;
            Ok(mirror.stat("epochs")? >= epochs)
        })?;
        let mut log = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")?;
        log.seek(SeekFrom::End(0))?;
        let lasting = servers::lasting(&slice)?;
        ensure!(lasting.len() >= 8, "only {} processes", lasting.len());
        Ok(Self {
            region,
            slice,
            mirror,
            clients,
            lasting,
            frozen: None,
            log,
        })
    }

    /// Does what the host has asked for. An error is one of the test, not of what is tested.
    fn obey(&mut self, words: &[&str]) -> Result<String> {
        match *words {
            ["about"] => self.about(),
            ["census"] => Ok(format!("census {}\n", self.take_census()?.all()?)),
            ["mode", mode] => {
                self.mirror.set("mode", mode)?;
                Ok(String::new())
            }
            ["work", ticks] => {
                let end = self.clients.ticks(ticks.parse()?);
                // That the clients fail before anything was broken is for the host to judge.
                Ok(end.map_or_else(|error| format!("failed {error:#}\n"), |()| String::new()))
            }
            ["freeze"] => {
                let slice: &'static Cgroup = Box::leak(Box::new(self.slice.clone()));
                self.frozen = Some(slice.freeze()?);
                Ok(String::new())
            }
            ["look", pfn] => self.look(pfn.parse()?),
            ["worked"] => Ok(format!("worked {}\n", self.worked()?)),
            ["strike", door, pfn] => {
                self.log.seek(SeekFrom::End(0))?;
                let struck = inject::report(door, pfn.parse()?);
                let mut answer = match struck {
                    Ok(()) => "struck\n".to_owned(),
                    Err(error) => format!("struck {error}\n"),
                };
                self.kernel_log(&mut answer)?;
                Ok(answer)
            }
            ["thaw"] => {
                self.frozen = None;
                Ok(String::new())
            }
            ["finish", rounds] => self.finish(rounds.parse()?),
            ref other => bail!("what is {other:?}?"),
        }
    }

    fn take_census(&self) -> Result<Census> {
        let mut census = Census::take(self.slice.id()?)?;
        census.set_region(&self.region);
        Ok(census)
    }

    /// What is at work here, for the report.
    fn about(&mut self) -> Result<String> {
        let mut text = String::new();
        writeln!(text, "coverage {}", self.mirror.number("coverage")?)?;
        for line in file::read(self.mirror.file("stat"))?.lines() {
            writeln!(text, "stat {line}")?;
        }
        for line in file::read("/proc/meminfo")?.lines() {
            writeln!(text, "meminfo {line}")?;
        }
        for title in self.lasting.values() {
            writeln!(text, "process {title}")?;
        }
        Ok(text)
    }

    /// CPU time of the mirror's thread, in nanoseconds; 0 if there is none.
    fn worked(&self) -> Result<u64> {
        let name = format!("kmirror/{}", self.slice.id()?);
        for entry in fs::read_dir("/proc")? {
            let dir = entry?.path();
            // One that has ended meanwhile is not it.
            let comm = fs::read_to_string(dir.join("comm")).unwrap_or_default();
            if comm.trim_end() == name {
                let text = file::read(dir.join("schedstat"))?;
                let time = text.split(' ').next().context("an empty schedstat")?;
                return Ok(time.parse()?);
            }
        }
        Ok(0)
    }

    /// All that is known about a frame. If it may be current the page tables' frames as well: the
    /// host looks into them for dirty entries. `worked` is from before all that.
    fn look(&mut self, pfn: u64) -> Result<String> {
        let worked = self.worked()?;
        let census = self.take_census()?;
        let frame = census.frame(pfn)?;
        let mut text = format!(
            "worked {worked}\nframe {} {:#x} {} {} {}\n",
            frame.class,
            frame.flags,
            frame.mappings,
            u8::from(frame.inside),
            frame.replica.map_or("-".into(), |pfn| pfn.to_string()),
        );
        if frame.mirrored() {
            text += "tables";
            for pfn in census.page_tables()? {
                write!(text, " {pfn}")?;
            }
            text.push('\n');
        }
        Ok(text)
    }

    /// Lets the clients do some more work and check all data, and looks who is still there.
    fn finish(&mut self, rounds: u64) -> Result<String> {
        let mut harm = Vec::new();
        if let Err(error) = self.clients.finish(rounds) {
            harm.push(format!("{error:#}"));
        }
        let now = servers::lasting(&self.slice)?;
        for (key, title) in &self.lasting {
            if !now.contains_key(key) {
                harm.push(format!("died: {title}"));
            }
        }
        // What was written to files and did not arrive.
        let disk = File::open(servers::HOME)?;
        // SAFETY: Only takes a descriptor, which is open.
        if unsafe { libc::syncfs(disk.as_raw_fd()) } != 0 {
            let error = std::io::Error::last_os_error();
            harm.push(format!("data written to disk was lost: {error}"));
        }
        let mut text = String::new();
        for line in harm {
            writeln!(text, "harm {}", line.replace('\n', " "))?;
        }
        self.kernel_log(&mut text)?;
        for key in ["restored", "unrestorable", "replica_lost"] {
            writeln!(text, "event {key} {}", self.mirror.event(key).unwrap_or(0))?;
        }
        Ok(text)
    }

    /// Adds what the kernel has said since the strike, or since this was asked last.
    fn kernel_log(&mut self, text: &mut String) -> Result<()> {
        let mut record = [0; 8192];
        for _ in 0..200 {
            match self.log.read(&mut record) {
                Ok(0) => break,
                Ok(len) => {
                    let line = String::from_utf8_lossy(&record[..len]);
                    let line = line.split_once(';').map_or(&*line, |(_, line)| line);
                    writeln!(text, "log {}", line.lines().next().unwrap_or_default())?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The clients' process.
struct Clients {
    child: Child,
    orders: ChildStdin,
    lines: ChildStdout,
    /// What has been read and is not a whole line yet.
    rest: Vec<u8>,
}

impl Clients {
    fn start(slice: &Cgroup) -> Result<Self> {
        let program = std::env::current_exe()?;
        let mut child = servers::inside(slice, &program.to_string_lossy())
            .arg("load")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self {
            orders: child.stdin.take().context("no pipe")?,
            lines: child.stdout.take().context("no pipe")?,
            child,
            rest: Vec::new(),
        })
    }

    /// The next line that they say, in bounded time.
    fn line(&mut self, bound: Duration) -> Result<String> {
        let end = Instant::now() + bound;
        loop {
            if let Some(at) = self.rest.iter().position(|&byte| byte == b'\n') {
                let line = self.rest.drain(..=at).collect::<Vec<u8>>();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            let left = end.saturating_duration_since(Instant::now());
            if !wait::ready(self.lines.as_fd(), PollFlags::POLLIN, left)? {
                bail!("stuck: the clients do not get on");
            }
            let mut buf = [0; 4096];
            let len = self.lines.read(&mut buf)?;
            if len == 0 {
                let status = self.child.wait()?;
                bail!("died: the clients, {status}");
            }
            self.rest.extend_from_slice(&buf[..len]);
        }
    }

    /// Waits for a line, with no regard to ticks.
    fn expect(&mut self, wanted: &str, bound: Duration) -> Result<()> {
        loop {
            let line = self.line(bound)?;
            if line == wanted {
                return Ok(());
            }
            if line != "t" {
                bail!("{line}");
            }
        }
    }

    /// Waits for so many more ticks from now on.
    fn ticks(&mut self, count: u64) -> Result<()> {
        // Those that have come while nobody asked do not count.
        while wait::ready(self.lines.as_fd(), PollFlags::POLLIN, Duration::ZERO)? {
            let mut buf = [0; 4096];
            let len = self.lines.read(&mut buf)?;
            ensure!(len > 0, "died: the clients");
            self.rest.extend_from_slice(&buf[..len]);
        }
        while self.rest.starts_with(b"t\n") {
            self.rest.drain(..2);
        }
        for _ in 0..count {
            let line = self.line(STUCK)?;
            ensure!(line == "t", "{line}");
        }
        Ok(())
    }

    /// Has them do so many rounds each, and check everything.
    fn finish(&mut self, rounds: u64) -> Result<()> {
        writeln!(self.orders, "{rounds}")?;
        self.expect("done", STUCK)
    }
}
