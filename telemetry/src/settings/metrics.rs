//! Where metrics go, and how they are aggregated.

use std::time::Duration;

use opentelemetry_sdk::metrics::Temporality;

use crate::instruments::Buckets;
use crate::settings::otlp::Otlp;
use crate::settings::problem::VariableProblem;
use crate::settings::reader::Reader;
use crate::signal::OtelSignal;

/// Default of `OTEL_METRIC_EXPORT_INTERVAL` (OpenTelemetry specification, SDK environment variables).
const INTERVAL: Duration = Duration::from_secs(60);
/// Default of `OTEL_EXPORTER_PROMETHEUS_PORT` (OpenTelemetry specification, "Prometheus exporter").
const PROMETHEUS_PORT: u16 = 9464;

#[derive(Debug, Default)]
pub(crate) struct MetricSettings {
    pub(crate) prometheus: Option<ScrapeAddress>,
    pub(crate) console: bool,
    pub(crate) otlp: Option<Otlp>,
    /// Time between two exports of `console` and `otlp`.
    pub(crate) interval: Duration,
    /// Of what `otlp` pushes.
    pub(crate) temporality: Temporality,
    pub(crate) buckets: Buckets,
}

/// Where `/metrics` is served.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ScrapeAddress {
    pub(crate) host: String,
    /// 0 lets the operating system choose.
    pub(crate) port: u16,
}

impl MetricSettings {
    /// Whether any exporter of metrics is asked for.
    pub(crate) fn exports(&self) -> bool {
        self.prometheus.is_some() || self.console || self.otlp.is_some()
    }
}

impl Reader<'_> {
    pub(super) fn metrics(&mut self) -> MetricSettings {
        let exporters = self.exporters(OtelSignal::Metrics, "otlp");
        let mut settings = MetricSettings {
            prometheus: exporters.prometheus.then(|| self.prometheus()),
            console: exporters.console,
            ..MetricSettings::default()
        };
        if exporters.otlp {
            settings.otlp = self.otlp(OtelSignal::Metrics);
            settings.temporality = self.temporality();
            settings.buckets = self.buckets();
        }
        if exporters.otlp || exporters.console {
            settings.interval = self.milliseconds(&["OTEL_METRIC_EXPORT_INTERVAL"], INTERVAL);
        }
        settings
    }

    fn prometheus(&mut self) -> ScrapeAddress {
        let host = self.get("OTEL_EXPORTER_PROMETHEUS_HOST").unwrap_or_else(|| "localhost".to_owned());
        let port = match self.get("OTEL_EXPORTER_PROMETHEUS_PORT") {
            None => PROMETHEUS_PORT,
            Some(value) => value.parse().unwrap_or_else(|_| {
                self.problems.push(VariableProblem::NotAPort { value, instead: PROMETHEUS_PORT });
                PROMETHEUS_PORT
            }),
        };
        ScrapeAddress { host, port }
    }

    fn buckets(&mut self) -> Buckets {
        let variable = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION";
        let choices = [
            ("explicit_bucket_histogram", Buckets::Explicit),
            ("base2_exponential_bucket_histogram", Buckets::Exponential),
        ];
        self.choice(&[variable.to_owned()], &choices)
    }

    fn temporality(&mut self) -> Temporality {
        let variable = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        let choices = [
            ("cumulative", Temporality::Cumulative),
            // The two differ only for observable counters, of which there are none, and for gauges: the SDK's `Delta` leaves
            // out a gauge that was not set since the last export, and `oz_worker_info` is set once.
            ("delta", Temporality::LowMemory),
            ("lowmemory", Temporality::LowMemory),
        ];
        self.choice(&[variable.to_owned()], &choices)
    }
}
