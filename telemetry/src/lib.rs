//! Turns the worker's metric events into OpenTelemetry instruments and its tasks into spans, and serves or pushes them.
//!
//! Telemetry cannot hurt the worker. [`start`] never fails: whatever is wrong is a line in the log. [`Recorder::record`]
//! is a memory write into series that exist from the start (`docs/metrics.md`); exporting happens on threads of this
//! crate, at most one per exporter; [`Telemetry::shutdown`] returns in time whatever a collector does.
//!
//! ```no_run
//! use std::time::Duration;
//! use oz_worker_core::metrics::MetricEvent;
//! use oz_worker_telemetry::{Identity, start};
//!
//! let identity = Identity {
//!     version: "1.0.0".to_owned(),
//!     worker_id: "w1".to_owned(),
//!     backend: "direct".to_owned(),
//!     max_concurrent_tasks: 4,
//!     host_name: "build-7".to_owned(),
//!     status_page: true,
//! };
//! let (recorder, telemetry) = start(&identity, |name| std::env::var(name).ok());
//! recorder.record(MetricEvent::Connected);
//! telemetry.shutdown(Duration::from_secs(5));
//! ```

mod connection;
mod console;
mod endpoint;
mod health;
mod http;
mod instruments;
mod last_export;
mod listen;
mod otlp;
mod page;
mod problem;
mod recorder;
mod resource;
mod scrape;
mod server;
mod settings;
mod status;
mod traces;
mod words;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{MeterProviderBuilder, PeriodicReader, SdkMeterProvider};
use prometheus::Registry;
use tracing::{error, info};

use crate::console::MetricConsole;
use crate::endpoint::Endpoint;
use crate::instruments::Instruments;
use crate::last_export::LastExport;
use crate::otlp::{Closing, Push};
use crate::problem::Problem;
use crate::server::Server;
use crate::settings::{Prometheus, Settings};
use crate::status::Status;
use crate::traces::Tracing;

pub use crate::recorder::Recorder;
pub use crate::traces::TaskTrace;

/// The time that the SDK gives an exporter to shut down.
const SDK_LIMIT: Duration = Duration::from_secs(5);

/// Who telemetry is about, and what of it may be seen.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The worker's version: label `version`, attribute `service.version`.
    pub version: String,
    /// The worker's id: label `worker_id`, attribute `worker.id`.
    pub worker_id: String,
    /// The backend's name: label `backend`, attribute `worker.backend`.
    pub backend: String,
    /// The value of `oz_worker_tasks_max_concurrent`; 0 means unlimited.
    pub max_concurrent_tasks: u32,
    /// Attribute `host.name`; left out when empty.
    pub host_name: String,
    /// Whether the `prometheus` exporter serves a page for people at `/`.
    pub status_page: bool,
}

/// What runs beside the worker to export its metrics and spans. Nothing does when no exporter is asked for.
///
/// End it with [`Telemetry::shutdown`]; a mere drop exports once more too, but without a timeout.
#[derive(Debug, Default)]
pub struct Telemetry {
    provider: Option<SdkMeterProvider>,
    server: Option<Server>,
    tracing: Option<Tracing>,
    closing: Closing,
}

/// Starts the exporters that the OpenTelemetry variables ask for (`docs/metrics.md`), read through `env`.
///
/// What cannot be done as asked is one `error` line each, and the rest is done. When nothing is left to export to, the
/// recorder is [`Recorder::disabled`].
pub fn start(identity: &Identity, env: impl Fn(&str) -> Option<String>) -> (Recorder, Telemetry) {
    let (settings, problems) = Settings::read(&env);
    problems.iter().for_each(report);
    if !settings.exports() && settings.traces.is_none() {
        return (Recorder::disabled(), Telemetry::default());
    }
    let (resource, problem) = resource::resource(identity, &env);
    problem.unwrap_or_else(|problem| report(&problem));

    let closing = Closing::default();
    let traces = settings.traces.as_ref();
    let tracing = traces.and_then(|traces| Tracing::start(traces, identity, &resource, &closing));
    let (mut recorder, mut telemetry) = start_metrics(settings, identity, resource, &closing);
    recorder.traces = tracing.as_ref().map(Tracing::traces);
    telemetry.tracing = tracing;
    telemetry.closing = closing;
    (recorder, telemetry)
}

fn start_metrics(
    settings: Settings,
    identity: &Identity,
    resource: Resource,
    closing: &Closing,
) -> (Recorder, Telemetry) {
    let mut readers = Readers { provider: SdkMeterProvider::builder().with_resource(resource), count: 0 };
    let endpoint = settings.prometheus.and_then(|prometheus| readers.serve(&prometheus));
    // Before OTLP: readers shut down in this order, and a collector that hangs must not cost the console its last export.
    if settings.console {
        readers.push(MetricConsole::default(), settings.interval);
    }
    if let Some(otlp) = &settings.otlp {
        match Push::new(otlp, closing.clone()) {
            Ok(push) => readers.push(push.with_temporality(settings.temporality), settings.interval),
            Err(problem) => report(&problem),
        }
    }
    if readers.count == 0 {
        return (Recorder::disabled(), Telemetry::default());
    }

    let (mut recorder, provider) = recorder(readers.provider, identity);
    recorder.status = endpoint.is_some().then(|| Arc::new(Status::new(identity.clone())));
    // Only now, so that the first scrape finds every series.
    let server = endpoint
        .zip(recorder.status.clone())
        .and_then(|((listeners, registry), status)| serve(listeners, registry, status));
    (recorder, Telemetry { provider: Some(provider), server, ..Telemetry::default() })
}

/// A recorder over instruments of its own, for the readers that `provider` was given: what [`start`] makes, without the
/// variables and the threads. The instruments live as long as the provider that is given back.
pub fn recorder(provider: MeterProviderBuilder, identity: &Identity) -> (Recorder, SdkMeterProvider) {
    let provider = provider.with_view(instruments::view).build();
    let instruments = Instruments::new(&provider.meter("oz-agent-worker"), identity);
    (Recorder { instruments: Some(Arc::new(instruments)), ..Recorder::default() }, provider)
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
        let spans = self.tracing.map(|tracing| tracing.shut_down(timeout));
        let metrics =
            self.provider.map(|provider| LastExport::begin("metrics", provider, |provider| drop(provider.shutdown())));
        for last_export in [spans, metrics].into_iter().flatten() {
            last_export.wait_until(deadline);
        }
        if let Some(server) = self.server {
            server.stop();
        }
    }
}

fn report(problem: &Problem) {
    error!("{problem}");
}

/// The SDK's readers as they are added, one per exporter.
struct Readers {
    provider: MeterProviderBuilder,
    count: usize,
}

impl Readers {
    fn push(&mut self, exporter: impl PushMetricExporter, interval: Duration) {
        let reader = PeriodicReader::builder(exporter).with_interval(interval).build();
        self.provider = std::mem::take(&mut self.provider).with_reader(reader);
        self.count += 1;
    }

    /// Takes the port and adds the reader behind it.
    fn serve(&mut self, prometheus: &Prometheus) -> Option<(Vec<TcpListener>, Registry)> {
        let Prometheus { host, port } = prometheus;
        let listeners = listen::listen(host, *port)
            .map_err(|source| report(&Problem::Listen { host: host.clone(), port: *port, source }))
            .ok()?;
        let (exporter, registry) = scrape::exporter()?;
        self.provider = std::mem::take(&mut self.provider).with_reader(exporter);
        self.count += 1;
        Some((listeners, registry))
    }
}

fn serve(listeners: Vec<TcpListener>, registry: Registry, status: Arc<Status>) -> Option<Server> {
    let address = listen::shown(&listeners);
    let endpoint = Endpoint { registry, status };
    let server = Server::start(listeners, move |request| endpoint.answer(request))
        .map_err(|source| report(&Problem::Endpoint { source }))
        .ok()?;
    info!(%address, "metrics endpoint listening");
    Some(server)
}
