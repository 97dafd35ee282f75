//! What can be wrong with the telemetry an operator asked for. Each is one line in the log; the worker goes on.

use std::io;
use std::time::Duration;

use crate::settings::Signal;

/// One thing that is wrong: what, in which variable, and what happens instead. Values that can hold a secret (headers,
/// URLs, resource attributes) are never part of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("{}: unknown exporter {value:?}; accepted are {}, or several of them separated by commas",
        .signal.exporter_variable(), exporters(*.signal))]
    UnknownExporter { signal: Signal, value: String },

    #[error("{variable}: {value:?} is neither true nor false; taken as false")]
    NotABoolean { variable: String, value: String },

    #[error("{variable}: {value:?} is not known; accepted are {}; using {}",
        .accepted.join(", "), .accepted.first().unwrap_or(&"the default"))]
    NotAChoice { variable: String, value: String, accepted: Vec<&'static str> },

    #[error("{variable}: {value:?} is not a whole number of milliseconds above 0; using {}", .instead.as_millis())]
    NotMilliseconds { variable: String, value: String, instead: Duration },

    #[error(
        "OTEL_TRACES_SAMPLER: unknown sampler {value:?}; accepted are always_on, always_off, traceidratio and each of them \
         after parentbased_; using parentbased_always_on"
    )]
    UnknownSampler { value: String },

    #[error("OTEL_TRACES_SAMPLER_ARG: {value:?} is not a number from 0 to 1; using 1")]
    NotARatio { value: String },

    #[error("{variable}: {value:?} is not a whole number from 1 to {most}; using {instead}")]
    NotACount { variable: String, value: String, most: usize, instead: usize },

    #[error("{variable}: {value:?} is not a whole number of milliseconds; using {}", .instead.as_millis())]
    NotATimeout { variable: String, value: String, instead: Duration },

    #[error("OTEL_EXPORTER_PROMETHEUS_PORT: {value:?} is not a port (0 to 65535); using {instead}")]
    NotAPort { value: String, instead: u16 },

    #[error(
        "no metrics endpoint: cannot listen on {host}:{port}: {source}; change OTEL_EXPORTER_PROMETHEUS_PORT or \
         OTEL_EXPORTER_PROMETHEUS_HOST"
    )]
    Listen { host: String, port: u16, source: io::Error },

    #[error("no metrics endpoint: {source}")]
    Endpoint { source: io::Error },

    #[error("no /livez and /readyz: cannot listen on {host}:{port}: {source}; change --health-address")]
    ListenForHealth { host: String, port: u16, source: io::Error },

    #[error("no /livez and /readyz: {source}")]
    Health { source: io::Error },

    #[error("{variable}: not a URL like http://collector:4318; {signal} are not pushed")]
    NotAUrl { signal: Signal, variable: String },

    #[error("{variable}: entry {entry} is not name=value with a valid header name and value; it is left out")]
    NotAHeader { variable: String, entry: usize },

    #[error("{variable}: cannot read {path:?}: {source}; {signal} are not pushed")]
    NotAFile { signal: Signal, variable: String, path: String, source: io::Error },

    #[error("{variable}: {path:?} does not hold {what} in PEM; {signal} are not pushed")]
    NotPem { signal: Signal, variable: String, path: String, what: &'static str },

    #[error("{variable}: has no effect alone; set OTEL_EXPORTER_OTLP_{other} too; {signal} are not pushed")]
    OneOfTwo { signal: Signal, variable: String, other: &'static str },

    #[error("OTEL_EXPORTER_OTLP_CERTIFICATE, …_CLIENT_CERTIFICATE, …_CLIENT_KEY: {source}; {signal} are not pushed")]
    Tls { signal: Signal, source: rustls::Error },

    #[error("cannot push {signal}: {source}")]
    Exporter { signal: Signal, source: opentelemetry_otlp::ExporterBuildError },

    #[error("OTEL_RESOURCE_ATTRIBUTES: entry {entry} is not key=value, percent-encoded; the whole variable is ignored")]
    NotAnAttribute { entry: usize },
}

fn exporters(signal: Signal) -> &'static str {
    match signal {
        Signal::Metrics => "otlp, prometheus, console and none",
        Signal::Traces => "otlp, console and none",
    }
}
