//! What can be wrong with the telemetry an operator asked for. Each is one line in the log; the worker goes on.

use std::io;
use std::time::Duration;

/// One thing that is wrong: what, in which variable, and what happens instead. Values that can hold a secret (headers,
/// URLs, resource attributes) are never part of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error(
        "OTEL_METRICS_EXPORTER: unknown exporter {value:?}; accepted are otlp, prometheus, console and none, \
         or several of them separated by commas"
    )]
    UnknownExporter { value: String },

    #[error("OTEL_SDK_DISABLED: {value:?} is neither true nor false; metrics stay on")]
    NotABoolean { value: String },

    #[error("{variable}: {value:?} is not a whole number of milliseconds above 0; using {}", .instead.as_millis())]
    NotMilliseconds { variable: &'static str, value: String, instead: Duration },

    #[error("OTEL_EXPORTER_PROMETHEUS_PORT: {value:?} is not a port (0 to 65535); using {instead}")]
    NotAPort { value: String, instead: u16 },

    #[error(
        "no metrics endpoint: cannot listen on {host}:{port}: {source}; change OTEL_EXPORTER_PROMETHEUS_PORT or \
         OTEL_EXPORTER_PROMETHEUS_HOST"
    )]
    Listen { host: String, port: u16, source: io::Error },

    #[error("no metrics endpoint: {source}")]
    Endpoint { source: io::Error },

    #[error("{variable}: unknown protocol {value:?}; metrics are not pushed; set http/protobuf")]
    UnknownProtocol { variable: &'static str, value: String },

    #[error("{variable}: {value} is not supported by this version; metrics are not pushed; set http/protobuf")]
    UnsupportedProtocol { variable: &'static str, value: String },

    #[error("{variable}: not a URL like http://collector:4318; metrics are not pushed")]
    NotAUrl { variable: &'static str },

    #[error("{variable}: entry {entry} is not name=value with a valid header name and value; it is left out")]
    NotAHeader { variable: &'static str, entry: usize },

    #[error("{variable}: unsupported compression {value:?}; accepted are gzip and none; pushing uncompressed")]
    UnsupportedCompression { variable: &'static str, value: String },

    #[error(
        "{variable}: unknown temporality {value:?}; accepted are cumulative, delta and lowmemory; using cumulative"
    )]
    UnknownTemporality { variable: &'static str, value: String },

    #[error("OTEL_RESOURCE_ATTRIBUTES: entry {entry} is not key=value, percent-encoded; the whole variable is ignored")]
    NotAnAttribute { entry: usize },

    #[error("metrics are not pushed: the OTLP exporter cannot be built")]
    Exporter,
}
