//! The `console` exporter: readable metrics and spans on standard output, and nothing else there.

use std::future::Future;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tracing::warn;

/// Prints every export, until standard output goes away.
#[derive(Debug, Default)]
pub(crate) struct Console<E> {
    exporter: E,
    gone: AtomicBool,
}

pub(crate) type MetricConsole = Console<opentelemetry_stdout::MetricExporter>;
pub(crate) type SpanConsole = Console<opentelemetry_stdout::SpanExporter>;

impl<E> Console<E> {
    /// Prints one export in one piece. `signal` is what it is an export of.
    fn print(&self, signal: &str, export: impl Future<Output = OTelSdkResult>) -> OTelSdkResult {
        if self.gone.load(Ordering::Relaxed) {
            return Ok(());
        }
        // Metrics and spans have a thread each.
        let mut stdout = io::stdout().lock();
        // The exporter uses `println!`, which panics on a closed pipe or a full disk; the line that separates one export
        // from the next finds that out first.
        if let Err(error) = writeln!(stdout) {
            self.gone.store(true, Ordering::Relaxed);
            warn!(%error, "no more {signal} on the console: standard output cannot be written");
            return Ok(());
        }
        futures_lite::future::block_on(export)
    }
}

impl PushMetricExporter for MetricConsole {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.print("metrics", self.exporter.export(metrics))
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

impl SpanExporter for SpanConsole {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.print("spans", self.exporter.export(batch))
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
