// SPDX-License-Identifier: GPL-2.0

//! Where things are. All of it hangs below one root directory, `/` on a real system, so that tests
//! have systems of their own making.

use crate::error::{Error, Kind, Result};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The system that is looked at.
#[derive(Clone, Debug)]
pub struct System {
    root: PathBuf,
}

impl System {
    /// The one whose `/sys` and `/proc` are below `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Whether this is the running system, and not one that was made for a test.
    pub fn is_running(&self) -> bool {
        self.root == Path::new("/")
    }

    /// A file or directory, by its absolute path.
    pub fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    /// One below `/sys/kernel/kmirror`.
    pub fn mirror(&self, name: &str) -> PathBuf {
        self.path("/sys/kernel/kmirror").join(name)
    }

    /// The mirror's directory of a cgroup; `path` as in [`crate::group::Group::path`].
    pub fn mirror_of(&self, path: &str) -> PathBuf {
        self.mirror("cgroup").join(path.trim_start_matches('/'))
    }

    /// The kernel's own directory of a cgroup.
    pub fn cgroup(&self, path: &str) -> PathBuf {
        self.path("/sys/fs/cgroup")
            .join(path.trim_start_matches('/'))
    }

    /// A file of a process.
    pub fn process(&self, pid: u32, name: &str) -> PathBuf {
        self.path("/proc").join(pid.to_string()).join(name)
    }

    /// Fails unless the module is loaded.
    pub fn require_mirror(&self) -> Result<()> {
        match fs::metadata(self.mirror("version")) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::new(
                Kind::Setup,
                "kmirror is not loaded; `modprobe kmirror region=1G` loads it, and `kmirrorctl doctor` says what may hinder it",
            )),
            Err(error) => Err(Error::file(&self.mirror("version"), &error)),
        }
    }
}

/// What a file says, without the newline at its end.
pub fn read(path: &Path) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim_end_matches('\n').to_owned()),
        Err(error) => Err(Error::file(path, &error)),
    }
}

/// The same, `None` if there is no such file, or if what it belongs to has just gone.
pub fn read_if_there(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end_matches('\n').to_owned())),
        Err(error) if has_gone(&error) => Ok(None),
        Err(error) => Err(Error::file(path, &error)),
    }
}

/// Whether a file, or the cgroup or process that it belongs to, is not there (any more).
pub fn has_gone(error: &io::Error) -> bool {
    const ESRCH: i32 = nix::errno::Errno::ESRCH as i32;
    const ENODEV: i32 = nix::errno::Errno::ENODEV as i32;
    error.kind() == io::ErrorKind::NotFound || matches!(error.raw_os_error(), Some(ESRCH | ENODEV))
}

/// The number in a file.
pub fn number(path: &Path) -> Result<u64> {
    let text = read(path)?;
    text.parse().map_err(|_| strange(path, &text, "a number"))
}

/// A file does not say what it should.
pub fn strange(path: &Path, text: &str, want: &str) -> Error {
    let text: String = text.chars().take(40).collect();
    Error::failed(format!(
        "{} says {text:?}, which is not {want}; use the kmirrorctl that belongs to the loaded module",
        path.display()
    ))
}

/// The names of the directories in a directory, sorted; none if it has just gone.
pub fn directories(path: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if has_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(Error::file(path, &error)),
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}
