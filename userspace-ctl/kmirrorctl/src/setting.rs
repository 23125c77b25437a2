// SPDX-License-Identifier: GPL-2.0

//! Settings of a cgroup: read from the command line, and written as a whole or not at all.

use crate::error::{Error, Result};
use crate::region::errno;
use crate::system::{self, System};
use kmirror_core::{Interval, Limit, ParseError};
use nix::errno::Errno;
use serde::Serialize;
use std::fs;
use std::path::Path;

/// A file `mirror.KEY` and what it shall say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The name, without `mirror.`.
    pub key: String,
    /// What is written.
    pub value: String,
}

impl Setting {
    /// One of this key and value, which are looked at as far as that is possible from here.
    pub fn new(key: &str, value: &str) -> Result<Self> {
        let key = key.strip_prefix("mirror.").unwrap_or(key);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
        if key.is_empty() || key.starts_with('.') || !key.bytes().all(plain) {
            return Err(Error::usage(format!(
                "{key:?} is no setting; write KEY=VALUE with a KEY such as mode, interval_ms or max"
            )));
        }
        let mut value = value.trim().to_owned();
        match key {
            "interval_ms" => {
                Interval::parse(value.as_bytes()).map_err(|error| match error {
                    ParseError::Invalid => Error::usage(format!(
                        "{value:?} is no interval; write milliseconds, or inherit"
                    )),
                    ParseError::Range => Error::usage(format!(
                        "an interval of {value} ms is out of range; choose 10 to 600000"
                    )),
                })?;
            }
            "max" => {
                let limit = Limit::parse(value.as_bytes()).map_err(|_| {
                    Error::usage(format!(
                        "{value:?} is no limit; write bytes, a number and K, M, G or T, or max"
                    ))
                })?;
                // As it will be read back.
                value = limit
                    .bytes()
                    .map_or("max".into(), |bytes| bytes.to_string());
            }
            "current" | "coverage" | "stat" | "events" => {
                return Err(Error::usage(format!(
                    "mirror.{key} is only read; `kmirrorctl status` shows it"
                )));
            }
            _ => {}
        }
        Ok(Self {
            key: key.to_owned(),
            value,
        })
    }

    /// Reads `KEY=VALUE`.
    pub fn parse(text: &str) -> Result<Self> {
        match text.split_once('=') {
            Some((key, value)) => Self::new(key.trim(), value),
            None => Err(Error::usage(format!(
                "{text:?} is no setting; write KEY=VALUE, as in interval_ms=200"
            ))),
        }
    }
}

/// Writes all of `settings` to the cgroup at `path`. If the kernel refuses one, those before it are
/// set back to what they were.
pub fn apply(system: &System, path: &str, settings: &[Setting]) -> Result<()> {
    let mut done = Vec::new();
    for setting in settings {
        let file = system
            .mirror_of(path)
            .join(format!("mirror.{}", setting.key));
        if !file.exists() {
            undo(&done);
            return Err(no_such_setting(system, path, &setting.key));
        }
        let before = fs::read_to_string(&file).ok();
        match fs::write(&file, format!("{}\n", setting.value)) {
            Ok(()) => done.push((file, before)),
            Err(error) => {
                undo(&done);
                return Err(refused(&file, path, setting, &error));
            }
        }
    }
    Ok(())
}

/// Sets back, in reverse order.
fn undo(done: &[(std::path::PathBuf, Option<String>)]) {
    for (file, before) in done.iter().rev() {
        if let Some(text) = before {
            // What was in force a moment ago is in range; nobody can do more if it is refused.
            let _ = fs::write(file, text);
        }
    }
}

fn no_such_setting(system: &System, path: &str, key: &str) -> Error {
    let entries = fs::read_dir(system.mirror_of(path));
    let mut keys: Vec<String> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            use std::os::unix::fs::PermissionsExt;
            let mode = entry.metadata().map_or(0, |meta| meta.permissions().mode());
            mode & 0o200 != 0
        })
        .filter_map(|entry| {
            let name = entry.file_name().to_str()?.to_owned();
            Some(name.strip_prefix("mirror.")?.to_owned())
        })
        .filter(|key| key != "sync")
        .collect();
    keys.sort();
    Error::usage(format!(
        "the loaded kmirror has no setting {key}; it has {}",
        keys.join(", ")
    ))
}

fn refused(file: &Path, path: &str, setting: &Setting, error: &std::io::Error) -> Error {
    let Setting { key, value } = setting;
    let text = match (key.as_str(), errno(error)) {
        ("mode", Some(Errno::EINVAL)) if path == "/" && value == "inherit" => {
            "the root cgroup has nobody to inherit from; set its mode to off or tracked".to_owned()
        }
        ("mode", Some(Errno::EINVAL)) => {
            format!("the loaded kmirror has no mode {value:?}; use off, tracked or inherit")
        }
        ("mode", Some(Errno::ENOMEM)) => {
            "no kernel thread can be made for want of memory; free some and try again".to_owned()
        }
        ("interval_ms", Some(Errno::EINVAL)) if path == "/" => {
            "the root cgroup has nobody to inherit from; give it an interval in milliseconds"
                .to_owned()
        }
        (_, Some(Errno::EINVAL)) => format!(
            "the kernel does not take {value:?} for {}; docs/abi says what it takes",
            file.display()
        ),
        (_, Some(Errno::ERANGE)) => format!(
            "the kernel finds {value:?} out of range for {}; docs/abi gives the range",
            file.display()
        ),
        _ => return Error::file(file, error),
    };
    Error::failed(text)
}

/// Runs an epoch for a cgroup and all below it, and returns when it is over.
pub fn sync(system: &System, path: &str) -> Result<()> {
    let file = system.mirror_of(path).join("mirror.sync");
    fs::write(&file, "1\n").map_err(|error| match errno(&error) {
        Some(Errno::ENODEV) => Error::missing(format!(
            "{path} was removed or switched off meanwhile; look at `kmirrorctl status`"
        )),
        Some(Errno::EINTR) => Error::failed("interrupted; the epoch goes on, just try again"),
        _ => Error::file(&file, &error),
    })
}

/// Reads a setting back.
pub fn value(system: &System, path: &str, key: &str) -> Result<String> {
    system::read(&system.mirror_of(path).join(format!("mirror.{key}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use proptest::prelude::*;

    #[test]
    fn settings_are_read() {
        let setting = Setting::parse("mirror.interval_ms=200").unwrap();
        assert_eq!(
            (setting.key.as_str(), setting.value.as_str()),
            ("interval_ms", "200")
        );
        assert!(Setting::parse("max=512M").is_ok());
        assert!(Setting::parse("max=max").is_ok());
        assert!(Setting::parse("mode=strict").is_ok(), "the kernel decides");
        assert!(Setting::parse("store=host").is_ok(), "a later kernel's");
    }

    #[test]
    fn nonsense_is_the_callers_fault() {
        for text in [
            "",
            "mode",
            "=tracked",
            "../../x=1",
            "a/b=1",
            ".x=1",
            "interval_ms=1",
            "interval_ms=600001",
            "interval_ms=1s",
            "max=lots",
            "coverage=1000000",
        ] {
            let error = Setting::parse(text).unwrap_err();
            assert_eq!(error.kind, Kind::Usage, "{text}");
            assert!(error.text.contains("; "), "{text}: what to do next?");
        }
    }

    proptest! {
        #[test]
        fn a_key_never_leaves_the_directory(key in ".{0,20}", value in ".{0,20}") {
            if let Ok(setting) = Setting::new(&key, &value) {
                prop_assert!(!setting.key.contains('/') && !setting.key.starts_with('.'));
            }
        }
    }
}
