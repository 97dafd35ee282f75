//! OTLP over gRPC: one unary call over HTTP/2 (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

mod status;

use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, client};
use http::{HeaderValue, Request, StatusCode, header};
use oz_worker_net::tls::TlsFault;
use oz_worker_net::url::UrlError;
use tokio::time::timeout;
use tokio_util::compat::FuturesAsyncReadCompatExt;

use crate::otlp::answer::{MAX_ANSWER, PartialSuccess};
use crate::otlp::body::{self, Encoding};
use crate::otlp::failure::ExportFailure;
use crate::otlp::route::{Connection, Route};
use crate::otlp::runtime::ExportRuntime;
use crate::settings::Otlp;
use crate::signal::OtelSignal;

/// Flag and length before a message.
const PREFIX: usize = 5;

/// How long the collector may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

type CallSender = client::SendRequest<Bytes>;

pub(super) struct Grpc {
    route: Route,
    /// The method's, without credentials.
    url: String,
}

impl Grpc {
    /// # Errors
    /// The endpoint's path cannot be put before the method's; cannot happen, since both have been read.
    pub(super) fn new(otlp: &Otlp, encoding: Encoding) -> Result<Self, UrlError> {
        let mut route = Route::new(otlp, encoding);
        route.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if let Some(packed) = encoding.content_encoding() {
            route.headers.insert("grpc-encoding", HeaderValue::from_static(packed));
        }
        let method = match otlp.signal {
            OtelSignal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            OtelSignal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        };
        let url = otlp.endpoint.clone().below(method)?;
        let url = format!("{}://{}{}", url.scheme(), url.host_header(), url.path_and_query());
        Ok(Self { route, url })
    }

    /// Sends `body` and reads the answer, within `time`.
    ///
    /// # Errors
    /// No connection, no answer, or an answer that says no.
    pub(super) fn post(&self, body: Bytes, time: Duration) -> Result<PartialSuccess, ExportFailure> {
        ExportRuntime::run(time, async {
            let (stream, said) = self.route.connect().await?;
            let answer = self.exchange(stream, body).await;
            answer.map_err(|failure| said.take().map_or(failure, ExportFailure::Tls))
        })
    }

    async fn exchange(&self, stream: Connection, body: Bytes) -> Result<PartialSuccess, ExportFailure> {
        let (sender, connection) = client::handshake(stream.compat()).await?;
        let driver = tokio::spawn(connection);
        let answer = self.ask(sender, body).await;
        match (answer, timeout(GOODBYE, driver).await) {
            // Why the connection ended is known to it only: to the call it is a broken pipe, whatever the collector said.
            (
                Err(ExportFailure::Http2(_) | ExportFailure::Http2Io(_) | ExportFailure::NotHttp2),
                Ok(Ok(Err(error))),
            ) => Err(error.into()),
            (answer, _) => answer,
        }
    }

    async fn ask(&self, sender: CallSender, body: Bytes) -> Result<PartialSuccess, ExportFailure> {
        let (answer, mut request) = sender.ready().await?.send_request(self.request()?, false)?;
        request.send_data(body, true)?;
        read(answer).await
    }

    fn request(&self) -> Result<Request<()>, ExportFailure> {
        let request = Request::post(&self.url).body(());
        let mut request = request.map_err(|_| ExportFailure::Encode)?;
        request.headers_mut().clone_from(&self.route.headers);
        Ok(request)
    }
}

async fn read(answer: ResponseFuture) -> Result<PartialSuccess, ExportFailure> {
    let (head, mut stream) = answer.await?.into_parts();
    if head.status != StatusCode::OK {
        return Err(ExportFailure::http(head.status, &head.headers));
    }
    // A call that fails at once has its status in the head.
    if let Some(status) = status::of(&head.headers) {
        status?;
    }
    let message = read_message(&mut stream).await?;
    let trailers = stream.trailers().await?.unwrap_or_default();
    status::of(&trailers).unwrap_or(Err(ExportFailure::Nonsense("an answer without a gRPC status")))?;
    let packed = message.first() == Some(&1);
    let message = message.get(PREFIX..).unwrap_or_default();
    if packed {
        // Nobody asked for it, but the Collector answers in the way that it was asked.
        let encoding = head.headers.get("grpc-encoding").and_then(|encoding| encoding.to_str().ok());
        let message = body::unpack(encoding.unwrap_or_default(), message);
        return PartialSuccess::from_protobuf(
            &message.ok_or(ExportFailure::Nonsense("an answer in an unknown encoding"))?,
        );
    }
    PartialSuccess::from_protobuf(message)
}

/// The message with its prefix.
async fn read_message(body: &mut RecvStream) -> Result<Vec<u8>, ExportFailure> {
    let mut message = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        message.extend_from_slice(&chunk);
        if message.len() > MAX_ANSWER {
            return Err(ExportFailure::Nonsense("an answer that is far too long"));
        }
    }
    Ok(message)
}

impl From<h2::Error> for ExportFailure {
    fn from(error: h2::Error) -> Self {
        // Its own words may repeat what the other side wrote.
        let reason = error.reason();
        // Found here and not told by the other side: what came makes no frames.
        let is_other = !error.is_remote() && matches!(reason, Some(Reason::FRAME_SIZE_ERROR | Reason::PROTOCOL_ERROR));
        match error.into_io().as_ref().map(TlsFault::from) {
            Some(TlsFault::Io(error)) => Self::Http2Io(error),
            Some(fault) => Self::Tls(fault),
            None if is_other => Self::NotHttp2,
            None => Self::Http2(reason.unwrap_or(Reason::PROTOCOL_ERROR)),
        }
    }
}
