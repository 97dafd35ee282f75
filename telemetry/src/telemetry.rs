//! What runs beside the worker, and how it ends.

use std::time::{Duration, Instant};

use opentelemetry_sdk::metrics::SdkMeterProvider;

use crate::last_export::LastExport;
use crate::otlp::Closing;
use crate::server::HttpServer;
use crate::span_export::SpanExport;

/// The time that the SDK gives an exporter to shut down.
const SDK_LIMIT: Duration = Duration::from_secs(5);

/// What runs beside the worker to export its metrics and spans. Nothing does when no exporter is asked for.
///
/// End it with [`Telemetry::shutdown`]; a mere drop exports once more too, but without a timeout.
#[derive(Debug)]
pub struct Telemetry {
    pub(crate) providers: Vec<SdkMeterProvider>,
    pub(crate) spans: Option<SpanExport>,
    pub(crate) servers: Vec<HttpServer>,
    pub(crate) closing: Closing,
}

impl Telemetry {
    /// Exports once more where metrics and spans are pushed, then ends every thread. Returns within `timeout`; a collector
    /// that has not answered by then misses the last export.
    pub fn shutdown(self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        // A little less, so that an exporter that fails can still say so.
        self.closing.begin(Instant::now() + timeout.min(SDK_LIMIT).mul_f64(0.9));
        // Side by side: a collector that hangs must not cost the other signal its last export. Whatever failed to be
        // exported has been logged by the exporter.
        let spans = self.spans.map(|spans| spans.shut_down(timeout));
        let end = |provider: &SdkMeterProvider| drop(provider.shutdown());
        let metrics: Vec<_> =
            self.providers.into_iter().map(|provider| LastExport::begin("metrics", provider, end)).collect();
        for last_export in spans.into_iter().chain(metrics) {
            last_export.wait_until(deadline);
        }
        self.servers.into_iter().for_each(HttpServer::stop);
    }
}
