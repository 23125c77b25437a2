// SPDX-License-Identifier: GPL-2.0

//! A case: one promise, and the test that shows it.

use crate::cgroup::Cgroup;
use crate::mirror::Mirror;
use anyhow::Result;
use std::fmt;

/// One promise.
#[derive(Debug)]
pub struct Case {
    /// What it is called, on the command line too.
    pub name: &'static str,
    /// The code whose absence makes it fail.
    pub guard: &'static str,
    /// Seconds after which it has failed.
    pub limit: u64,
    /// The test. It is run in a process of its own.
    pub body: fn(&Context) -> Result<()>,
}

impl Case {
    /// A case that takes no unusual time.
    pub const fn new(
        name: &'static str,
        guard: &'static str,
        body: fn(&Context) -> Result<()>,
    ) -> Self {
        Self {
            name,
            guard,
            limit: 60,
            body,
        }
    }

    /// The same, with more time.
    pub const fn limit(self, limit: u64) -> Self {
        Self { limit, ..self }
    }
}

/// What a case is given.
#[derive(Debug)]
pub struct Context {
    /// A cgroup for this case alone. Whatever is in it and below is killed and removed afterwards.
    pub cgroup: Cgroup,
    /// For what is random.
    pub seed: u64,
}

impl Context {
    /// A cgroup that is mirrored, with epochs only on demand.
    pub fn tracked(&self, name: &str) -> Result<(Cgroup, Mirror)> {
        let cgroup = self.cgroup.child(name)?;
        let mirror = Mirror::of(&cgroup);
        mirror.track()?;
        Ok((cgroup, mirror))
    }
}

/// Why a test cannot be made here.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Ends the test: it cannot be made here.
macro_rules! skip {
    ($($arg:tt)*) => {
        return Err($crate::case::Skip(format!($($arg)*)).into())
    };
}
pub(crate) use skip;
