//! One dial: name, TCP, proxy, TLS, WebSocket upgrade. Bounded in everything it reads; its time is bounded by the core.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_tungstenite::WebSocketStream;
use futures_io::{AsyncRead, AsyncWrite};
use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt};
use futures_rustls::client::TlsStream;
use futures_rustls::rustls::pki_types::ServerName;
use futures_rustls::rustls::{self, ClientConfig};
use futures_rustls::{TlsConnector, rustls::crypto};
use oz_worker_core::secret::Secret;
use rustls_platform_verifier::BuilderVerifierExt;
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::http::Uri;
use tungstenite::protocol::{Role, WebSocketConfig};

use super::http::{Head, HeadError, read_head};
use super::proxy::{self, Proxy, ProxyError};
use crate::runtime::Runtime;
use crate::settings::secret::{ApiKey, ApiKeyError};
use crate::text::printable;

/// The largest frame and message: `docs/protocol.md`.
pub(super) const LARGEST_FRAME: usize = 16 << 20;
/// How long one address of several may keep the others waiting.
const ADDRESS_LIMIT: Duration = Duration::from_secs(10);
/// How much of a refusal's body, or of where it points, is logged, and how long the body may take to come.
const SHOWN_BODY: usize = 512;
const BODY_LIMIT: Duration = Duration::from_secs(2);

/// Where the server is and how to sign in.
#[derive(Debug)]
pub struct Target {
    /// Whether TLS is spoken.
    secure: bool,
    host: String,
    port: u16,
    /// Path and query of the upgrade request.
    path: String,
    api_key: ApiKey,
    /// The proxy on the way. A variable that cannot be used fails every dial: without its proxy a dial could go where the
    /// operator does not want it.
    proxy: Result<Option<Proxy>, ProxyError>,
}

impl Target {
    /// The target of `url` (`ws://` or `wss://`), signed in with `api_key`, through the proxy that the variables of `env`
    /// name; `None` when it is not such a URL.
    pub fn new(url: &str, api_key: ApiKey, env: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let secure = uri.scheme_str()?.eq_ignore_ascii_case("wss");
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        let proxy = proxy::for_host(env, secure, &host, port);
        Some(Self { secure, host, port, path, api_key, proxy })
    }

    /// Host and port as they stand in a request.
    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is no usable API key.
    #[error("{0}")]
    ApiKey(#[from] ApiKeyError),
    /// A proxy variable cannot be used.
    #[error("{0}")]
    ProxyVariable(#[from] ProxyError),
    /// The name has no address.
    #[error("cannot resolve {host}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No address could be connected to.
    #[error("cannot connect to {host} ({address}): {source}")]
    Connect {
        /// The name.
        host: String,
        /// The address tried last.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The proxy did not open a way to the server.
    #[error("the proxy {proxy} refused to connect: HTTP {status}")]
    ProxyRefused {
        /// The proxy, without its user.
        proxy: String,
        /// Its status code.
        status: u16,
    },
    /// The proxy's answer could not be read.
    #[error("the proxy {proxy} did not answer as a proxy: {source}")]
    ProxyAnswer {
        /// The proxy, without its user.
        proxy: String,
        /// What is wrong with the answer.
        source: HeadError,
    },
    /// The operating system's trust store cannot be used.
    #[error("cannot load the operating system's certificates: {0}; is ca-certificates installed?")]
    TrustStore(rustls::Error),
    /// The host's name cannot stand in a certificate.
    #[error("{0} is not a name that a certificate can hold")]
    ServerName(String),
    /// The TLS handshake failed.
    #[error("TLS with {host} failed: {source}")]
    Tls {
        /// The host.
        host: String,
        /// What TLS said; names the flaw of a certificate.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to {host} broke: {source}")]
    Broken {
        /// The host.
        host: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The server's answer could not be read.
    #[error("{host} did not answer as a WebSocket server: {source}")]
    Answer {
        /// The host.
        host: String,
        /// What is wrong with the answer.
        source: HeadError,
    },
    /// The server refused the API key.
    #[error("the API key was refused (HTTP {status}): check --api-key, --api-key-file or WARP_API_KEY{body}")]
    KeyRefused {
        /// 401 or 403.
        status: u16,
        /// What the server says, ready to be shown.
        body: String,
    },
    /// The server answered with something else than 101.
    #[error("{host} answered HTTP {status}{location}{body}")]
    Refused {
        /// The host.
        host: String,
        /// The status code.
        status: u16,
        /// Where a redirect points, ready to be shown.
        location: String,
        /// What the server says, ready to be shown.
        body: String,
    },
    /// The server says 101 but what follows is not its part of the handshake.
    #[error("{host} answered HTTP 101 but not the WebSocket handshake ({what})")]
    Handshake {
        /// The host.
        host: String,
        /// What is missing.
        what: &'static str,
    },
}

/// A byte stream to the server.
#[derive(Debug)]
pub(super) enum Transport<S> {
    /// As it is.
    Plain(S),
    /// Inside TLS.
    Tls(Box<TlsStream<S>>),
}

macro_rules! forward {
    ($self:ident, $method:ident $(, $argument:expr)*) => {
        match $self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Self::Tls(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Transport<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        forward!(self, poll_read, cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Transport<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        forward!(self, poll_write, cx, buf)
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_flush, cx)
    }
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, poll_close, cx)
    }
}

/// Dials `target`.
///
/// # Errors
/// [`DialError`]; no text of it holds the API key.
pub(super) async fn dial<R: Runtime>(
    runtime: R,
    target: Arc<Target>,
) -> Result<WebSocketStream<Transport<R::Stream>>, DialError> {
    let reading = Arc::clone(&target);
    let api_key = runtime.unblock(move || reading.api_key.read()).await?;
    let proxy = target.proxy.as_ref().map_err(|error| *error)?;
    let mut stream = match proxy {
        None => connect(&runtime, &target.host, target.port).await?,
        Some(proxy) => connect(&runtime, &proxy.host, proxy.port).await?,
    };
    if let Some(proxy) = proxy {
        open_tunnel(&mut stream, proxy, &target).await?;
    }
    let mut transport = if target.secure {
        Transport::Tls(Box::new(secure(&runtime, stream, &target).await?))
    } else {
        Transport::Plain(stream)
    };
    let rest = upgrade(&runtime, &mut transport, &target, &api_key).await?;
    let config = WebSocketConfig::default()
        // Enough to take a burst in few reads, small enough for a worker that idles for hours.
        .read_buffer_size(16 << 10)
        .write_buffer_size(16 << 10)
        .max_message_size(Some(LARGEST_FRAME))
        .max_frame_size(Some(LARGEST_FRAME));
    Ok(WebSocketStream::from_partially_read(transport, rest, Role::Client, Some(config)).await)
}

async fn connect<R: Runtime>(runtime: &R, host: &str, port: u16) -> Result<R::Stream, DialError> {
    let resolve = |source| DialError::Resolve { host: host.to_owned(), source };
    let addresses = runtime.resolve(host, port).await.map_err(resolve)?;
    let several = addresses.len() > 1;
    let mut failed = resolve(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for address in addresses {
        let attempt = runtime.connect(address);
        let result = if several { limited(runtime, ADDRESS_LIMIT, attempt).await } else { attempt.await };
        match result {
            Ok(stream) => return Ok(stream),
            Err(source) => failed = DialError::Connect { host: host.to_owned(), address, source },
        }
    }
    Err(failed)
}

/// `work`, or a time-out error after `limit`.
async fn limited<R: Runtime, T>(
    runtime: &R,
    limit: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let over = async {
        runtime.sleep_until(runtime.now().plus(limit)).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    work.or(over).await
}

async fn open_tunnel(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    proxy: &Proxy,
    target: &Target,
) -> Result<(), DialError> {
    let name = format!("{}:{}", proxy.host, proxy.port);
    let authority = target.authority();
    let authorization =
        proxy.authorization.as_ref().map(|value| format!("Proxy-Authorization: {value}\r\n")).unwrap_or_default();
    let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{authorization}\r\n");
    let answer = async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        read_head(stream).await
    };
    match answer.await {
        // Neither a TLS server nor a WebSocket server speaks first.
        Ok((Head { status: 200..300, .. }, rest)) if rest.is_empty() => Ok(()),
        Ok((head, _)) => Err(DialError::ProxyRefused { proxy: name, status: head.status }),
        Err(source) => Err(DialError::ProxyAnswer { proxy: name, source }),
    }
}

async fn secure<R: Runtime>(
    runtime: &R,
    stream: R::Stream,
    target: &Target,
) -> Result<TlsStream<R::Stream>, DialError> {
    let name = ServerName::try_from(target.host.clone()).map_err(|_| DialError::ServerName(target.host.clone()))?;
    // Read anew for every dial, so that a rotated certificate authority needs no restart.
    let config = runtime.unblock(client_config).await.map_err(DialError::TrustStore)?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    connecting.await.map_err(|source| DialError::Tls { host: target.host.clone(), source })
}

fn client_config() -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth();
    // A dial an hour needs no tickets kept.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Asks for the upgrade to WebSocket (RFC 6455, section 4); gives what the server sent behind its answer.
async fn upgrade<R: Runtime>(
    runtime: &R,
    transport: &mut Transport<R::Stream>,
    target: &Target,
    api_key: &Secret,
) -> Result<Vec<u8>, DialError> {
    let host = || target.host.clone();
    let key = generate_key();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\nAuthorization: Bearer {}\r\nUser-Agent: oz-agent-worker/{}\r\n\r\n",
        target.path,
        target.authority(),
        api_key.expose(),
        env!("CARGO_PKG_VERSION"),
    );
    let broken = |source| DialError::Broken { host: host(), source };
    transport.write_all(request.as_bytes()).await.map_err(broken)?;
    transport.flush().await.map_err(broken)?;
    let (head, rest) = read_head(transport).await.map_err(|source| DialError::Answer { host: host(), source })?;
    if head.status != 101 {
        let body = read_body(runtime, transport, &head, rest).await;
        return Err(refusal(&target.host, api_key, &head, &body));
    }
    check_handshake(&head, &key).map_err(|what| DialError::Handshake { host: host(), what })?;
    Ok(rest)
}

/// Whether an answer with status 101 completes the handshake that was asked for with `key`.
///
/// # Errors
/// What is missing.
pub fn check_handshake(head: &Head, key: &str) -> Result<(), &'static str> {
    if !head.header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
        return Err("no Upgrade: websocket");
    }
    if !head.lists("connection", "upgrade") {
        return Err("no Connection: Upgrade");
    }
    if head.header("sec-websocket-accept") != Some(derive_accept_key(key.as_bytes()).as_str()) {
        return Err("Sec-WebSocket-Accept does not match");
    }
    if head.header("sec-websocket-extensions").is_some() || head.header("sec-websocket-protocol").is_some() {
        return Err("it chose an extension or subprotocol that was not offered");
    }
    Ok(())
}

/// The beginning of a refusal's body: as much as is shown, as far as it comes soon.
async fn read_body<R: Runtime>(
    runtime: &R,
    transport: &mut Transport<R::Stream>,
    head: &Head,
    mut body: Vec<u8>,
) -> Vec<u8> {
    let announced = head.header("content-length").and_then(|length| length.parse::<usize>().ok());
    let wanted = announced.map_or(SHOWN_BODY, |length| length.min(SHOWN_BODY));
    let mut chunk = [0; SHOWN_BODY];
    let reading = async {
        while body.len() < wanted {
            match transport.read(&mut chunk).await? {
                0 => break,
                length => body.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            }
        }
        Ok(())
    };
    // What came until then is what is shown.
    let _ = limited(runtime, BODY_LIMIT, reading).await;
    body.truncate(SHOWN_BODY);
    body
}

/// A server that echoes what it was sent must not get the key into the log, nor the piece of it that the cut left over.
fn without_key(text: &str, key: &str) -> String {
    let mut text = text.replace(key, "[API key]");
    let left_over = (1..key.len()).rev().find(|length| key.get(..*length).is_some_and(|piece| text.ends_with(piece)));
    text.truncate(text.len() - left_over.unwrap_or(0));
    text
}

/// What an answer of `host` with another status than 101 amounts to. Its text never holds the API key, and stays one
/// short line.
pub fn refusal(host: &str, api_key: &Secret, head: &Head, body: &[u8]) -> DialError {
    let safe = |text: &str| printable(&without_key(text, api_key.expose()));
    let body = safe(String::from_utf8_lossy(body).trim());
    let body = if body.is_empty() { body } else { format!(": {body}") };
    match head.status {
        status @ (401 | 403) => DialError::KeyRefused { status, body },
        status => DialError::Refused {
            host: host.to_owned(),
            status,
            location: head
                .header("location")
                .map(|location| {
                    let location: String = location.chars().take(SHOWN_BODY).collect();
                    format!(" with a redirect to {}, which is not followed: check --web-socket-url", safe(&location))
                })
                .unwrap_or_default(),
            body,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::without_key;

    #[test]
    fn an_echoed_key_is_not_shown_whole_or_cut() {
        assert_eq!(without_key("a wk-secret b wk-secret", "wk-secret"), "a [API key] b [API key]");
        assert_eq!(without_key("Bearer wk-sec", "wk-secret"), "Bearer ");
        assert_eq!(without_key("nothing here", "wk-secret"), "nothing here");
    }
}
