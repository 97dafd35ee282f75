//! One dial: name, TCP or Unix socket, proxy, TLS. Bounded in everything it reads; its time is bounded by whoever dials.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use futures_rustls::TlsConnector;
use futures_rustls::client::TlsStream;
use http::{HeaderValue, Method, Request, header};
use oz_worker_runtime::{Address, Lane, Runtime};

use crate::destination::{Destination, Remote};
use crate::eyeballs::connect_first;
use crate::http::{AnswerError, HttpClient};
use crate::payload::Payload;
use crate::proxy::Proxy;
use crate::socket::Duplex;
use crate::tls::{TlsError, TlsFault, server_name};
use crate::url::{Url, UrlHost};
use crate::wire::{Metered, Wire};

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("cannot resolve {host}: {source}")]
    Resolve { host: UrlHost, source: io::Error },
    /// The resolver knows the name and gives no address.
    #[error("cannot resolve {host}: the name has no address")]
    NoAddress { host: UrlHost },
    /// No address could be connected to.
    #[error("cannot connect to {host} ({address}): {source}")]
    Connect {
        host: UrlHost,
        /// The address that failed last.
        address: SocketAddr,
        source: io::Error,
    },
    /// The socket in the file system could not be connected to.
    #[error("cannot connect to {}: {source}", path.display())]
    Socket { path: PathBuf, source: io::Error },
    /// The proxy did not open a way to the host.
    #[error("the proxy {proxy} refused to connect: HTTP {status}{}", hint(*.status))]
    ProxyRefused { proxy: Proxy, status: u16 },
    /// The proxy's answer could not be read.
    #[error("the proxy {proxy} did not answer as a proxy: {source}")]
    ProxyAnswer { proxy: Proxy, source: AnswerError },
    /// There is no TLS to be had.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The host's name cannot stand in a certificate.
    #[error("{0} is not a name that a certificate can hold")]
    ServerName(UrlHost),
    #[error("TLS with {host} failed: {source}")]
    Handshake {
        host: UrlHost,
        /// What went wrong; names the flaw of a certificate.
        source: TlsFault,
    },
}

impl DialError {
    /// Whether one side does not take the other's certificate, or its own: only other certificates change that.
    pub const fn is_about_trust(&self) -> bool {
        match self {
            Self::Tls(_) => true,
            Self::Handshake { source, .. } => source.is_about_certificates(),
            _ => false,
        }
    }
}

const fn hint(status: u16) -> &'static str {
    if status == 407 { "; its URL must hold a user name and password that it accepts" } else { "" }
}

/// Connects to `destination`.
///
/// # Errors
/// [`DialError`]; no text of it holds a secret.
pub async fn dial<R: Runtime>(runtime: &R, destination: &Destination) -> Result<Wire<R::Stream>, DialError> {
    let remote = match destination {
        Destination::Unix(path) => {
            let connected = runtime.connect(&Address::Unix(path.clone())).await;
            return connected.map(Wire::plain).map_err(|source| DialError::Socket { path: path.clone(), source });
        }
        Destination::Host(remote) => remote,
    };
    let url = &remote.url;
    let stream = match &remote.proxy {
        None => connect(runtime, url.host(), url.port()).await?,
        Some(proxy) => {
            let stream = connect(runtime, &proxy.host, proxy.port).await?;
            if remote.is_forwarded() { stream } else { Box::pin(open_tunnel(stream, proxy, url)).await? }
        }
    };
    if url.is_secure() {
        Ok(Wire::tls(Box::pin(secure(runtime, Metered::new(stream), remote)).await?))
    } else {
        Ok(Wire::plain(stream))
    }
}

async fn connect<R: Runtime>(runtime: &R, host: &UrlHost, port: u16) -> Result<R::Stream, DialError> {
    let addresses = match host {
        UrlHost::Address(address) => vec![SocketAddr::new(*address, port)],
        UrlHost::Name(name) => {
            let resolved = runtime.resolve(name, port).await;
            resolved.map_err(|source| DialError::Resolve { host: host.clone(), source })?
        }
    };
    let open = |address| {
        let runtime = runtime.clone();
        async move { runtime.connect(&Address::Tcp(address)).await }
    };
    let sleep = |time| runtime.sleep_until(runtime.now().plus(time));
    connect_first(addresses, open, sleep).await.map_err(|failed| match failed {
        Some((address, source)) => DialError::Connect { host: host.clone(), address, source },
        None => DialError::NoAddress { host: host.clone() },
    })
}

/// Asks the proxy to connect to the host of `url` (RFC 9110, section 9.3.6).
async fn open_tunnel<S: Duplex>(stream: S, proxy: &Proxy, url: &Url) -> Result<S, DialError> {
    let answer_error = |source| DialError::ProxyAnswer { proxy: proxy.clone(), source };
    let mut request = Request::new(Payload::default());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = url.authority().clone().into();
    // A host is plain ASCII, and can stand in a header.
    if let Ok(host) = HeaderValue::from_str(url.authority().as_str()) {
        request.headers_mut().insert(header::HOST, host);
    }
    if let Some(value) = proxy.authorization_value() {
        request.headers_mut().insert(header::PROXY_AUTHORIZATION, value);
    }
    let client = HttpClient::new(stream).await.map_err(answer_error)?;
    let answer = client.send(request).await.map_err(answer_error)?;
    if !answer.status().is_success() {
        return Err(DialError::ProxyRefused { proxy: proxy.clone(), status: answer.status().as_u16() });
    }
    match answer.into_stream().await.map_err(answer_error)? {
        (stream, rest) if rest.is_empty() => Ok(stream),
        // Neither a TLS server nor a WebSocket server speaks first.
        _ => Err(answer_error(AnswerError::NotHttp)),
    }
}

async fn secure<R: Runtime>(
    runtime: &R,
    stream: Metered<R::Stream>,
    Remote { url, tls, http2, .. }: &Remote,
) -> Result<TlsStream<Metered<R::Stream>>, DialError> {
    let host = tls.server_name.as_ref().unwrap_or(url.host());
    let name = server_name(host).ok_or_else(|| DialError::ServerName(host.clone()))?;
    // Read anew for every dial, so that a rotated certificate authority needs no restart.
    let tls = Arc::clone(tls);
    let mut config = runtime.unblock(Lane::Dial, move || tls.client_config()).await?;
    if *http2 {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    connecting.await.map_err(|error| DialError::Handshake { host: host.clone(), source: TlsFault::from(&error) })
}
