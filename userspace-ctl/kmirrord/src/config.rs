// SPDX-License-Identifier: GPL-2.0

//! What the administrator has decided: the flags, over the file, over what is assumed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{bail, Context, Result};
use kmirror_core::Limit;
use serde::{Deserialize, Deserializer};

use crate::metrics::Address;
use crate::pool::MAX_SLOTS;
use crate::service::Limits;
use crate::sys::numa::MAX_NODE;

/// A size in bytes, `512M`, or `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub Limit);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Limit::parse(text.as_bytes())
            .map(Self)
            .map_err(|_| format!("'{text}' is no size: bytes, with K, M, G or T, or max"))
    }
}

/// A node, or `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// Left to the service, for the pool to the kernel.
    Auto,
    /// This one.
    Number(u32),
}

impl FromStr for Node {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Auto),
            (_, Ok(node)) if node <= MAX_NODE => Ok(Self::Number(node)),
            _ => Err(format!(
                "'{text}' is no node: a number up to {MAX_NODE}, or auto"
            )),
        }
    }
}

impl Node {
    fn number(self) -> Option<u32> {
        match self {
            Self::Auto => None,
            Self::Number(node) => Some(node),
        }
    }
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For the journal if it listens, else text.
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// What happens when the kernel cannot confine the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Confine {
    /// It is said, and the service runs.
    Auto,
    /// The service does not run.
    Require,
    /// It is not confined, for debugging.
    Off,
}

/// What the file may have; its keys are the flags' names.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Listen on this unix socket, unless systemd hands one over
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Connect to this unix socket, at which QEMU listens (server=on), and again when it has gone
    #[arg(long, value_name = "PATH", conflicts_with = "socket")]
    pub connect: Option<PathBuf>,

    /// Hold replicas of at most so many bytes for the guest [default: 0, none]
    #[arg(long, value_name = "SIZE")]
    #[serde(default, deserialize_with = "text")]
    pub pool: Option<Size>,

    /// Hold them on this NUMA node [default: auto, which leaves it to the kernel]
    #[arg(long, value_name = "NODE")]
    #[serde(default, deserialize_with = "text")]
    pub pool_node: Option<Node>,

    /// Place the guest's mirror region on this node [default: auto, the node with the least of the
    /// guest's other memory]
    #[arg(long, value_name = "NODE")]
    #[serde(default, deserialize_with = "text")]
    pub place_node: Option<Node>,

    /// Place, and lock, at most so many bytes [default: max, all that the guest has]
    #[arg(long, value_name = "SIZE")]
    #[serde(default, deserialize_with = "text")]
    pub place_max: Option<Size>,

    /// Give broken frames fresh memory [default: true]
    #[arg(long, value_name = "BOOL")]
    pub heal: Option<bool>,

    /// Serve metrics for Prometheus: ADDRESS:PORT of a loopback address, or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    #[serde(default, deserialize_with = "text")]
    pub metrics: Option<Address>,

    /// How the log is written [default: auto]
    #[arg(long, value_name = "FORMAT")]
    pub log: Option<LogFormat>,

    /// What is logged: error, warn, info, debug or trace, also by module [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log_level: Option<String>,

    /// Whether the kernel has to confine the service [default: auto]
    #[arg(long, value_name = "WHEN")]
    pub confine: Option<Confine>,
}

/// Reads what is written like the flag: a text, or a number as such.
fn text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Raw {
        Number(u64),
        Text(String),
    }
    let text = match Raw::deserialize(deserializer)? {
        Raw::Number(number) => number.to_string(),
        Raw::Text(text) => text,
    };
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

impl Settings {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or has a key or a value that has no meaning.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("in {}", path.display()))
    }

    /// These, and where they say nothing, `others`.
    pub fn or(self, others: Self) -> Self {
        Self {
            // One of them on the command line stands over the other in the file.
            socket: match self.connect {
                Some(_) => None,
                None => self.socket.clone().or(others.socket),
            },
            connect: match self.socket {
                Some(_) => None,
                None => self.connect.or(others.connect),
            },
            pool: self.pool.or(others.pool),
            pool_node: self.pool_node.or(others.pool_node),
            place_node: self.place_node.or(others.place_node),
            place_max: self.place_max.or(others.place_max),
            heal: self.heal.or(others.heal),
            metrics: self.metrics.or(others.metrics),
            log: self.log.or(others.log),
            log_level: self.log_level.or(others.log_level),
            confine: self.confine.or(others.confine),
        }
    }

    /// What the guest is allowed.
    ///
    /// # Errors
    ///
    /// For a pool without a limit.
    pub fn limits(&self) -> Result<Limits> {
        let slots = self.pool.map_or(0, |size| size.0.slots());
        if slots > MAX_SLOTS {
            bail!(
                "the pool needs a limit: --pool {}T at most",
                MAX_SLOTS >> 28
            );
        }
        Ok(Limits {
            slots,
            pool_node: self.pool_node.and_then(Node::number),
            place_node: self.place_node.and_then(Node::number),
            place_bytes: self
                .place_max
                .and_then(|size| size.0.bytes())
                .unwrap_or(u64::MAX),
            heal: self.heal.unwrap_or(true),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_stand_over_the_file() {
        let file: Settings = toml::from_str(
            "pool = '1G'\npool-node = 1\nplace-node = 'auto'\nheal = false\nlog = 'json'",
        )
        .unwrap();
        let flags = Settings {
            pool: Some("8K".parse().unwrap()),
            ..Settings::default()
        };
        let connect = Settings {
            connect: Some("/a".into()),
            ..Settings::default()
        };
        let socket = Settings {
            socket: Some("/b".into()),
            ..Settings::default()
        };
        assert_eq!(socket.clone().or(connect.clone()).connect, None);
        assert_eq!(connect.or(socket).socket, None);
        let both = flags.or(file);
        let limits = both.limits().unwrap();
        assert_eq!(
            (limits.slots, limits.pool_node, limits.place_node),
            (2, Some(1), None)
        );
        assert!(!limits.heal);
        assert_eq!(both.log, Some(LogFormat::Json));
        assert_eq!(limits.place_bytes, u64::MAX);
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        for wrong in [
            "pool = '1Q'",
            "pool-node = 1024",
            "pool-node = 'first'",
            "place-node = -1",
            "heal = 'yes'",
            "metrics = '0.0.0.0:1'",
            "unknown = 1",
            "confine = 'maybe'",
        ] {
            assert!(toml::from_str::<Settings>(wrong).is_err(), "{wrong}");
        }
        let endless: Settings = toml::from_str("pool = 'max'").unwrap();
        assert!(endless.limits().is_err());
    }
}
