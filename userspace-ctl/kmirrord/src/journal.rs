// SPDX-License-Identifier: GPL-2.0

//! What is logged, to stderr: for people on a terminal, for the journal (each line with its
//! priority, as sd-daemon(3) has it, and without the time, which the journal adds), or as JSON.

use std::fmt;
use std::io::IsTerminal;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// `<4>the message key=value`.
struct Journal;

fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        context
            .field_format()
            .format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Begins to log what `filter` names, such as `info` or `kmirrord=debug`.
///
/// # Errors
///
/// When the filter is none, or logging has begun already.
pub fn start(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|e| anyhow::anyhow!("'{filter}' is no filter for the log: {e}"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // The journal sets this for what it listens to.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let started = match format {
        LogFormat::Json => log.json().try_init(),
        LogFormat::Auto if journal => log.event_format(Journal).try_init(),
        LogFormat::Auto | LogFormat::Text => log
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .try_init(),
    };
    started.map_err(|e| anyhow::anyhow!("cannot log: {e}"))
}
