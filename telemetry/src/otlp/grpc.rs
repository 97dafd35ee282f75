//! OTLP over gRPC: one unary call over HTTP/2 (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
//!
//! A connection, and the runtime that drives it, live for one call. Nothing has to be kept alive between two exports,
//! noticed to be dead or spread over the collectors behind a name, and nothing of it stays in memory.

mod status;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, client};
use oz_worker_net::tls::{Tls, TlsFault, server_name};
use oz_worker_net::url::{Url, UrlHost};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Builder;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use ureq::http::{HeaderMap, HeaderValue, Request, StatusCode, header};

use crate::otlp::answer::{MAX_ANSWER, PartialSuccess};
use crate::otlp::body::{self, Encoding};
use crate::otlp::failure::{ConnectionFault, ExportFailure};
use crate::otlp::headers::headers;
use crate::otlp::tcp::connect;
use crate::settings::Otlp;
use crate::signal::OtelSignal;

/// Flag and length before a message.
const PREFIX: usize = 5;

/// How long the collector may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

type CallSender = client::SendRequest<Bytes>;

pub(super) struct Grpc {
    endpoint: Url,
    tls: Arc<Tls>,
    /// The method's, without credentials.
    url: String,
    headers: HeaderMap,
}

impl Grpc {
    pub(super) fn new(otlp: &Otlp, encoding: Encoding) -> Self {
        let endpoint = otlp.endpoint.clone();
        let service = match otlp.signal {
            OtelSignal::Metrics => "metrics.v1.MetricsService",
            OtelSignal::Traces => "trace.v1.TraceService",
        };
        let (scheme, host) = (endpoint.scheme(), endpoint.host_header());
        let url = format!("{scheme}://{host}/opentelemetry.proto.collector.{service}/Export");
        let mut headers = headers(&endpoint, &otlp.headers, encoding);
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if let Some(packed) = encoding.content_encoding() {
            headers.insert("grpc-encoding", HeaderValue::from_static(packed));
        }
        Self { endpoint, tls: Arc::clone(&otlp.tls), url, headers }
    }

    /// Sends `body` and reads the answer, within `time`.
    ///
    /// # Errors
    /// No connection, no answer, or an answer that says no.
    pub(super) fn post(&self, body: Bytes, time: Duration) -> Result<PartialSuccess, ExportFailure> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().max_blocking_threads(1).build()?;
        let answer = runtime.block_on(async { timeout(time, self.call(body)).await });
        // A name that is still being looked up cannot be called off; its thread ends by itself.
        runtime.shutdown_background();
        answer.unwrap_or(Err(ExportFailure::Timeout))
    }

    async fn call(&self, body: Bytes) -> Result<PartialSuccess, ExportFailure> {
        let port = self.endpoint.port();
        let addresses = match self.endpoint.host() {
            UrlHost::Name(name) => tokio::net::lookup_host((name.as_str(), port)).await?.collect(),
            UrlHost::Address(address) => vec![(*address, port).into()],
        };
        let stream = connect(addresses).await?;
        if !self.endpoint.is_secure() {
            return self.exchange(stream, body).await;
        }
        let mut tls = self.tls.client_config()?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let name = server_name(self.endpoint.host()).ok_or(ConnectionFault::NoAddress)?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
        self.exchange(stream, body).await
    }

    async fn exchange<S>(&self, stream: S, body: Bytes) -> Result<PartialSuccess, ExportFailure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = client::handshake(stream).await?;
        let driver = tokio::spawn(connection);
        let answer = self.ask(sender, body).await;
        match (answer, timeout(GOODBYE, driver).await) {
            // Why the connection ended is known to it only: to the call it is a broken pipe, whatever the collector said.
            (Err(ExportFailure::Connection(_)), Ok(Ok(Err(error)))) => Err(error.into()),
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
        let mut request = request.map_err(|_| ConnectionFault::Url)?;
        request.headers_mut().clone_from(&self.headers);
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
            Some(TlsFault::Io(error)) => ConnectionFault::Http2Io(error).into(),
            Some(fault) => Self::Tls(fault),
            None if is_other => ConnectionFault::NotHttp2.into(),
            None => ConnectionFault::Http2(reason.unwrap_or(Reason::PROTOCOL_ERROR)).into(),
        }
    }
}
