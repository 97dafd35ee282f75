//! What exports the metrics: instruments, and the SDK's readers behind them, one per exporter.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{Instrument, MeterProviderBuilder, PeriodicReader, SdkMeterProvider};
use tracing::error;

use crate::console::MetricConsole;
use crate::identity::Identity;
use crate::instruments::{self, Buckets, Instruments};
use crate::listen;
use crate::oldest::Oldest;
use crate::otlp::{self, Closing};
use crate::problem::StartProblem;
use crate::scrape::Scraper;
use crate::settings::{MetricSettings, ScrapeAddress};

/// Metrics that are counted and exported, by all but the endpoint, which has yet to be served.
#[derive(Debug, Default)]
pub(crate) struct MetricExport {
    /// One set, or two when the collector's histogram is not everybody's.
    pub(crate) instruments: Vec<Instruments>,
    pub(crate) oldest: Arc<Oldest>,
    pub(crate) providers: Vec<SdkMeterProvider>,
    pub(crate) endpoint: Option<(Vec<TcpListener>, Scraper)>,
}

impl MetricExport {
    /// Starts what is asked for, beside the `readers` that are there already.
    pub(crate) fn start(
        mut readers: Readers,
        settings: MetricSettings,
        identity: &Identity,
        resource: &Resource,
        closing: &Closing,
    ) -> Self {
        // A view is for every reader of a provider, and buckets are for the collector only.
        let mut apart = (settings.buckets != Buckets::default()).then(Readers::default);
        let endpoint = settings.prometheus.and_then(|prometheus| readers.serve(prometheus));
        // Before OTLP: readers shut down in this order, and a collector that hangs must not cost the console its last export.
        if settings.console {
            readers.push(MetricConsole::default(), settings.interval);
        }
        if let Some(otlp) = &settings.otlp {
            match otlp::metrics(otlp, settings.temporality, closing) {
                Ok(push) => apart.as_mut().unwrap_or(&mut readers).push(push, settings.interval),
                Err(problem) => error!("{problem}"),
            }
        }
        let sets = [(readers, Buckets::default())].into_iter().chain(apart.map(|apart| (apart, settings.buckets)));
        let oldest = Arc::default();
        let (instruments, providers) =
            sets.filter_map(|(readers, buckets)| readers.instruments(buckets, identity, &oldest, resource)).unzip();
        Self { instruments, oldest, providers, endpoint }
    }
}

/// The SDK's readers of one provider as they are added.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    provider: MeterProviderBuilder,
    count: usize,
}

impl Readers {
    pub(crate) fn add(&mut self, reader: impl MetricReader) {
        self.provider = std::mem::take(&mut self.provider).with_reader(reader);
        self.count += 1;
    }

    fn push(&mut self, exporter: impl PushMetricExporter, interval: Duration) {
        self.add(PeriodicReader::builder(exporter).with_interval(interval).build());
    }

    /// Takes the port and adds the reader behind it.
    fn serve(&mut self, ScrapeAddress { host, port }: ScrapeAddress) -> Option<(Vec<TcpListener>, Scraper)> {
        let listeners = listen::listen(&host, port)
            .map_err(|source| error!("{}", StartProblem::Listen { host, port, source }))
            .ok()?;
        let scraper = Scraper::default();
        self.add(scraper.clone());
        Some((listeners, scraper))
    }

    /// Instruments for these readers, if there are any.
    fn instruments(
        self,
        buckets: Buckets,
        identity: &Identity,
        oldest: &Arc<Oldest>,
        resource: &Resource,
    ) -> Option<(Instruments, SdkMeterProvider)> {
        if self.count == 0 {
            return None;
        }
        let view = move |instrument: &Instrument| instruments::view(instrument, buckets);
        let provider = self.provider.with_resource(resource.clone()).with_view(view).build();
        Some((Instruments::new(&provider.meter("oz-agent-worker"), identity, oldest), provider))
    }
}
