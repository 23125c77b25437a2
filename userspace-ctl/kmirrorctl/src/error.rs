// SPDX-License-Identifier: GPL-2.0

//! What goes wrong, as the user sees it: one sentence that says what to do next, and an exit status.

use std::fmt;
use std::io;
use std::path::Path;

/// Which exit status an error has. They are documented in docs/ctl.md and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The kernel refused, or something unforeseen.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// kmirror is not there: no module, no patched kernel.
    Setup = 3,
    /// There is no such cgroup, process or page.
    Missing = 4,
    /// It takes root.
    Denied = 5,
    /// It destroys something, and `--yes` was not given.
    Unconfirmed = 6,
    /// `doctor` has found faults.
    Faults = 7,
    /// `inject` has broken a page, and it was lost.
    Lost = 8,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Its exit status.
    pub kind: Kind,
    /// One sentence; empty if everything has been said.
    pub text: String,
}

/// The result of almost everything here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of this kind.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { kind, text }
    }

    /// The kernel refused, or something unforeseen.
    pub fn failed(text: impl Into<String>) -> Self {
        Self::new(Kind::Failed, text)
    }

    /// There is no such thing.
    pub fn missing(text: impl Into<String>) -> Self {
        Self::new(Kind::Missing, text)
    }

    /// The command line is wrong.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(Kind::Usage, text)
    }

    /// A file could not be read or written.
    pub fn file(path: &Path, error: &io::Error) -> Self {
        let path = path.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::new(
                Kind::Denied,
                format!("{path} is root's; run this with sudo"),
            ),
            io::ErrorKind::NotFound => Self::missing(format!(
                "there is no {path}; `kmirrorctl doctor` says what is missing"
            )),
            _ => Self::failed(format!(
                "{path}: {error}; look at the end of `dmesg` for the kernel's reason"
            )),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_file_has_its_status_and_says_what_to_do() {
        for (errno, kind) in [
            (nix::errno::Errno::EACCES, Kind::Denied),
            (nix::errno::Errno::EPERM, Kind::Denied),
            (nix::errno::Errno::ENOENT, Kind::Missing),
            (nix::errno::Errno::ENOSPC, Kind::Failed),
        ] {
            let error = Error::file(Path::new("/sys/x"), &errno.into());
            assert_eq!(error.kind, kind, "{errno}");
            assert!(
                error.text.contains("/sys/x") && error.text.contains("; "),
                "{error}"
            );
        }
    }
}
