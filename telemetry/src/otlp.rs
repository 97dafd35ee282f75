//! The `otlp` exporter: pushes metrics and spans to a collector, and says once when it cannot and once when it can again.
//!
//! `opentelemetry-otlp` makes the requests; its HTTP client is ours, [`CollectorClient`], whatever the protocol: gRPC carries the
//! same protobuf. So packing, time, retries and what is said about a collector are in one place for all of them.
//! Everything here runs on the SDK's export thread of the signal, where blocking is right.

mod answer;
mod body;
mod closing;
mod failure;
mod grpc;
mod headers;
mod health;
mod http;
mod retry;
mod tcp;
mod tls;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::metrics::Temporality;

use crate::otlp::answer::PartialSuccess;
use crate::otlp::body::Encoding;
use crate::otlp::failure::ExportFailure;
use crate::otlp::grpc::Grpc;
use crate::otlp::health::Health;
use crate::otlp::http::Http;
use crate::problem::StartProblem;
use crate::settings::{Otlp, Protocol};

pub(crate) use crate::otlp::closing::Closing;

/// An exporter of metrics that pushes as `otlp` says, until `closing` is told that the worker leaves.
///
/// # Errors
/// It cannot be built.
pub(crate) fn metrics(
    otlp: &Otlp,
    temporality: Temporality,
    closing: &Closing,
) -> Result<MetricExporter, StartProblem> {
    let builder = MetricExporter::builder().with_http().with_temporality(temporality);
    built(otlp, through(builder, otlp, closing)?.build())
}

/// The same for spans.
///
/// # Errors
/// The same.
pub(crate) fn spans(otlp: &Otlp, closing: &Closing) -> Result<SpanExporter, StartProblem> {
    built(otlp, through(SpanExporter::builder().with_http(), otlp, closing)?.build())
}

/// Everything is given, so that nothing of the environment is read a second time; what the library adds to a request, the
/// collector's client replaces.
fn through<B: WithExportConfig + WithHttpConfig>(
    builder: B,
    otlp: &Otlp,
    closing: &Closing,
) -> Result<B, StartProblem> {
    let protocol = match otlp.protocol {
        Protocol::HttpProtobuf | Protocol::Grpc => opentelemetry_otlp::Protocol::HttpBinary,
        Protocol::HttpJson => opentelemetry_otlp::Protocol::HttpJson,
    };
    let collector = CollectorClient::new(otlp, closing.clone())?;
    let builder = builder.with_endpoint("http://collector").with_protocol(protocol).with_timeout(otlp.timeout);
    Ok(builder.with_http_client(collector))
}

fn built<E>(otlp: &Otlp, exporter: Result<E, ExporterBuildError>) -> Result<E, StartProblem> {
    // The only URL in what the library says is a constant, and nothing else can be wrong.
    exporter.map_err(|_| StartProblem::Exporter { signal: otlp.signal })
}

/// One collector, for one signal.
struct CollectorClient {
    encoding: Encoding,
    transport: OtlpTransport,
    /// Bound on one export, its retries included.
    timeout: Duration,
    health: Health,
    closing: Closing,
}

enum OtlpTransport {
    Http(Http),
    Grpc(Grpc),
}

impl fmt::Debug for CollectorClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The rest holds headers, which are secrets.
        f.debug_struct("CollectorClient").field("health", &self.health).finish_non_exhaustive()
    }
}

impl CollectorClient {
    fn new(otlp: &Otlp, closing: Closing) -> Result<Self, StartProblem> {
        let encoding = Encoding::new(otlp.protocol, otlp.compression);
        let transport = match otlp.protocol {
            Protocol::HttpProtobuf | Protocol::HttpJson => Http::new(otlp, encoding).map(OtlpTransport::Http),
            Protocol::Grpc => Ok(OtlpTransport::Grpc(Grpc::new(otlp, encoding))),
        };
        Ok(Self {
            encoding,
            transport: transport.map_err(|_| StartProblem::Exporter { signal: otlp.signal })?,
            timeout: otlp.timeout,
            health: Health::new(otlp.signal, &otlp.endpoint),
            closing,
        })
    }

    fn push(&self, message: &[u8]) -> Result<PartialSuccess, ExportFailure> {
        let body = self.encoding.encode(message)?;
        // Who leaves does not wait for a collector that did not answer before.
        let last_chance = self.closing.is_closing() && self.health.is_down();
        retry::until_answered(self.timeout, &self.closing, last_chance, |time| match &self.transport {
            OtlpTransport::Http(http) => http.post(&body, time),
            OtlpTransport::Grpc(grpc) => grpc.post(body.clone(), time),
        })
    }
}

#[async_trait]
impl HttpClient for CollectorClient {
    /// Never an error, and nothing to read: all there is to do about an answer is done, and the SDK would only log it.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.health.note(self.push(request.body()));
        Ok(Response::default())
    }
}
