// SPDX-License-Identifier: GPL-2.0

//! What `doctor` says: what is so, and what to do about it.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be, or just worth knowing.
    Good,
    /// Something is less covered than it could be.
    Note,
    /// Something does not work.
    Fault,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is so: a sentence.
    pub what: String,
    /// What to do: a sentence, or nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

impl Finding {
    /// As it should be.
    pub fn good(what: impl Into<String>) -> Self {
        Self::new(Severity::Good, what, "")
    }

    /// Worth knowing.
    pub fn note(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Severity::Note, what, next)
    }

    /// Wrong.
    pub fn fault(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Severity::Fault, what, next)
    }

    fn new(severity: Severity, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            severity,
            what: what.into(),
            next: next.into(),
        }
    }
}
