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

#![forbid(unsafe_code)]

mod client;
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

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{Instrument, MeterProviderBuilder, PeriodicReader, SdkMeterProvider};
use tracing::{error, info};

use crate::console::MetricConsole;
use crate::endpoint::Endpoint;
use crate::instruments::{Buckets, Instruments};
use crate::last_export::LastExport;
use crate::otlp::Closing;
use crate::problem::Problem;
use crate::scrape::Scraper;
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
    providers: Vec<SdkMeterProvider>,
    server: Option<Server>,
    health: Option<Server>,
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
    let (mut recorder, mut telemetry) = start_metrics(settings, identity, &resource, &closing);
    recorder.traces = tracing.as_ref().map(Tracing::traces);
    telemetry.tracing = tracing;
    telemetry.closing = closing;
    (recorder, telemetry)
}

fn start_metrics(
    settings: Settings,
    identity: &Identity,
    resource: &Resource,
    closing: &Closing,
) -> (Recorder, Telemetry) {
    let mut readers = Readers::new(resource);
    // A view is for every reader of a provider, and buckets are for the collector only.
    let mut apart = (settings.buckets != Buckets::default()).then(|| Readers::new(resource));
    let endpoint = settings.prometheus.and_then(|prometheus| readers.serve(&prometheus));
    // Before OTLP: readers shut down in this order, and a collector that hangs must not cost the console its last export.
    if settings.console {
        readers.push(MetricConsole::default(), settings.interval);
    }
    if let Some(otlp) = &settings.otlp {
        match otlp::metrics(otlp, settings.temporality, closing) {
            Ok(push) => apart.as_mut().unwrap_or(&mut readers).push(push, settings.interval),
            Err(problem) => report(&problem),
        }
    }
    let sets = [(readers, Buckets::default())].into_iter().chain(apart.map(|apart| (apart, settings.buckets)));
    let (instruments, providers): (Vec<_>, Vec<_>) =
        sets.filter_map(|(readers, buckets)| readers.instruments(buckets, identity)).unzip();
    if instruments.is_empty() {
        return (Recorder::disabled(), Telemetry::default());
    }
    let mut recorder = Recorder { instruments: Some(instruments.into()), ..Recorder::default() };
    recorder.status = endpoint.is_some().then(|| Arc::new(Status::new(identity.clone())));
    // Only now, so that the first scrape finds every series.
    let server = endpoint
        .zip(recorder.status.clone())
        .and_then(|((listeners, scraper), status)| serve(listeners, scraper, status));
    (recorder, Telemetry { providers, server, ..Telemetry::default() })
}

/// A recorder over instruments of its own, for the readers that `provider` was given: what [`start`] makes, without the
/// variables and the threads. The instruments live as long as the provider that is given back.
pub fn recorder(provider: MeterProviderBuilder, identity: &Identity) -> (Recorder, SdkMeterProvider) {
    let (instruments, provider) = bind(provider, Buckets::default(), identity);
    (Recorder { instruments: Some([instruments].into()), ..Recorder::default() }, provider)
}

fn bind(provider: MeterProviderBuilder, buckets: Buckets, identity: &Identity) -> (Instruments, SdkMeterProvider) {
    let provider = provider.with_view(move |instrument: &Instrument| instruments::view(instrument, buckets)).build();
    (Instruments::new(&provider.meter("oz-agent-worker"), identity), provider)
}

impl Telemetry {
    /// Serves `/livez` and `/readyz` at this address too, whatever is exported: on one thread more. `recorder` is the one
    /// that came with this, and must be told of what happens from now on. What is wrong with the address is one `error` line.
    pub fn serve_health(&mut self, recorder: &mut Recorder, identity: &Identity, host: &str, port: u16) {
        let status = recorder.status.get_or_insert_with(|| Arc::new(Status::new(identity.clone())));
        match serve_health(host, port, status.clone()) {
            Ok(server) => self.health = Some(server),
            Err(problem) => report(&problem),
        }
    }

    /// Exports once more where metrics and spans are pushed, then ends every thread. Returns within `timeout`; a collector
    /// that has not answered by then misses the last export.
    pub fn shutdown(self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        // A little less, so that an exporter that fails can still say so.
        self.closing.begin(Instant::now() + timeout.min(SDK_LIMIT).mul_f64(0.9));
        // Side by side: a collector that hangs must not cost the other signal its last export. Whatever failed to be
        // exported has been logged by the exporter.
        let spans = self.tracing.map(|tracing| tracing.shut_down(timeout));
        let end = |provider: &SdkMeterProvider| drop(provider.shutdown());
        let metrics: Vec<_> =
            self.providers.into_iter().map(|provider| LastExport::begin("metrics", provider, end)).collect();
        for last_export in spans.into_iter().chain(metrics) {
            last_export.wait_until(deadline);
        }
        for server in [self.server, self.health].into_iter().flatten() {
            server.stop();
        }
    }
}

fn report(problem: &Problem) {
    error!("{problem}");
}

/// The SDK's readers of one provider as they are added, one per exporter.
struct Readers {
    provider: MeterProviderBuilder,
    count: usize,
}

impl Readers {
    fn new(resource: &Resource) -> Self {
        Self { provider: SdkMeterProvider::builder().with_resource(resource.clone()), count: 0 }
    }

    /// Instruments for these readers, if there are any.
    fn instruments(self, buckets: Buckets, identity: &Identity) -> Option<(Instruments, SdkMeterProvider)> {
        (self.count > 0).then(|| bind(self.provider, buckets, identity))
    }

    fn push(&mut self, exporter: impl PushMetricExporter, interval: Duration) {
        let reader = PeriodicReader::builder(exporter).with_interval(interval).build();
        self.provider = std::mem::take(&mut self.provider).with_reader(reader);
        self.count += 1;
    }

    /// Takes the port and adds the reader behind it.
    fn serve(&mut self, prometheus: &Prometheus) -> Option<(Vec<TcpListener>, Scraper)> {
        let Prometheus { host, port } = prometheus;
        let listeners = listen::listen(host, *port)
            .map_err(|source| report(&Problem::Listen { host: host.clone(), port: *port, source }))
            .ok()?;
        let scraper = Scraper::default();
        self.provider = std::mem::take(&mut self.provider).with_reader(scraper.clone());
        self.count += 1;
        Some((listeners, scraper))
    }
}

fn serve(listeners: Vec<TcpListener>, scraper: Scraper, status: Arc<Status>) -> Option<Server> {
    let address = listen::shown(&listeners);
    let endpoint = Endpoint { scraper, status };
    let server = Server::start(listeners, move |request| endpoint.answer(request))
        .map_err(|source| report(&Problem::Endpoint { source }))
        .ok()?;
    info!(%address, "metrics endpoint listening");
    Some(server)
}

fn serve_health(host: &str, port: u16, status: Arc<Status>) -> Result<Server, Problem> {
    let listeners = listen::listen(host, port).map_err(|source| Problem::ListenForHealth {
        host: host.to_owned(),
        port,
        source,
    })?;
    let address = listen::shown(&listeners);
    let server = Server::start(listeners, move |request| endpoint::health(&status, request))
        .map_err(|source| Problem::Health { source })?;
    info!(%address, "health endpoint listening");
    Ok(server)
}
