// SPDX-License-Identifier: GPL-2.0

//! A generator of systemd, see systemd.generator(7): each unit with a section `[X-Kmirror]` gets a
//! drop-in that starts `kmirror@UNIT.service` with it. It runs before anything is mounted or logged,
//! so it only reads unit files and writes below the directory that systemd gives.

#![forbid(unsafe_code)]

use kmirrorctl::unit_file;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where units are, the first having the last word, if SYSTEMD_UNIT_PATH does not say otherwise.
const UNIT_PATH: &str =
    "/etc/systemd/system:/run/systemd/system:/usr/local/lib/systemd/system:/usr/lib/systemd/system";

fn main() -> ExitCode {
    let Some(normal) = std::env::args_os().nth(1) else {
        eprintln!("kmirror-generator: systemd runs this; give a directory for drop-ins to try it");
        return ExitCode::from(2);
    };
    let path = std::env::var("SYSTEMD_UNIT_PATH").unwrap_or_else(|_| UNIT_PATH.into());
    let dirs: Vec<PathBuf> = path
        .split(':')
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .collect();
    for unit in unit_file::asking(&dirs) {
        let dir = Path::new(&normal).join(format!("{unit}.d"));
        let written = fs::create_dir_all(&dir)
            .and_then(|()| fs::write(dir.join("50-kmirror.conf"), unit_file::DROP_IN));
        if let Err(error) = written {
            eprintln!("kmirror-generator: {}: {error}", dir.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
