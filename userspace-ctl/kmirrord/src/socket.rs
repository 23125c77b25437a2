// SPDX-License-Identifier: GPL-2.0

//! The socket that QEMU connects to: from systemd, or made here.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{bail, Context, Result};

/// The socket that systemd hands over, else a new one at `path`.
///
/// # Errors
///
/// When systemd hands over something else than one stream socket, when there is neither, or when
/// the path is in use.
pub fn listen(path: Option<&Path>) -> Result<UnixListener> {
    let mut handed = listenfd::ListenFd::from_env();
    if handed.len() > 1 {
        bail!("systemd hands over {} sockets, not one", handed.len());
    }
    if let Some(listener) = handed
        .take_unix_listener(0)
        .context("what systemd hands over is no unix stream socket")?
    {
        listener.set_nonblocking(false)?;
        return Ok(listener);
    }
    let path = path.context("no socket: give --socket, or start it by a systemd socket")?;
    remove_stale(path)?;
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    // QEMU may run in the same group; others have no business here.
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))
        .with_context(|| format!("cannot set the rights of {}", path.display()))?;
    Ok(listener)
}

/// Removes a socket that nobody listens on any more, as a service that was killed leaves behind.
///
/// # Errors
///
/// When somebody listens, or it is no socket: a file is never removed.
pub fn remove_stale(path: &Path) -> Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot look at {}", path.display()))
        }
    };
    if !kind.is_socket() {
        bail!("{} is there already and is no socket", path.display());
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => bail!("{} is in use by another service", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_not_removed_and_nor_is_a_socket_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "data").unwrap();
        assert!(remove_stale(&file).is_err());
        assert_eq!(fs::read(&file).unwrap(), b"data");

        let socket = folder.path().join("socket");
        let listener = listen(Some(&socket)).unwrap();
        assert!(remove_stale(&socket).is_err());
        drop(listener);
        assert!(socket.exists());
        drop(listen(Some(&socket)).unwrap());
        remove_stale(&socket).unwrap();
        assert!(!socket.exists());
        remove_stale(&socket).unwrap();
    }
}
