//! A collector in this process, over HTTP/1.1 and over gRPC. It answers as it was told, and hands over what it was sent.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::future::poll_fn;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceResponse};
use prost::Message;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use super::PATIENCE;

pub struct Collector {
    pub url: String,
    pub answers: Answers,
    pub received: Receiver<Post>,
}

/// What the collector answers to the next requests; success, once there is nothing more.
#[derive(Clone, Default)]
pub struct Answers(Arc<Mutex<VecDeque<Answer>>>);

/// One answer: over HTTP a status and headers, over gRPC a status and trailers.
#[derive(Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

/// One request. gRPC's prefix is taken off the body.
pub struct Post {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// A success of all but `rejected` data points.
    pub fn partial(status: u16, rejected: i64, message: &str) -> Self {
        let partial = ExportMetricsPartialSuccess { rejected_data_points: rejected, error_message: message.to_owned() };
        let body = ExportMetricsServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        Self { status, headers: vec![("content-type", "application/x-protobuf".to_owned())], body }
    }
}

impl Answers {
    pub fn push(&self, answers: &[Answer]) {
        self.0.lock().unwrap().extend(answers.iter().cloned());
    }

    pub fn left(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn next(&self) -> Option<Answer> {
        self.0.lock().unwrap().pop_front()
    }
}

impl Collector {
    pub fn http(answers: &[Answer]) -> Self {
        Self::start(answers, None, serve_http)
    }

    /// The same on `https://localhost`.
    pub fn https(tls: ServerConfig) -> Self {
        Self::start(&[], Some(tls), serve_http)
    }

    pub fn grpc(answers: &[Answer]) -> Self {
        Self::start(answers, None, serve_grpc)
    }

    /// The same on `https://localhost`.
    pub fn grpc_tls(mut tls: ServerConfig) -> Self {
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Self::start(&[], Some(tls), serve_grpc)
    }

    fn start(answers: &[Answer], tls: Option<ServerConfig>, serve: fn(TcpListener, &Tls, &Peer)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let url = tls.as_ref().map_or(format!("http://{address}"), |_| format!("https://localhost:{}", address.port()));
        let (sender, received) = mpsc::channel();
        let script = Answers::default();
        script.push(answers);
        let peer = Peer { answers: script.clone(), sender };
        thread::spawn(move || serve(listener, &tls.map(Arc::new), &peer));
        Self { url, answers: script, received }
    }

    pub fn next(&self) -> Post {
        self.received.recv_timeout(PATIENCE).unwrap()
    }
}

type Tls = Option<Arc<ServerConfig>>;

/// What every connection of a collector shares.
#[derive(Clone)]
struct Peer {
    answers: Answers,
    sender: Sender<Post>,
}

#[allow(clippy::needless_pass_by_value, reason = "it closes when its thread ends")]
fn serve_http(listener: TcpListener, tls: &Tls, peer: &Peer) {
    while let Ok((stream, _)) = listener.accept() {
        let (tls, peer) = (tls.clone(), peer.clone());
        thread::spawn(move || match tls {
            None => converse(stream, &peer),
            Some(tls) => converse(StreamOwned::new(ServerConnection::new(tls).unwrap(), stream), &peer),
        });
    }
}

/// Request after request, until the client goes or says something else than HTTP.
fn converse(stream: impl Read + Write, peer: &Peer) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let path = line.split(' ').nth(1)?.to_owned();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
        stream.read_exact(&mut body).ok()?;

        let Answer { status, headers: extra, body: answer } = peer.answers.next().unwrap_or(Answer::status(200));
        peer.sender.send(Post { path, headers, body }).ok()?;
        let mut head = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n", answer.len());
        for (name, value) in extra {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let bytes = [head.as_bytes(), b"\r\n", &answer].concat();
        stream.get_mut().write_all(&bytes).ok()?;
        stream.get_mut().flush().ok()?;
    }
}

fn serve_grpc(listener: TcpListener, tls: &Tls, peer: &Peer) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, peer) = (tls.clone().map(TlsAcceptor::from), peer.clone());
            tokio::spawn(async move {
                match tls {
                    None => converse_http2(stream, &peer).await,
                    Some(tls) => converse_http2(tls.accept(stream).await.ok()?, &peer).await,
                }
            });
        }
    });
}

async fn converse_http2(stream: impl AsyncRead + AsyncWrite + Unpin, peer: &Peer) -> Option<()> {
    let mut connection = h2::server::handshake(stream).await.ok()?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call.ok()?;
        let peer = peer.clone();
        // The connection has to be driven meanwhile.
        tokio::spawn(async move { answer_call(request, respond, &peer).await });
    }
    poll_fn(|cx| connection.poll_closed(cx)).await.ok()
}

async fn answer_call(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    peer: &Peer,
) -> Result<(), h2::Error> {
    let (head, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        body.extend_from_slice(&chunk);
    }
    let length = u32::from_be_bytes(body[1..5].try_into().unwrap());
    assert_eq!(length as usize, body.len() - 5);
    assert_eq!(body[0] == 1, head.headers.contains_key("grpc-encoding"));
    let headers = head.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    let path = head.uri.path_and_query().unwrap().to_string();
    let post = Post { path, headers: headers.collect(), body: body.split_off(5) };

    let Answer { status, headers, body } = peer.answers.next().unwrap_or_default();
    let _ = peer.sender.send(post);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.into());
    for (name, value) in headers {
        trailers.insert(name, value.parse().unwrap());
    }
    let mut answer = Response::new(());
    let packed = trailers.remove("grpc-encoding");
    let flag = u8::from(packed.is_some());
    if let Some(encoding) = packed {
        answer.headers_mut().insert("grpc-encoding", encoding);
    }
    if status != 0 {
        // As most servers do: everything in the head.
        *answer.headers_mut() = trailers;
        respond.send_response(answer, true)?;
        return Ok(());
    }
    let mut out = respond.send_response(answer, false)?;
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    out.send_data([&[flag], &length[..], &body].concat().into(), false)?;
    out.send_trailers(trailers)
}

/// An address where nobody listens. `host` is one of 127.0.0.0/8 that no other test uses: a port that is free again may
/// be somebody else's next.
pub fn nowhere(host: &str) -> SocketAddr {
    silent(host).local_addr().unwrap()
}

/// Takes connections, and never says a word. `host` as above.
pub fn silent(host: &str) -> TcpListener {
    TcpListener::bind((host, 0)).unwrap()
}
