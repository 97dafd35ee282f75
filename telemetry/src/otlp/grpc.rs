//! OTLP over gRPC: one unary call over HTTP/2 (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
//!
//! A connection, and the runtime that drives it, live for one call. Nothing has to be kept alive between two exports,
//! noticed to be dead or spread over the collectors behind a name, and nothing of it stays in memory.

mod status;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{RecvStream, client};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use ureq::http::uri::Scheme;
use ureq::http::{HeaderMap, HeaderValue, Request, StatusCode, header};

use crate::otlp::answer::{MAX_ANSWER, PartialSuccess};
use crate::otlp::body::{self, Encoding};
use crate::otlp::failure::ExportFailure;
use crate::otlp::{USER_AGENT, tls};
use crate::settings::Otlp;
use crate::signal::OtelSignal;

/// Flag and length before a message.
const PREFIX: usize = 5;

/// How long the collector may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// Sends one request.
type CallSender = client::SendRequest<Bytes>;

/// One collector.
pub(super) struct Grpc {
    /// Without brackets, if it is an address.
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
    /// The method's, without credentials.
    url: String,
    headers: HeaderMap,
}

impl Grpc {
    /// # Errors
    /// The certificates cannot be used.
    pub(super) fn new(otlp: &Otlp) -> Result<Self, rustls::Error> {
        let secure = otlp.endpoint.scheme() == Some(&Scheme::HTTPS);
        let bracketed = otlp.endpoint.host().unwrap_or_default();
        let host = bracketed.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = otlp.endpoint.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let service = match otlp.signal {
            OtelSignal::Metrics => "metrics.v1.MetricsService",
            OtelSignal::Traces => "trace.v1.TraceService",
        };
        let scheme = if secure { "https" } else { "http" };
        let url = format!("{scheme}://{bracketed}:{port}/opentelemetry.proto.collector.{service}/Export");
        let tls = if secure { Some(Arc::new(tls::for_http2(&otlp.tls)?).into()) } else { None };
        Ok(Self { host, port, tls, url, headers: otlp.headers.0.clone() })
    }

    /// Sends `body` and reads the answer, within `time`.
    ///
    /// # Errors
    /// No connection, no answer, or an answer that says no.
    pub(super) fn post(
        &self,
        encoding: Encoding,
        body: Bytes,
        time: Duration,
    ) -> Result<PartialSuccess, ExportFailure> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().max_blocking_threads(1).build()?;
        let answer = runtime.block_on(async { timeout(time, self.call(encoding, body)).await });
        // A name that is still being looked up cannot be called off; its thread ends by itself.
        runtime.shutdown_background();
        answer.unwrap_or(Err(ExportFailure::Timeout))
    }

    async fn call(&self, encoding: Encoding, body: Bytes) -> Result<PartialSuccess, ExportFailure> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let Some(tls) = &self.tls else { return self.exchange(stream, encoding, body).await };
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        self.exchange(tls.connect(name, stream).await?, encoding, body).await
    }

    async fn exchange<S>(&self, stream: S, encoding: Encoding, body: Bytes) -> Result<PartialSuccess, ExportFailure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = client::handshake(stream).await?;
        let driver = tokio::spawn(connection);
        let answer = self.ask(sender, encoding, body).await;
        match (answer, timeout(GOODBYE, driver).await) {
            // Why the connection ended is known to it only: to the call it is a broken pipe, whatever the collector said.
            (Err(ExportFailure::Connection(_)), Ok(Ok(Err(error)))) => Err(error.into()),
            (answer, _) => answer,
        }
    }

    async fn ask(&self, sender: CallSender, encoding: Encoding, body: Bytes) -> Result<PartialSuccess, ExportFailure> {
        let (answer, mut request) = sender.ready().await?.send_request(self.request(encoding)?, false)?;
        request.send_data(body, true)?;
        read(answer).await
    }

    fn request(&self, encoding: Encoding) -> Result<Request<()>, ExportFailure> {
        let request = Request::post(&self.url).body(());
        let mut request = request.map_err(|_| ExportFailure::Connection("the URL cannot be used".to_owned()))?;
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        headers.extend(self.headers.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(encoding.content_type()));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if let Some(packed) = encoding.content_encoding() {
            headers.insert("grpc-encoding", HeaderValue::from_static(packed));
        }
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
        let text = format!("HTTP/2: {error}");
        match error.into_io().map(Self::from) {
            Some(Self::Tls(cause)) => Self::Tls(cause),
            _ => Self::Connection(text),
        }
    }
}
