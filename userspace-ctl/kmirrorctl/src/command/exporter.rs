// SPDX-License-Identifier: GPL-2.0

//! `kmirrorctl exporter`: metrics for Prometheus.

use super::{print, Context};
use crate::cli::ExporterArgs;
use crate::error::{Error, Result};
use crate::metrics;
use crate::snapshot::{Scope, Snapshot};
use listenfd::ListenFd;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use tiny_http::{Header, Method, Request, Response, Server};

pub(super) fn run(cx: &Context, args: &ExporterArgs) -> Result<()> {
    let text = || -> Result<String> { metrics::text(Snapshot::take(&cx.system, "/", Scope::Set)?) };
    if let Some(file) = &args.textfile {
        return write_whole(file, &text()?);
    }
    let Some(server) = server(args)? else {
        return print(&text()?);
    };
    for request in server.incoming_requests() {
        answer(request, &text);
    }
    Ok(())
}

/// A server at the socket that systemd has opened, or at the one asked for; `None` if there is
/// neither.
fn server(args: &ExporterArgs) -> Result<Option<Server>> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::failed(format!(
            "the metrics cannot be served: {error}; is another exporter running?"
        ))
    };
    let mut inherited = ListenFd::from_env();
    if inherited.len() > 0 {
        let unix = inherited.take_unix_listener(0);
        let server = match unix {
            Ok(Some(listener)) => Server::from_listener(listener, None),
            _ => match inherited.take_tcp_listener(0) {
                Ok(Some(listener)) => Server::from_listener(listener, None),
                _ => return Err(failed(&"the inherited socket is of no known kind")),
            },
        };
        return server.map(Some).map_err(|error| failed(&error));
    }
    let Some(place) = &args.listen else {
        return Ok(None);
    };
    if let Some(path) = place.strip_prefix("unix:") {
        // One that is left over from a run before; a socket that is served refuses to be taken away
        // by nobody, so only a dead one is.
        if std::os::unix::net::UnixStream::connect(path).is_err() {
            let _ = fs::remove_file(path);
        }
        return Server::http_unix(Path::new(path))
            .map(Some)
            .map_err(|error| failed(&error));
    }
    let address: SocketAddr = place.parse().map_err(|_| {
        Error::usage(format!(
            "{place:?} is no address; write 127.0.0.1:9943, [::1]:9943 or unix:/run/kmirror.sock"
        ))
    })?;
    if !address.ip().is_loopback() {
        return Err(Error::usage(
            "the exporter serves without a password, so on loopback only; put a proxy before it for other machines",
        ));
    }
    Server::http(address)
        .map(Some)
        .map_err(|error| failed(&error))
}

fn answer(request: Request, text: &dyn Fn() -> Result<String>) {
    let response = match (request.method(), request.url()) {
        (Method::Get, "/metrics") => match text() {
            Ok(body) => {
                let header = Header::from_bytes("Content-Type", metrics::CONTENT_TYPE);
                let response = Response::from_string(body);
                match header {
                    Ok(header) => response.with_header(header),
                    Err(()) => response,
                }
            }
            Err(error) => Response::from_string(format!("{error}\n")).with_status_code(503),
        },
        (Method::Get, _) => Response::from_string("see /metrics\n").with_status_code(404),
        _ => Response::from_string("GET only\n").with_status_code(405),
    };
    // Whoever has asked may have gone.
    let _ = request.respond(response);
}

/// Writes a file in one step, so that the node exporter never reads half of it.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let failed = |error: &std::io::Error| Error::file(path, error);
    let mut file = tempfile::Builder::new()
        .prefix(".kmirror")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(|error| failed(&error))?;
    file.write_all(text.as_bytes())
        .map_err(|error| failed(&error))?;
    file.persist(path).map_err(|error| failed(&error.error))?;
    Ok(())
}
