//! The `prometheus` exporter: the catalogue as text.

use opentelemetry_prometheus::PrometheusExporter;
use prometheus::{Registry, TextEncoder};

use crate::http::Response;

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

/// Every series as it is now.
pub(crate) fn answer(registry: &Registry) -> Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => Response::new(200, CONTENT_TYPE, text.into_bytes()),
        Err(error) => Response::text(500, format!("{error}\n")),
    }
}
