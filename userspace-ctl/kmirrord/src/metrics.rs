// SPDX-License-Identifier: GPL-2.0

//! What the service has done, for Prometheus. The names are documented in docs/host.md.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use kmirror_core::wire::{Code, Domain, Kind};
use prometheus_client::encoding::{text, EncodeLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{exponential_buckets, Histogram};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tiny_http::{Header, Listener, Method, Response, Server};
use tracing::{info, warn};

/// Which requests.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Request {
    kind: &'static str,
    code: &'static str,
}

/// Which kind of requests.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

/// Which node.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfNode {
    node: u32,
}

type Times = Family<OfKind, Histogram, fn() -> Histogram>;

/// Counters and gauges. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<Request, Counter>,
    seconds: Times,
    placed_on: Family<OfNode, Gauge>,
    /// Slots of the pool.
    pub slots: Gauge,
    /// Slots that hold something.
    pub used: Gauge,
    /// Slots that DROPs have emptied.
    pub dropped: Counter,
    /// Pages that are placed now.
    pub placed: Gauge,
    /// Pages of 4 KiB that were replaced.
    pub healed: Counter,
    /// Huge pages that were replaced.
    pub healed_huge: Counter,
    /// Requests that were malformed, and chains without room for an answer.
    pub refused: Counter,
    /// Connections of QEMU.
    pub connections: Counter,
    /// Is QEMU connected? 0 or 1.
    pub connected: Gauge,
    /// Times that a device was stopped: broken memory under the queue or a request, or a queue that
    /// makes no sense.
    pub stopped: Counter,
    registry: Arc<Registry>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All of them at 0.
    pub fn new() -> Self {
        // From 1 µs to 4 s.
        let seconds: Times =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(1e-6, 4.0, 12)));
        let mut registry = Registry::with_prefix("kmirrord");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of the service", build);
        macro_rules! register {
            ($name:literal, $help:literal, $type:expr) => {{
                let metric = $type;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        let requests = register!("requests", "Requests answered", Family::default());
        registry.register_with_unit(
            "request",
            "Time that requests took",
            Unit::Seconds,
            seconds.clone(),
        );
        let placed_on = register!(
            "placed_pages_on_node",
            "Pages of the last PLACE by the node they are on",
            Family::default()
        );
        Self {
            requests,
            seconds,
            placed_on,
            slots: register!("pool_slots", "Slots of the pool", Gauge::default()),
            used: register!("pool_used_slots", "Slots in use", Gauge::default()),
            dropped: register!("pool_dropped", "Slots emptied by DROP", Counter::default()),
            placed: register!("placed_pages", "Pages placed", Gauge::default()),
            healed: register!("healed_frames", "4 KiB pages replaced", Counter::default()),
            healed_huge: register!(
                "healed_huge_pages",
                "Huge pages replaced",
                Counter::default()
            ),
            refused: register!(
                "refused_requests",
                "Requests that were malformed",
                Counter::default()
            ),
            connections: register!("connections", "Connections of QEMU", Counter::default()),
            connected: register!("connected", "Whether QEMU is connected", Gauge::default()),
            stopped: register!(
                "stopped",
                "Times the device was stopped for a broken queue or broken memory",
                Counter::default()
            ),
            registry: Arc::new(registry),
        }
    }

    /// Counts an answer.
    pub fn answered(&self, kind: Option<Kind>, code: Code, time: Duration) {
        let kind = kind.map_or("unknown", Kind::name);
        let code = code.name();
        self.requests.get_or_create(&Request { kind, code }).inc();
        let seconds = self.seconds.get_or_create(&OfKind { kind });
        seconds.observe(time.as_secs_f64());
    }

    /// How many requests of a kind ended so.
    pub fn count(&self, kind: Kind, code: Code) -> u64 {
        let (kind, code) = (kind.name(), code.name());
        self.requests.get_or_create(&Request { kind, code }).get()
    }

    /// How many requests of a kind ended otherwise than well.
    pub fn failures(&self, kind: Kind) -> u64 {
        Code::ALL
            .into_iter()
            .filter(|&code| code != Code::Ok)
            .map(|code| self.count(kind, code))
            .sum()
    }

    /// Shows where the pages of a PLACE are.
    pub fn placed_on(&self, domains: &[Domain]) {
        self.placed_on.clear();
        for &Domain { node, pages, .. } in domains {
            let gauge = self.placed_on.get_or_create(&OfNode { node });
            set(&gauge, pages);
        }
    }

    /// The text that Prometheus asks for.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

/// Sets a gauge, which has a sign, to a number of pages or slots, which has none.
pub fn set(gauge: &Gauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// Where the metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP port of a loopback address.
    Loopback(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl std::str::FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let address: SocketAddr = text
            .parse()
            .with_context(|| format!("'{text}' is neither ADDRESS:PORT nor unix:PATH"))?;
        if !address.ip().is_loopback() {
            bail!("metrics are served on a loopback address only, not on {address}");
        }
        Ok(Self::Loopback(address))
    }
}

/// Listens at `address`, without answering yet.
///
/// # Errors
///
/// When that is not possible.
pub fn listen(address: &Address) -> Result<Listener> {
    match address {
        Address::Loopback(address) => {
            let listener = TcpListener::bind(address)
                .with_context(|| format!("cannot serve metrics on {address}"))?;
            info!(address = %listener.local_addr()?, "metrics are served");
            Ok(listener.into())
        }
        Address::Unix(path) => {
            crate::socket::remove_stale(path)?;
            let listener = UnixListener::bind(path)
                .with_context(|| format!("cannot serve metrics on {}", path.display()))?;
            info!(address = %path.display(), "metrics are served");
            Ok(listener.into())
        }
    }
}

/// Begins to answer, in threads of its own.
///
/// # Errors
///
/// When they cannot be started.
pub fn start(listener: Listener, metrics: Metrics) -> Result<()> {
    let server = Server::from_listener(listener, None)
        .map_err(|error| anyhow::anyhow!("cannot serve metrics: {error}"))?;
    std::thread::Builder::new()
        .name("metrics".into())
        .spawn(move || serve(&server, &metrics))
        .context("cannot start a thread")?;
    Ok(())
}

/// Answers requests for the metrics, for ever.
fn serve(server: &Server, metrics: &Metrics) {
    for request in server.incoming_requests() {
        let known = request.url() == "/metrics";
        let right = request.method() == &Method::Get;
        let done = if known && right {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            let mut response = Response::from_string(metrics.text());
            if let Ok(header) = Header::from_bytes("Content-Type", kind) {
                response = response.with_header(header);
            }
            request.respond(response)
        } else {
            request.respond(Response::empty(if known { 405 } else { 404 }))
        };
        if let Err(error) = done {
            warn!(%error, "metrics: cannot answer");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_served_on_this_machine_only() {
        let parse = |text: &str| text.parse::<Address>();
        assert!(parse("127.0.0.1:9100").is_ok());
        assert!(parse("[::1]:0").is_ok());
        assert_eq!(
            parse("unix:/run/m.sock").unwrap(),
            Address::Unix("/run/m.sock".into())
        );
        for wrong in [
            "0.0.0.0:9100",
            "[::]:1",
            "192.0.2.1:1",
            "localhost",
            "9100",
            "",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn requests_are_counted_by_kind_and_code() {
        let metrics = Metrics::new();
        let time = Duration::from_micros(3);
        metrics.answered(Some(Kind::Store), Code::Ok, time);
        metrics.answered(Some(Kind::Store), Code::Full, time);
        metrics.answered(Some(Kind::Store), Code::Full, time);
        metrics.answered(None, Code::Kind, time);
        assert_eq!(metrics.count(Kind::Store, Code::Ok), 1);
        assert_eq!(metrics.failures(Kind::Store), 2);
        let text = metrics.text();
        for line in [
            "kmirrord_requests_total{kind=\"store\",code=\"full\"} 2",
            "kmirrord_requests_total{kind=\"unknown\",code=\"kind\"} 1",
            "kmirrord_request_seconds_count{kind=\"store\"} 3",
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
    }
}
