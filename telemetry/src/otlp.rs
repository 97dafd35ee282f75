//! The `otlp` exporter: pushes metrics and spans to a collector, and says once when it cannot and once when it can again.
//!
//! Everything here runs on the SDK's export thread of the signal, where blocking is right.

mod answer;
mod body;
mod closing;
mod failure;
mod grpc;
mod health;
mod http;
mod retry;
mod tls;

use std::fmt;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

use crate::otlp::answer::PartialSuccess;
use crate::otlp::body::{Encoding, Message};
use crate::otlp::failure::Failure;
use crate::otlp::grpc::Grpc;
use crate::otlp::health::Health;
use crate::otlp::http::Http;
use crate::problem::Problem;
use crate::settings::{Otlp, Protocol};

pub(crate) use crate::otlp::closing::Closing;

/// What the worker calls itself, as the specification asks ("OTLP exporter", user agent).
const USER_AGENT: &str = concat!("oz-agent-worker/", env!("CARGO_PKG_VERSION"));

/// Pushes one signal to one collector.
pub(crate) struct Push {
    encoding: Encoding,
    transport: Transport,
    /// Bound on one export, its retries included.
    timeout: Duration,
    temporality: Temporality,
    /// Who the spans are from. Metrics bring it along.
    resource: ResourceAttributesWithSchema,
    health: Health,
    closing: Closing,
}

enum Transport {
    Http(Http),
    Grpc(Grpc),
}

impl fmt::Debug for Push {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The rest holds headers, which are secrets.
        f.debug_struct("Push").field("health", &self.health).finish_non_exhaustive()
    }
}

impl Push {
    /// Pushes as `otlp` says, until `closing` is told that the worker leaves.
    ///
    /// # Errors
    /// The certificates cannot be used.
    pub(crate) fn new(otlp: &Otlp, closing: Closing) -> Result<Self, Problem> {
        let transport = match otlp.protocol {
            Protocol::HttpProtobuf | Protocol::HttpJson => Http::new(otlp).map(Transport::Http),
            Protocol::Grpc => Grpc::new(otlp).map(Transport::Grpc),
        };
        Ok(Self {
            encoding: Encoding::new(otlp.protocol, otlp.compression),
            transport: transport.map_err(|source| Problem::Tls { signal: otlp.signal, source })?,
            timeout: otlp.timeout,
            temporality: Temporality::Cumulative,
            resource: ResourceAttributesWithSchema::default(),
            health: Health::new(otlp.signal, &otlp.endpoint),
            closing,
        })
    }

    /// The same for metrics of this temporality.
    pub(crate) fn with_temporality(self, temporality: Temporality) -> Self {
        Self { temporality, ..self }
    }

    fn push(&self, message: &impl Message) {
        let outcome = self.try_push(message);
        self.health.note(outcome);
    }

    fn try_push(&self, message: &impl Message) -> Result<PartialSuccess, Failure> {
        let body = self.encoding.encode(message)?;
        // Who leaves does not wait for a collector that did not answer before.
        let last_chance = self.closing.is_closing() && self.health.is_down();
        retry::until_answered(self.timeout, &self.closing, last_chance, |time| match &self.transport {
            Transport::Http(http) => http.post(self.encoding, &body, time),
            Transport::Grpc(grpc) => grpc.post(self.encoding, body.clone(), time),
        })
    }
}

impl PushMetricExporter for Push {
    /// Never an error: the SDK has nothing to do about one, except to log every attempt.
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.push(&ExportMetricsServiceRequest::from(metrics));
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        self.temporality
    }
}

impl SpanExporter for Push {
    /// Never an error, for the same reason.
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        self.push(&ExportTraceServiceRequest { resource_spans });
        Ok(())
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}
