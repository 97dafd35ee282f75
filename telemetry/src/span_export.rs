//! What exports the spans: an SDK provider with one thread per exporter.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SdkTracerProvider, SpanExporter, TracerProviderBuilder};
use tracing::error;

use crate::console::SpanConsole;
use crate::identity::Identity;
use crate::last_export::LastExport;
use crate::otlp::{self, Closing};
use crate::settings::SpanSettings;
use crate::traces::Traces;

#[derive(Debug)]
pub(crate) struct SpanExport {
    traces: Arc<Traces>,
    provider: SdkTracerProvider,
}

impl SpanExport {
    /// Starts what is asked for. `closing` tells the exporters that the worker leaves. `None` when nothing is left to export
    /// to, which is in the log.
    pub(crate) fn start(
        settings: &SpanSettings,
        identity: &Identity,
        resource: &Resource,
        closing: &Closing,
    ) -> Option<Self> {
        let push = settings.otlp.as_ref().map(|otlp| otlp::spans(otlp, closing)).transpose();
        let push = push.unwrap_or_else(|problem| {
            error!("{problem}");
            None
        });
        if push.is_none() && !settings.console {
            return None;
        }
        let sampler = settings.sampler.clone();
        let mut provider = SdkTracerProvider::builder().with_resource(resource.clone()).with_sampler(sampler);
        if settings.console {
            provider = add(provider, SpanConsole::default(), settings);
        }
        if let Some(push) = push {
            provider = add(provider, push, settings);
        }
        let provider = provider.build();
        let traces = Arc::new(Traces::new(&provider, identity, settings.longest_text));
        Some(Self { traces, provider })
    }

    pub(crate) fn traces(&self) -> Arc<Traces> {
        Arc::clone(&self.traces)
    }

    /// Ends every span and exports what is left of them.
    pub(crate) fn shut_down(self, timeout: Duration) -> LastExport {
        self.traces.end_all();
        LastExport::begin("spans", self.provider, move |provider| drop(provider.shutdown_with_timeout(timeout)))
    }
}

fn add<E: SpanExporter + 'static>(
    provider: TracerProviderBuilder,
    exporter: E,
    settings: &SpanSettings,
) -> TracerProviderBuilder {
    let batches = BatchSpanProcessor::builder(exporter).with_batch_config(settings.batches.config()).build();
    provider.with_span_processor(batches)
}
