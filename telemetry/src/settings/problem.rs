//! What can be wrong with a variable. Each is one line in the log; the worker goes on.

use std::io;
use std::time::Duration;

use http::HeaderName;
use oz_worker_net::proxy::ProxyError;
use oz_worker_net::tls::{PemError, TlsError};
use oz_worker_net::url::UrlError;
use oz_worker_text::line::quoted;

use crate::signal::OtelSignal;

/// One thing that is wrong: what, in which variable, and what happens instead. Values that can hold a secret (headers,
/// URLs, resource attributes) are never part of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VariableProblem {
    #[error("{}: unknown exporter {}; accepted are {}, or several of them separated by commas",
        .signal.exporter_variable(), quoted(.value), exporters(*.signal))]
    UnknownExporter { signal: OtelSignal, value: String },

    #[error("{variable}: {} is neither true nor false; using {instead}", quoted(.value))]
    NotABoolean { variable: String, value: String, instead: bool },

    #[error("{variable}: {} is not known; accepted are {}; using {instead}", quoted(.value), .accepted.join(", "))]
    NotAChoice { variable: String, value: String, accepted: Vec<&'static str>, instead: &'static str },

    #[error("{variable}: {} is not a whole number of milliseconds above 0; using {}", quoted(.value), .instead.as_millis())]
    NotMilliseconds { variable: String, value: String, instead: Duration },

    #[error(
        "OTEL_TRACES_SAMPLER: unknown sampler {}; accepted are always_on, always_off, traceidratio and each of them \
         after parentbased_; using parentbased_always_on",
        quoted(.value)
    )]
    UnknownSampler { value: String },

    #[error("OTEL_TRACES_SAMPLER_ARG: {} is not a number from 0 to 1; using 1", quoted(.value))]
    NotARatio { value: String },

    #[error("{variable}: {} is not a whole number from 1 to {most}; using {instead}", quoted(.value))]
    NotACount { variable: String, value: String, most: usize, instead: usize },

    #[error("{variable}: {} is not a whole number of milliseconds; using {}", quoted(.value), .instead.as_millis())]
    NotATimeout { variable: String, value: String, instead: Duration },

    #[error("OTEL_EXPORTER_PROMETHEUS_PORT: {} is not a port (0 to 65535); using {instead}", quoted(.value))]
    NotAPort { value: String, instead: u16 },

    #[error("{variable} {flaw}; write it as http://collector:4318; {signal} are not pushed")]
    NotAUrl { signal: OtelSignal, variable: String, flaw: UrlError },

    #[error("{source}; {signal} are not pushed")]
    NotAProxy { signal: OtelSignal, source: ProxyError },

    #[error("{variable}: entry {entry} is not name=value with a valid header name and value; it is left out")]
    NotAHeader { variable: String, entry: usize },

    #[error("{variable}: entry {entry}: the header {name} is for the exporter itself to set; it is left out")]
    NotTheOperators { variable: String, entry: usize, name: HeaderName },

    #[error("{variable}: cannot read {}: {source}; {signal} are not pushed", quoted(.path))]
    NotAFile { signal: OtelSignal, variable: String, path: String, source: io::Error },

    #[error("{variable}: {} {source}; {signal} are not pushed", quoted(.path))]
    NotPem { signal: OtelSignal, variable: String, path: String, source: PemError },

    #[error("{variable}: has no effect alone; set OTEL_EXPORTER_OTLP_{other} too; {signal} are not pushed")]
    OneOfTwo { signal: OtelSignal, variable: String, other: &'static str },

    #[error("OTEL_EXPORTER_OTLP_CERTIFICATE, …_CLIENT_CERTIFICATE, …_CLIENT_KEY: {source}; {signal} are not pushed")]
    Tls { signal: OtelSignal, source: TlsError },

    #[error("OTEL_RESOURCE_ATTRIBUTES: entry {entry} is not key=value, percent-encoded; the whole variable is ignored")]
    NotAnAttribute { entry: usize },
}

fn exporters(signal: OtelSignal) -> &'static str {
    match signal {
        OtelSignal::Metrics => "otlp, prometheus, console and none",
        OtelSignal::Traces => "otlp, console and none",
    }
}
