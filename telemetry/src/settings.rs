//! What the OpenTelemetry environment variables ask for. An empty variable counts as unset, as the specification says.

mod otlp;
mod reader;
mod spans;
#[cfg(test)]
mod tests;
mod tls;

use std::time::Duration;

use opentelemetry_sdk::metrics::Temporality;

use crate::instruments::Buckets;
use crate::problem::Problem;
use crate::settings::reader::Reader;

pub(crate) use crate::settings::otlp::{Compression, Otlp, Protocol, Signal};
pub(crate) use crate::settings::reader::{key_and_value, variable};
pub(crate) use crate::settings::spans::Traces;
pub(crate) use crate::settings::tls::Tls;

/// Default of `OTEL_METRIC_EXPORT_INTERVAL` (OpenTelemetry specification, SDK environment variables).
const INTERVAL: Duration = Duration::from_secs(60);
/// Default of `OTEL_EXPORTER_PROMETHEUS_PORT` (OpenTelemetry specification, "Prometheus exporter").
const PROMETHEUS_PORT: u16 = 9464;

/// Which exporters run, and how.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub(crate) prometheus: Option<Prometheus>,
    pub(crate) console: bool,
    pub(crate) otlp: Option<Otlp>,
    /// Time between two exports of `console` and `otlp`.
    pub(crate) interval: Duration,
    /// Of what `otlp` pushes.
    pub(crate) temporality: Temporality,
    /// The same.
    pub(crate) buckets: Buckets,
    /// Nothing, unless spans are asked for.
    pub(crate) traces: Option<Traces>,
}

/// Where `/metrics` is served.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Prometheus {
    pub(crate) host: String,
    /// 0 lets the operating system choose.
    pub(crate) port: u16,
}

/// What a list of exporters asks for.
#[derive(Debug, Default)]
struct Exporters {
    prometheus: bool,
    console: bool,
    otlp: bool,
}

impl Settings {
    /// Reads the variables through `env`; whatever is wrong with one is in the list, and its default in the settings.
    pub(crate) fn read(env: &dyn Fn(&str) -> Option<String>) -> (Self, Vec<Problem>) {
        let mut reader = Reader::new(env);
        let settings = if reader.sdk_disabled() { Self::default() } else { reader.settings() };
        (settings, reader.problems)
    }

    /// Whether any exporter of metrics is asked for.
    pub(crate) fn exports(&self) -> bool {
        self.prometheus.is_some() || self.console || self.otlp.is_some()
    }
}

impl Reader<'_> {
    fn settings(&mut self) -> Settings {
        let exporters = self.exporters(Signal::Metrics, "otlp");
        let mut settings = Settings {
            prometheus: exporters.prometheus.then(|| self.prometheus()),
            console: exporters.console,
            traces: self.traces(),
            ..Settings::default()
        };
        if exporters.otlp {
            settings.otlp = self.otlp(Signal::Metrics);
            settings.temporality = self.temporality();
            settings.buckets = self.buckets();
        }
        if exporters.otlp || exporters.console {
            settings.interval = self.milliseconds(&["OTEL_METRIC_EXPORT_INTERVAL"], INTERVAL);
        }
        settings
    }

    fn exporters(&mut self, signal: Signal, default: &str) -> Exporters {
        let variable = signal.exporter_variable();
        let list = self.get(variable).unwrap_or_else(|| default.to_owned());
        let mut exporters = Exporters::default();
        for exporter in list.split(',').map(str::trim).filter(|exporter| !exporter.is_empty()) {
            match exporter.to_ascii_lowercase().as_str() {
                "prometheus" if signal == Signal::Metrics => exporters.prometheus = true,
                "console" => exporters.console = true,
                "otlp" => exporters.otlp = true,
                "none" => {}
                _ => self.problems.push(Problem::UnknownExporter { signal, value: exporter.to_owned() }),
            }
        }
        exporters
    }

    fn prometheus(&mut self) -> Prometheus {
        let host = self.get("OTEL_EXPORTER_PROMETHEUS_HOST").unwrap_or_else(|| "localhost".to_owned());
        let port = match self.get("OTEL_EXPORTER_PROMETHEUS_PORT") {
            None => PROMETHEUS_PORT,
            Some(value) => value.parse().unwrap_or_else(|_| {
                self.problems.push(Problem::NotAPort { value, instead: PROMETHEUS_PORT });
                PROMETHEUS_PORT
            }),
        };
        Prometheus { host, port }
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
