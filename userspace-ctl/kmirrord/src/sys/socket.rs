// SPDX-License-Identifier: GPL-2.0

//! Handing a listening socket to the `vhost` crate, which takes it by number.

use std::os::fd::{FromRawFd, IntoRawFd};
use std::os::unix::net::UnixListener;

use vhost::vhost_user::Listener;

/// The same socket in the type that the `vhost` crate accepts connections with. It leaves the
/// socket's file alone when it is dropped.
pub fn vhost_listener(listener: UnixListener) -> Listener {
    // SAFETY: The descriptor is a listening unix socket, and nobody else's any more.
    unsafe { Listener::from_raw_fd(listener.into_raw_fd()) }
}
