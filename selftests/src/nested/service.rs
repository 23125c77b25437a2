// SPDX-License-Identifier: GPL-2.0

//! kmirrord in L1, and how it ends.

use super::l2::place;
use crate::wait::BOUND;
use anyhow::{bail, ensure, Context, Result};
use nix::sys::ptrace;
use nix::sys::signal::{kill, Signal};
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::mpsc::{channel, Receiver};

/// What it says, and its relay.
pub const LOG: &str = "/run/kmirrord.log";

/// A system call in the middle of a request.
#[derive(Clone, Copy, Debug)]
pub enum Call {
    /// HEAL has made a hole in the guest's memory, and has not filled it yet.
    Hole,
    /// STORE has put the bytes into the pool, and has not answered yet.
    Write,
}

impl FromStr for Call {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "hole" => Ok(Self::Hole),
            "write" => Ok(Self::Write),
            _ => bail!("{text} is no system call of a request"),
        }
    }
}

impl Call {
    fn number(self) -> u64 {
        let number = match self {
            Self::Hole => libc::SYS_fallocate,
            Self::Write => libc::SYS_pwrite64,
        };
        number as u64
    }

    /// Whether this is the file that it is about. DROP makes holes, too, in the pool.
    fn is_about(self, file: &Path) -> bool {
        let pool = file.to_string_lossy().contains("kmirror-pool");
        match self {
            Self::Hole => !pool,
            Self::Write => pool,
        }
    }
}

/// One process of it after the other, and the relay that keeps QEMU's connection meanwhile, if there is
/// one. Dropping this ends them.
#[derive(Debug)]
pub struct Service {
    flags: Vec<String>,
    socket: PathBuf,
    child: Child,
    relay: Option<Child>,
    /// Who is to kill it, and says how that went.
    killer: Option<Receiver<Result<()>>>,
}

impl Service {
    /// Starts it; it is ready when this returns.
    pub fn start(flags: &[&str], relayed: bool) -> Result<Self> {
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let qemu = place("KMIRRORD_SOCKET")?;
        let socket = match relayed {
            true => qemu.with_extension("behind"),
            false => qemu.clone(),
        };
        let mut service = Self {
            child: kmirrord(&socket, &flags)?,
            flags,
            socket,
            relay: None,
            killer: None,
        };
        if relayed {
            let mut relay = Command::new("/kmirror/kmirrord-relay");
            relay.arg("--socket").arg(qemu);
            relay.arg("--service").arg(&service.socket);
            service.relay = Some(spawn(&mut relay)?);
        }
        Ok(service)
    }

    /// Starts it again after it was killed.
    pub fn start_again(&mut self) -> Result<()> {
        self.child = kmirrord(&self.socket, &self.flags)?;
        Ok(())
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// `kill -9` in the moment in which its next such system call has done its work. Returns when
    /// that is set up.
    pub fn kill_after(&mut self, call: Call) -> Result<()> {
        let process = Pid::from_raw(i32::try_from(self.child.id())?);
        let thread = requests(process)?;
        let (result, killer) = channel();
        let (ready, is_ready) = channel();
        std::thread::spawn(move || {
            // Of the one that attaches are all further orders taken.
            let attached = attach(thread);
            let failed = attached.is_err();
            let _ = ready.send(attached);
            if !failed {
                let _ = result.send(run_until(process, thread, call));
            }
        });
        is_ready.recv()??;
        self.killer = Some(killer);
        Ok(())
    }

    /// Waits until it has been.
    pub fn killed(&mut self) -> Result<()> {
        let killer = self.killer.take().context("nobody is to kill it")?;
        killer
            .recv_timeout(BOUND * 2)
            .context("it has not come to that system call")??;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.kill();
        if let Some(relay) = &mut self.relay {
            let _ = relay.kill();
            let _ = relay.wait();
        }
    }
}

fn kmirrord(socket: &Path, flags: &[String]) -> Result<Child> {
    let mut command = Command::new("/kmirror/kmirrord");
    command.arg("--socket").arg(socket).args(flags);
    spawn(&mut command)
}

/// Starts one of them and waits until it is ready.
fn spawn(command: &mut Command) -> Result<Child> {
    const NOTIFY: &str = "/run/kmirrord.notify";
    let _ = fs::remove_file(NOTIFY);
    let ready = UnixDatagram::bind(NOTIFY).context(NOTIFY)?;
    ready.set_read_timeout(Some(BOUND))?;
    let log = File::options().create(true).append(true).open(LOG)?;
    let mut child = command
        .env("NOTIFY_SOCKET", NOTIFY)
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    let mut word = [0; 64];
    if let Err(error) = ready.recv(&mut word) {
        let _ = child.kill();
        child.wait()?;
        return Err(error).with_context(|| format!("{command:?} is not ready"));
    }
    Ok(child)
}

/// The thread that does requests.
fn requests(process: Pid) -> Result<Pid> {
    let tasks = Path::new("/proc").join(process.to_string()).join("task");
    for task in fs::read_dir(tasks)? {
        let task = task?;
        let name = fs::read_to_string(task.path().join("comm"))?;
        if name.trim() == "vring_worker" {
            let number = task.file_name().to_string_lossy().parse()?;
            return Ok(Pid::from_raw(number));
        }
    }
    bail!("kmirrord has no thread for requests")
}

fn attach(thread: Pid) -> Result<()> {
    ptrace::seize(thread, ptrace::Options::PTRACE_O_TRACESYSGOOD).context("PTRACE_SEIZE")?;
    ptrace::interrupt(thread).context("PTRACE_INTERRUPT")
}

/// Lets the thread run until it has come back from a system call, and kills its process there.
fn run_until(process: Pid, thread: Pid, call: Call) -> Result<()> {
    loop {
        let signal = match waitpid(thread, Some(WaitPidFlag::__WALL)).context("waitpid")? {
            WaitStatus::PtraceSyscall(_) if has_done(process, thread, call)? => {
                return kill(process, Signal::SIGKILL).context("kill");
            }
            WaitStatus::PtraceSyscall(_) | WaitStatus::PtraceEvent(..) => None,
            WaitStatus::Stopped(_, signal) => Some(signal),
            other => bail!("kmirrord has ended before: {other:?}"),
        };
        ptrace::syscall(thread, signal).context("PTRACE_SYSCALL")?;
    }
}

/// Whether the thread, which stands still, has come back from this system call.
fn has_done(process: Pid, thread: Pid, call: Call) -> Result<bool> {
    let registers = ptrace::getregs(thread).context("PTRACE_GETREGS")?;
    let result = registers.rax as i64;
    // What stands there on the way in.
    let enters = result == -i64::from(libc::ENOSYS);
    if enters || registers.orig_rax != call.number() {
        return Ok(false);
    }
    let file = fs::read_link(format!("/proc/{process}/fd/{}", registers.rdi))?;
    if call.is_about(&file) {
        ensure!(result >= 0, "the system call has failed: {result}");
    }
    Ok(call.is_about(&file))
}
