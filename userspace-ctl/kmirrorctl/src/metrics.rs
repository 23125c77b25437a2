// SPDX-License-Identifier: GPL-2.0

//! A snapshot as OpenMetrics text, for Prometheus.

use crate::error::{Error, Result};
use crate::group::Group;
use crate::snapshot::Snapshot;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{text, DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;

/// The type of the text, for HTTP.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Keys of `mirror.stat` that only grow; the others are states.
const GROWING: [&str; 5] = ["epochs", "late", "scanned", "copied", "deferred"];
/// Keys that have metrics of their own, or units to be changed.
const OWN: [&str; 4] = ["protected", "current", "scan_ns", "copy_ns"];

/// The text.
pub fn text(snapshot: Snapshot) -> Result<String> {
    let mut registry = Registry::with_prefix("kmirror");
    registry.register_collector(Box::new(Metrics(snapshot)));
    let mut out = String::new();
    text::encode(&mut out, &registry).map_err(|error| {
        Error::failed(format!(
            "the metrics cannot be written: {error}; report this"
        ))
    })?;
    Ok(out)
}

#[derive(Debug)]
struct Metrics(Snapshot);

/// Labels of a sample.
type Labels<'a> = Vec<(&'a str, &'a str)>;

impl Collector for Metrics {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> std::result::Result<(), fmt::Error> {
        let Self(now) = self;
        let region = now.region;
        for (name, help, bytes) in [
            ("region_bytes", "Size of the mirror region", region.total),
            (
                "region_free_bytes",
                "Bytes of the region that are free",
                region.free,
            ),
        ] {
            gauges(&mut to, name, help, &[(vec![], bytes as f64)])?;
        }
        let retired = now.stat.get("retired") as f64 * crate::units::PAGE as f64;
        let help = "Bytes of the region lost to memory errors";
        gauges(&mut to, "region_retired_bytes", help, &[(vec![], retired)])?;
        let events: Vec<_> = now
            .events
            .iter()
            .map(|(key, number)| (vec![("event", key)], number))
            .collect();
        let help = "Events of the whole system since the module was loaded";
        counters(&mut to, "system_events", help, &events)?;

        let help = "Whether the cgroup is protected by its own word or a parent's";
        let is = |group: &Group| f64::from(u8::from(group.is_protected()));
        gauges(&mut to, "protected", help, &self.each(is))?;
        let help = "Share of its protected pages that would survive now, 0 to 1";
        let share = |group: &Group| f64::from(group.coverage_ppm.unwrap_or(0)) / 1e6;
        gauges(&mut to, "coverage_ratio", help, &self.each(share))?;
        let help = "Bytes of memory that are protected";
        gauges(
            &mut to,
            "protected_bytes",
            help,
            &self.each(|g| g.protected_bytes() as f64),
        )?;
        let help = "Bytes of the region that its replicas use";
        gauges(
            &mut to,
            "replica_bytes",
            help,
            &self.each(|g| g.replica_bytes as f64),
        )?;
        let help = "Pages that are not current, by reason";
        gauges(&mut to, "uncovered_pages", help, &self.reasons())?;
        for (key, help) in [
            ("epochs", "Epochs run to their end"),
            ("late", "Epochs that should have begun and did not"),
            ("scanned", "Page-table entries looked at"),
            ("copied", "Pages copied"),
            (
                "deferred",
                "Times that a dirty page was left until it rests",
            ),
        ] {
            counters(&mut to, key, help, &self.each(|group| group.stat(key)))?;
        }
        for (key, name, help) in [
            (
                "scan_ns",
                "scan_seconds",
                "Time taken by walking page tables",
            ),
            ("copy_ns", "copy_seconds", "Time taken by copying"),
        ] {
            let seconds = |group: &Group| group.stat(key) as f64 / 1e9;
            counters(&mut to, name, help, &self.each(seconds))?;
        }
        let mut events = Vec::new();
        for group in &now.groups {
            for (key, number) in group.events.iter() {
                events.push((
                    vec![("cgroup", group.path.as_str()), ("event", key)],
                    number,
                ));
            }
        }
        let help = "Events of the cgroup and all below it since protection was switched on";
        counters(&mut to, "events", help, &events)
    }
}

impl Metrics {
    /// A number of each cgroup.
    fn each<T>(&self, number: impl Fn(&Group) -> T) -> Vec<(Labels<'_>, T)> {
        let groups = self.0.groups.iter();
        groups
            .map(|group| (vec![("cgroup", group.path.as_str())], number(group)))
            .collect()
    }

    /// Why pages are not current.
    fn reasons(&self) -> Vec<(Labels<'_>, f64)> {
        let mut samples = Vec::new();
        for group in &self.0.groups {
            for (key, pages) in group.stat.iter().flat_map(|stat| stat.iter()) {
                if !GROWING.contains(&key) && !OWN.contains(&key) {
                    let labels = vec![("cgroup", group.path.as_str()), ("reason", key)];
                    samples.push((labels, pages as f64));
                }
            }
        }
        samples
    }
}

fn gauges(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: &[(Labels<'_>, f64)],
) -> fmt::Result {
    let mut family = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        let slice = labels.as_slice();
        ConstGauge::new(*value).encode(family.encode_family(&slice)?)?;
    }
    Ok(())
}

fn counters<N>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: &[(Labels<'_>, N)],
) -> fmt::Result
where
    N: Copy + prometheus_client::encoding::EncodeCounterValue,
{
    let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in samples {
        let slice = labels.as_slice();
        ConstCounter::new(*value).encode(family.encode_family(&slice)?)?;
    }
    Ok(())
}
