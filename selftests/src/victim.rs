// SPDX-License-Identifier: GPL-2.0

//! A process that is protected, hit, and questioned.
//!
//! It is started afresh in its cgroup and shares no page with the director. It waits at a socket for
//! orders. An order is a function of this program that captures nothing: what goes through the
//! socket is where it is, relative to [`serve`], since the two processes have the program at
//! different addresses. So a test reads from top to bottom, whoever does what.

use crate::cgroup::Cgroup;
use crate::memory::Mapping;
use crate::{sigbus, wait};
use anyhow::{anyhow, bail, Context, Result};
use nix::unistd::{fork, ForkResult};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// What a victim has.
#[derive(Debug)]
pub struct Scene {
    /// Its memory.
    pub mem: Mapping,
    file: Option<File>,
}

impl Scene {
    /// Maps so many pages of `file`, shared, in the place of its memory, and keeps the file open.
    pub fn map_file(&mut self, file: File, pages: u64) -> Result<()> {
        self.mem = Mapping::new(pages, libc::MAP_SHARED, file.as_raw_fd())?;
        self.file = Some(file);
        Ok(())
    }

    /// The file that its memory is.
    pub fn file(&self) -> Result<&File> {
        self.file.as_ref().context("the memory is no file")
    }
}

/// Something for a victim to do, with two numbers.
pub type Order = fn(&mut Scene, u64, u64) -> Result<u64>;

/// In the place of an order: fork.
const FORK: u64 = u64::MAX;

/// A victim, as the director sees it. It dies with the value.
#[derive(Debug)]
pub struct Victim {
    /// Its process.
    pub pid: i32,
    /// Where its memory is.
    pub mem: Mapping,
    socket: UnixStream,
    for_child: Option<UnixStream>,
    process: Option<Child>,
}

impl Victim {
    /// Starts one in `cgroup`, with so many pages in `version`.
    pub fn start(cgroup: &Cgroup, pages: u64, version: u64) -> Result<Self> {
        let (socket, its) = UnixStream::pair()?;
        let (for_child, its_child) = UnixStream::pair()?;
        let procs = OpenOptions::new()
            .write(true)
            .open(cgroup.file("cgroup.procs"))?;
        let fds = [its.as_raw_fd(), its_child.as_raw_fd()];
        let mut command = Command::new("/proc/self/exe");
        command
            .arg("--victim")
            .args(fds.map(|fd| fd.to_string()))
            .args([pages.to_string(), version.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // SAFETY: Only system calls, on descriptors that are open in the child too.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                for fd in fds {
                    nix::fcntl::fcntl(
                        fd,
                        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
                    )?;
                }
                nix::unistd::write(&procs, b"0")?;
                Ok(())
            });
        }
        let process = command.spawn().context("starting a victim")?;
        drop((its, its_child));
        socket.set_read_timeout(Some(wait::BOUND))?;
        for_child.set_read_timeout(Some(wait::BOUND))?;
        let mut victim = Self {
            pid: i32::try_from(process.id())?,
            mem: Mapping::at(0, pages),
            socket,
            for_child: Some(for_child),
            process: Some(process),
        };
        let addr = victim.answer().context("a victim does not start")?;
        victim.mem = Mapping::at(addr, pages);
        Ok(victim)
    }

    /// Gives an order and waits for the answer.
    pub fn call(&mut self, order: Order, a: u64, b: u64) -> Result<u64> {
        let order = (order as usize).wrapping_sub(serve as usize);
        self.send(order as u64, a, b)
    }

    /// Lets it fork once. The child has the same memory and takes orders of its own.
    pub fn fork(&mut self) -> Result<Self> {
        let socket = self.for_child.take().context("it has forked already")?;
        Ok(Self {
            pid: i32::try_from(self.send(FORK, 0, 0)?)?,
            mem: self.mem,
            socket,
            for_child: None,
            process: None,
        })
    }

    fn send(&mut self, order: u64, a: u64, b: u64) -> Result<u64> {
        let request: Vec<u8> = [order, a, b]
            .into_iter()
            .flat_map(u64::to_ne_bytes)
            .collect();
        match self.socket.write_all(&request) {
            Ok(()) => self.answer(),
            Err(error) => Err(self.death(error.into())),
        }
    }

    fn answer(&mut self) -> Result<u64> {
        let mut head = [0; 16];
        if let Err(error) = self.socket.read_exact(&mut head) {
            return Err(self.death(error.into()));
        }
        let (value, len) = (number(&head[..8]), number(&head[8..]));
        if len == 0 {
            return Ok(value);
        }
        let mut text = vec![0; usize::try_from(len)?];
        self.socket.read_exact(&mut text)?;
        Err(anyhow!(String::from_utf8_lossy(&text).into_owned()))
    }

    /// Why it does not answer.
    fn death(&mut self, error: anyhow::Error) -> anyhow::Error {
        let status = self.process.as_mut().map(Child::try_wait);
        match status {
            Some(Ok(Some(status))) => anyhow!("the victim has died: {status}"),
            _ => error.context("the victim does not answer"),
        }
    }

    /// Ends it and waits until it is gone.
    pub fn end(mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_ne_bytes)
}

/// The victim's side, with the arguments that [`Victim::start`] gave. Returns when nobody has
/// orders any more.
pub fn serve(args: &[String]) -> Result<()> {
    let [socket, for_child, pages, version] = args else {
        bail!("a victim is not started by hand");
    };
    let socket = adopt(socket.parse()?);
    let mut for_child = Some(adopt(for_child.parse()?));
    sigbus::install()?;
    let mem = Mapping::anon(pages.parse()?, version.parse()?)?;
    let mut scene = Scene { mem, file: None };
    let mut socket = UnixStream::from(socket);
    reply(&mut socket, Ok(mem.addr(0)))?;

    let mut request = [0; 24];
    while socket.read_exact(&mut request).is_ok() {
        let (order, a, b) = (
            number(&request[..8]),
            number(&request[8..16]),
            number(&request[16..]),
        );
        if order == FORK {
            // SAFETY: There is no other thread in a victim that is told to fork.
            match unsafe { fork() }? {
                ForkResult::Parent { child } => {
                    for_child = None;
                    reply(&mut socket, Ok(u64::try_from(child.as_raw())?))?;
                }
                ForkResult::Child => {
                    let own = for_child.take().context("forked twice")?;
                    socket = UnixStream::from(own);
                }
            }
            continue;
        }
        let order = (serve as usize).wrapping_add(order as usize);
        // SAFETY: The director is the same program, and has sent the distance of such a function.
        let order = unsafe { std::mem::transmute::<usize, Order>(order) };
        let result = order(&mut scene, a, b);
        reply(&mut socket, result)?;
    }
    Ok(())
}

fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: The director has left it open for us, and nobody else uses it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn reply(socket: &mut UnixStream, result: Result<u64>) -> Result<()> {
    let (value, text) = match result {
        Ok(value) => (value, String::new()),
        Err(error) => (0, format!("{error:#}")),
    };
    let mut bytes = value.to_ne_bytes().to_vec();
    bytes.extend((text.len() as u64).to_ne_bytes());
    bytes.extend(text.as_bytes());
    socket.write_all(&bytes)?;
    Ok(())
}
