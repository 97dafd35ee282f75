//! What can go wrong when telemetry is started. Each is one line in the log; the worker goes on.

use std::io;

use crate::signal::OtelSignal;

/// One thing that does not run, and why.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartProblem {
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

    #[error("cannot push {signal}: the exporter cannot be built")]
    Exporter { signal: OtelSignal },
}
