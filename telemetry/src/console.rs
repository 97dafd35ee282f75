//! The `console` exporter: readable metrics on standard output, and nothing else there.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_stdout::MetricExporter;
use tracing::warn;

/// Prints every export, until standard output goes away.
#[derive(Debug, Default)]
pub(crate) struct Console {
    exporter: MetricExporter,
    gone: AtomicBool,
}

impl PushMetricExporter for Console {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        if self.gone.load(Ordering::Relaxed) {
            return Ok(());
        }
        // The exporter uses `println!`, which panics on a closed pipe or a full disk; the line that separates one export
        // from the next finds that out first.
        if let Err(error) = writeln!(io::stdout()) {
            self.gone.store(true, Ordering::Relaxed);
            warn!(%error, "no more metrics on the console: standard output cannot be written");
            return Ok(());
        }
        self.exporter.export(metrics).await
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}
