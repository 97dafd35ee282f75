//! The server that a test scripts: accepts the worker's dials over real TCP, one by one, as the test asks for them.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tungstenite::handshake::derive_accept_key;

use crate::{
    BOUND,
    connection::{Connection, Stream},
};

/// Path of the worker's endpoint, as in the default of `--web-socket-url`.
pub const PATH: &str = "/api/v1/selfhosted/worker/ws";

/// Longest HTTP head that is still one.
const MAX_HEAD: usize = 64 << 10;

/// Listens on an ephemeral port of the loopback interface.
pub struct Server {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
}

impl Server {
    /// A `ws://` server.
    pub fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").expect("a free port on 127.0.0.1"), tls: None }
    }

    /// A `wss://` server with this certificate.
    pub fn start_tls(config: Arc<ServerConfig>) -> Self {
        Self::start().with_tls(config)
    }

    /// The same with TLS and this certificate.
    #[must_use]
    pub fn with_tls(self, config: Arc<ServerConfig>) -> Self {
        Self { tls: Some(config), ..self }
    }

    /// A server on a given address.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn listen(address: &str) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address)?, tls: None })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("a listener has an address")
    }

    /// The value for `--web-socket-url`. `wss` names `localhost`, so that certificates have a host name to match.
    pub fn url(&self) -> String {
        match self.tls {
            None => format!("ws://{}{PATH}", self.address()),
            Some(_) => format!("wss://localhost:{}{PATH}", self.address().port()),
        }
    }

    /// The next dial, upgraded to an established session.
    pub fn accept(&self) -> Connection {
        self.request().upgrade()
    }

    /// The next dial up to its HTTP request, which the test answers.
    pub fn request(&self) -> Request {
        self.try_request(BOUND).unwrap_or_else(|error| panic!("no request came: {error}"))
    }

    /// Like [`Server::request`], for dials that may fail before a request is read (a TLS handshake that the worker
    /// breaks off) or not come at all.
    ///
    /// # Errors
    /// What the socket or TLS said; `TimedOut` when nobody dialled within `bound`.
    pub fn try_request(&self, bound: Duration) -> io::Result<Request> {
        let tcp = self.accept_tcp(bound)?;
        match &self.tls {
            None => Self::head(tcp),
            Some(config) => {
                prepare(&tcp)?;
                let session = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
                Request::read(Stream::Tls(Box::new(StreamOwned::new(session, tcp))))
            }
        }
    }

    /// The request of a plain dial that was accepted.
    ///
    /// # Errors
    /// What the socket said, or `InvalidData` for something that is no HTTP request.
    pub fn head(tcp: TcpStream) -> io::Result<Request> {
        prepare(&tcp)?;
        Request::read(Stream::Plain(tcp))
    }

    /// The next dial before anything was read from it: for handshakes that never go on.
    ///
    /// # Errors
    /// What the socket said; `TimedOut` when nobody dialled within `bound`.
    pub fn accept_tcp(&self, bound: Duration) -> io::Result<TcpStream> {
        let timeout = Timespec::try_from(bound).map_err(io::Error::other)?;
        let mut ready = [PollFd::new(&self.listener, PollFlags::IN)];
        if poll(&mut ready, Some(&timeout))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(self.listener.accept()?.0)
    }
}

fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(BOUND))?;
    tcp.set_write_timeout(Some(BOUND))
}

/// A dial that waits for its answer.
pub struct Request {
    stream: Stream,
    after_head: Vec<u8>,
    pub method: String,
    /// Path and query as they came.
    pub target: String,
    /// Header names in lower case, values as they came.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// Reads an HTTP request's head.
    ///
    /// # Errors
    /// What the socket said, or `InvalidData` for something that is no HTTP request.
    pub(crate) fn read(mut stream: Stream) -> io::Result<Self> {
        let deadline = Instant::now() + BOUND;
        let mut head = Vec::new();
        let end = loop {
            if let Some(at) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if head.len() > MAX_HEAD || Instant::now() > deadline {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => head.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            }
        };
        let after_head = head.split_off(end);

        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        request.parse(&head).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Self {
            after_head,
            method: request.method.unwrap_or_default().to_owned(),
            target: request.path.unwrap_or_default().to_owned(),
            headers: request
                .headers
                .iter()
                .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned()))
                .collect(),
            stream,
        })
    }

    /// Value of a header, its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// The path without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The query's parameters in order, as they came (still percent-encoded).
    pub fn query(&self) -> Vec<(&str, &str)> {
        let (_, query) = self.target.split_once('?').unwrap_or_default();
        query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .collect()
    }

    /// Where the dial came from.
    pub fn peer(&self) -> String {
        self.stream.tcp().and_then(TcpStream::peer_addr).map_or_else(|_| "nowhere".to_owned(), |peer| peer.to_string())
    }

    /// What keeps this request from being a worker's dial as `docs/protocol.md` describes it, if anything.
    pub fn problem(&self) -> Option<String> {
        let says = |header, token: &str| {
            self.header(header)
                .is_some_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
        };
        let workers = self.query().iter().filter(|(name, _)| *name == "worker_id").count();
        if self.method != "GET" {
            Some(format!("the method is {}, not GET", self.method))
        } else if !says("upgrade", "websocket") || !says("connection", "upgrade") {
            Some("it is no WebSocket upgrade".to_owned())
        } else if self.header("sec-websocket-version") != Some("13") || self.header("sec-websocket-key").is_none() {
            Some("it lacks a WebSocket key of version 13".to_owned())
        } else if workers != 1 {
            Some(format!("it has {workers} query parameters worker_id instead of one"))
        } else if !self.header("authorization").is_some_and(|value| value.starts_with("Bearer ")) {
            Some("it has no header Authorization: Bearer".to_owned())
        } else {
            None
        }
    }

    /// Answers 101. Panics unless the request is a worker's proper dial.
    pub fn upgrade(self) -> Connection {
        if let Some(problem) = self.problem() {
            panic!("not a worker's dial: {problem}: {} {} {:?}", self.method, self.target, self.headers);
        }
        self.try_upgrade().unwrap_or_else(|error| panic!("could not answer the upgrade: {error}"))
    }

    /// Answers 101.
    ///
    /// # Errors
    /// When the worker is gone already.
    pub fn try_upgrade(mut self) -> io::Result<Connection> {
        let accept = derive_accept_key(self.header("sec-websocket-key").unwrap_or_default().as_bytes());
        write!(
            self.stream,
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )?;
        self.stream.flush()?;
        Ok(Connection::new(self.stream, self.after_head))
    }

    /// Answers with another status and closes. `head` is `"401 Unauthorized"`, with more header lines if wanted.
    pub fn refuse(mut self, head: &str, body: &str) {
        let length = body.len();
        let answer = format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        // The worker may have heard enough before the last byte.
        let _ = self.stream.write_all(answer.as_bytes()).and_then(|()| self.stream.flush());
    }

    /// Answers with a body that never ends, until the worker hangs up.
    pub fn refuse_without_end(mut self, head: &str) {
        let _ = write!(self.stream, "HTTP/1.1 {head}\r\n\r\n");
        while self.stream.write_all(&[b'x'; 4096]).is_ok() {}
    }

    /// The socket below, unanswered.
    pub fn into_stream(self) -> Stream {
        self.stream
    }
}
