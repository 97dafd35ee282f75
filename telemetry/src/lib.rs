//! Turns the worker's metric events into OpenTelemetry instruments, and serves or pushes them.
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
mod words;

use std::net::TcpListener;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{MeterProviderBuilder, PeriodicReader, SdkMeterProvider};
use prometheus::Registry;
use tracing::{error, info, warn};

use crate::console::Console;
use crate::endpoint::Endpoint;
use crate::instruments::Instruments;
use crate::otlp::{Closing, Push};
use crate::problem::Problem;
use crate::server::Server;
use crate::settings::{Prometheus, Settings};
use crate::status::Status;

pub use crate::recorder::Recorder;

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

/// What runs beside the worker to export its metrics. Nothing does when no exporter is asked for.
///
/// End it with [`Telemetry::shutdown`]; a mere drop exports once more too, but without a timeout.
#[derive(Debug, Default)]
pub struct Telemetry {
    provider: Option<SdkMeterProvider>,
    server: Option<Server>,
    closing: Closing,
}

/// Starts the exporters that the OpenTelemetry variables ask for (`docs/metrics.md`), read through `env`.
///
/// What cannot be done as asked is one `error` line each, and the rest is done. When nothing is left to export to, the
/// recorder is [`Recorder::disabled`].
pub fn start(identity: &Identity, env: impl Fn(&str) -> Option<String>) -> (Recorder, Telemetry) {
    let (settings, problems) = Settings::read(&env);
    problems.iter().for_each(report);
    if !settings.exports() {
        return (Recorder::disabled(), Telemetry::default());
    }
    let (resource, problem) = resource::resource(identity, &env);
    problem.unwrap_or_else(|problem| report(&problem));

    let mut readers = Readers { provider: SdkMeterProvider::builder().with_resource(resource), count: 0 };
    let endpoint = settings.prometheus.and_then(|prometheus| readers.serve(&prometheus));
    // Before OTLP: readers shut down in this order, and a collector that hangs must not cost the console its last export.
    if settings.console {
        readers.push(Console::default(), settings.interval);
    }
    let closing = Closing::default();
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
    (recorder, Telemetry { provider: Some(provider), server, closing })
}

/// A recorder over instruments of its own, for the readers that `provider` was given: what [`start`] makes, without the
/// variables and the threads. The instruments live as long as the provider that is given back.
pub fn recorder(provider: MeterProviderBuilder, identity: &Identity) -> (Recorder, SdkMeterProvider) {
    let provider = provider.with_view(instruments::view).build();
    let instruments = Instruments::new(&provider.meter("oz-agent-worker"), identity);
    (Recorder { instruments: Some(Arc::new(instruments)), status: None }, provider)
}

impl Telemetry {
    /// Exports once more where metrics are pushed, then ends every thread. Returns within `timeout`, and within the 5
    /// seconds per exporter that the SDK allows; a collector that has not answered by then misses the last export.
    pub fn shutdown(self, timeout: Duration) {
        // A little less, so that an exporter that fails can still say so.
        self.closing.begin(Instant::now() + timeout.min(SDK_LIMIT).mul_f64(0.9));
        if let Some(provider) = self.provider {
            shut_down(provider, timeout);
        }
        if let Some(server) = self.server {
            server.stop();
        }
    }
}

/// The SDK takes no timeout, so it shuts down on a thread of its own, which is left behind if it takes longer.
fn shut_down(provider: SdkMeterProvider, timeout: Duration) {
    let (done, finished) = mpsc::channel();
    let kept = provider.clone();
    let run = move || {
        // Whatever failed to be exported has been logged by the exporter.
        let _ = provider.shutdown();
        let _ = done.send(());
    };
    match thread::Builder::new().name("metrics-exit".to_owned()).spawn(run) {
        Ok(_) if finished.recv_timeout(timeout).is_err() => warn!("the last export of metrics did not end in time"),
        Ok(_) => {}
        // Dropping the last handle would shut down here and now, for as long as that takes.
        Err(_) => std::mem::forget(kept),
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
