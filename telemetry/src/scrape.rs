//! The `prometheus` exporter: what the endpoint answers to whom.

use opentelemetry_prometheus::PrometheusExporter;
use prometheus::{Registry, TextEncoder};

use crate::http::{Method, Request, Response};

/// Text format 0.0.4, the one that every Prometheus reads.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A reader for the SDK, and the registry through which a scrape collects from it. Names go out as the catalogue has
/// them: it already ends counters in `_total` and the histogram in its unit.
pub(crate) fn exporter() -> Option<(PrometheusExporter, Registry)> {
    let registry = Registry::new();
    let exporter = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .without_counter_suffixes()
        .without_units()
        .build()
        .ok()?;
    Some((exporter, registry))
}

/// Answers one request.
pub(crate) fn answer(registry: &Registry, request: &Request) -> Response {
    match (request.path.as_str(), request.method) {
        ("/metrics", Method::Get | Method::Head) => match TextEncoder::new().encode_to_string(&registry.gather()) {
            Ok(text) => Response::new(200, CONTENT_TYPE, text.into_bytes()),
            Err(error) => Response::text(500, &format!("{error}\n")),
        },
        ("/metrics", Method::Other) => Response::text(405, "use GET\n"),
        _ => Response::text(404, "metrics are at /metrics\n"),
    }
}
