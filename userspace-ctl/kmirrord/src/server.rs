// SPDX-License-Identifier: GPL-2.0

//! QEMU's connections, one after the other. What is in the pool outlives a connection: QEMU comes
//! back when it was only interrupted, and a guest that has booted afresh says so by HELLO.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{anyhow, Context, Result};
use tracing::{info, warn};
use vhost::vhost_user::Error as VhostUserError;
use vhost_user_backend::{Error, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::device::Device;
use crate::metrics::Metrics;
use crate::service::Service;
use crate::sys::socket::vhost_listener;

/// How often a QEMU that does not listen yet is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// Who connects to whom.
#[derive(Debug)]
pub enum Endpoint {
    /// QEMU connects to this socket.
    Listen(UnixListener),
    /// QEMU listens at this path (`server=on`).
    Connect(PathBuf),
}

type Daemon = VhostUserDaemon<Arc<Device>>;

impl Endpoint {
    fn start(&self, daemon: &mut Daemon) -> Result<()> {
        match self {
            Self::Listen(listener) => {
                let accepting = listener.try_clone().context("no file descriptor left")?;
                daemon
                    .start(vhost_listener(accepting))
                    .map_err(|error| anyhow!("cannot accept a connection: {error}"))
            }
            Self::Connect(path) => {
                let text = path
                    .to_str()
                    .context("the path of the socket is no UTF-8")?;
                let mut said = false;
                while let Err(error) = daemon.start_client(text) {
                    if !said {
                        warn!(%error, path = text, "waiting for QEMU to listen");
                        said = true;
                    }
                    thread::sleep(RETRY);
                }
                Ok(())
            }
        }
    }
}

/// Serves one connection after the other, for ever.
///
/// # Errors
///
/// When no further connection can be accepted.
pub fn serve(endpoint: &Endpoint, service: Arc<Mutex<Service>>, metrics: &Metrics) -> Result<()> {
    loop {
        let device = Arc::new(Device::new(service.clone()).context("cannot make a device")?);
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let mut daemon = Daemon::new("vhost-user".into(), device, memory)
            .map_err(|error| anyhow!("cannot make a device: {error}"))?;
        endpoint.start(&mut daemon)?;
        info!("QEMU is connected");
        metrics.connections.inc();
        metrics.connected.set(1);
        match daemon.wait() {
            Ok(())
            | Err(Error::HandleRequest(
                VhostUserError::Disconnected | VhostUserError::PartialMessage,
            )) => info!("QEMU has gone"),
            // What was wrong is QEMU's; the next connection begins afresh.
            Err(error) => warn!(%error, "the connection has ended"),
        }
        metrics.connected.set(0);
        // Dropping it ends the thread of its queue.
        drop(daemon);
    }
}
