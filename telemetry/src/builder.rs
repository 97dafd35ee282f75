//! Starts telemetry.

use std::net::TcpListener;
use std::sync::Arc;

use opentelemetry_sdk::metrics::reader::MetricReader;
use tracing::{error, info};

use crate::endpoint::{self, Endpoint};
use crate::identity::Identity;
use crate::listen;
use crate::metric_export::{MetricExport, Readers};
use crate::otlp::Closing;
use crate::problem::StartProblem;
use crate::recorder::Recorder;
use crate::resource::resource;
use crate::scrape::Scraper;
use crate::server::HttpServer;
use crate::settings::TelemetrySettings;
use crate::span_export::SpanExport;
use crate::status::Status;
use crate::telemetry::Telemetry;

/// What telemetry is to do. Without a call of its methods it does nothing.
#[derive(Debug)]
#[must_use = "nothing runs before it is started"]
pub struct TelemetryBuilder {
    identity: Identity,
    settings: TelemetrySettings,
    health: Option<(String, u16)>,
    readers: Readers,
}

impl Telemetry {
    /// Begins to say what is to run for this worker; [`TelemetryBuilder::start`] starts it.
    pub fn builder(identity: Identity) -> TelemetryBuilder {
        TelemetryBuilder { identity, settings: TelemetrySettings::default(), health: None, readers: Readers::default() }
    }
}

impl TelemetryBuilder {
    /// Exports what these variables ask for. Whatever is wrong with one is an `error` line each when telemetry starts.
    pub fn settings(self, settings: TelemetrySettings) -> Self {
        Self { settings, ..self }
    }

    /// Serves `/livez` and `/readyz` at this address too, whatever is exported: on one thread more.
    pub fn health(self, host: &str, port: u16) -> Self {
        Self { health: Some((host.to_owned(), port)), ..self }
    }

    /// Adds a reader of the caller's own, which finds every series from the start.
    pub fn reader(mut self, reader: impl MetricReader) -> Self {
        self.readers.add(reader);
        self
    }

    /// Starts it all. What cannot be done as asked is one `error` line each, and the rest is done. When nothing is left to
    /// tell, the recorder takes nothing down.
    pub fn start(self) -> (Recorder, Telemetry) {
        let Self { identity, settings, health, readers } = self;
        settings.problems().for_each(|problem| error!("{problem}"));
        let resource = resource(&identity, &settings.resource);
        let closing = Closing::default();
        let spans = settings.spans.and_then(|spans| SpanExport::start(&spans, &identity, &resource, &closing));
        let metrics = MetricExport::start(readers, settings.metrics, &identity, &resource, &closing);

        let is_told = metrics.endpoint.is_some() || health.is_some();
        let status = is_told.then(|| Arc::new(Status::new(identity)));
        let recorder = Recorder {
            oldest: (!metrics.instruments.is_empty()).then_some(metrics.oldest),
            instruments: (!metrics.instruments.is_empty()).then(|| metrics.instruments.into()),
            status: status.clone(),
            traces: spans.as_ref().map(SpanExport::traces),
        };
        // Only now, so that the first scrape finds every series.
        let serve = |status: Arc<Status>, (listeners, scraper)| serve_all(listeners, scraper, status);
        let server =
            status.clone().zip(metrics.endpoint).and_then(|(status, endpoint)| logged(serve(status, endpoint)));
        let health = status.zip(health).and_then(|(status, (host, port))| logged(serve_health(&host, port, status)));
        let servers = [server, health].into_iter().flatten().collect();
        (recorder, Telemetry { providers: metrics.providers, spans, servers, closing })
    }
}

fn serve_all(listeners: Vec<TcpListener>, scraper: Scraper, status: Arc<Status>) -> Result<HttpServer, StartProblem> {
    let address = listen::shown(&listeners);
    let endpoint = Endpoint { scraper, status };
    let server = HttpServer::start(listeners, move |request| endpoint.answer(request))
        .map_err(|source| StartProblem::Endpoint { source })?;
    info!(%address, "metrics endpoint listening");
    Ok(server)
}

fn serve_health(host: &str, port: u16, status: Arc<Status>) -> Result<HttpServer, StartProblem> {
    let listeners = listen::listen(host, port).map_err(|source| StartProblem::ListenForHealth {
        host: host.to_owned(),
        port,
        source,
    })?;
    let address = listen::shown(&listeners);
    let server = HttpServer::start(listeners, move |request| endpoint::health(&status, request))
        .map_err(|source| StartProblem::Health { source })?;
    info!(%address, "health endpoint listening");
    Ok(server)
}

fn logged<T>(started: Result<T, StartProblem>) -> Option<T> {
    started.map_err(|problem| error!("{problem}")).ok()
}
