// SPDX-License-Identifier: GPL-2.0

//! The mirror region: the memory that replicas are in.

use crate::error::{Error, Result};
use crate::system::{self, System};
use crate::units;
use kmirror_core::{ParseError, RegionSize};
use nix::errno::Errno;
use serde::Serialize;
use std::fs;
use std::path::PathBuf;

/// The region, as it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Region {
    /// Bytes of it.
    pub total: u64,
    /// Bytes that are neither used nor retired.
    pub free: u64,
    /// Its NUMA node; `None` if the page allocator chooses.
    pub node: Option<u32>,
}

impl Region {
    /// Reads it.
    pub fn read(system: &System) -> Result<Self> {
        let file = |name: &str| system.mirror("region").join(name);
        let node = system::read(&file("node"))?;
        let node = match node.as_str() {
            "-1" => None,
            number => Some(
                number
                    .parse()
                    .map_err(|_| system::strange(&file("node"), &node, "a node or -1"))?,
            ),
        };
        Ok(Self {
            total: system::number(&file("total"))?,
            free: system::number(&file("free"))?,
            node,
        })
    }

    /// Bytes that cannot be used for further replicas.
    pub fn used(&self) -> u64 {
        self.total.saturating_sub(self.free)
    }
}

/// Makes the region grow or shrink to what `text` says, in the form of `region/total`.
pub fn resize(system: &System, text: &str) -> Result<()> {
    let size = RegionSize::parse(text.as_bytes()).map_err(|error| match error {
        ParseError::Invalid => Error::usage(format!(
            "{text} is no size; write bytes, or a number and K, M, G or T, as in 2G"
        )),
        ParseError::Range => Error::usage(format!(
            "the region cannot be {text} large; choose 0, or 2M to 4P"
        )),
    })?;
    let path: PathBuf = system.mirror("region/total");
    fs::write(&path, format!("{}\n", size.bytes())).map_err(|error| match errno(&error) {
        Some(Errno::ENOMEM) => Error::failed(format!(
            "there is not enough free memory in blocks of 2 MiB for a region of {}; it is as it was, so ask for less, or do this sooner after boot",
            units::bytes(size.bytes())
        )),
        Some(Errno::EINTR) => {
            Error::failed("interrupted; the region is as it was, so just try again")
        }
        _ => Error::file(&path, &error),
    })
}

/// The kernel's own number of an error.
pub fn errno(error: &std::io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}
