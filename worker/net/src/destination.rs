//! Where a connection goes, and how a request to there begins.

use std::path::PathBuf;
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Uri, header};

use crate::payload::Payload;
use crate::proxy::{self, Proxy, ProxyError};
use crate::tls::Tls;
use crate::url::Url;

const USER_AGENT: &str = concat!("oz-agent-worker/", env!("CARGO_PKG_VERSION"));

/// Where a connection goes.
#[derive(Debug)]
pub enum Destination {
    /// To a socket in the file system.
    Unix(PathBuf),
    /// To the host of a URL.
    Host(Box<Remote>),
}

/// A host, and what it takes to get there.
#[derive(Debug)]
pub struct Remote {
    /// Its scheme says whether TLS is spoken.
    pub url: Url,
    pub proxy: Option<Proxy>,
    /// Whom to trust there.
    pub tls: Arc<Tls>,
    /// HTTP/2 is spoken there: TLS asks for it (ALPN), and a proxy, which reads HTTP/1.1 only, opens a tunnel.
    pub http2: bool,
}

impl Destination {
    /// The host of `url`, through the proxy that the variables of `env` name.
    ///
    /// # Errors
    /// A variable that cannot be used.
    pub fn new(url: Url, env: &dyn Fn(&str) -> Option<String>, tls: Arc<Tls>) -> Result<Self, ProxyError> {
        let proxy = proxy::for_url(env, &url)?;
        Ok(Self::Host(Box::new(Remote { url, proxy, tls, http2: false })))
    }

    /// A request with `Host`, `User-Agent`, and what a proxy must know.
    pub fn request(&self, method: Method, path: PathAndQuery, body: Payload) -> Request<Payload> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        let Self::Host(remote) = self else {
            *request.uri_mut() = path.into();
            request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
            return request;
        };
        let host = remote.url.host_header();
        // A host is plain ASCII, and can stand in both.
        if let Ok(value) = HeaderValue::from_str(&host) {
            request.headers_mut().insert(header::HOST, value);
        }
        if !remote.is_forwarded() {
            *request.uri_mut() = path.into();
            return request;
        }
        // The whole URL (RFC 9112, section 3.2.2).
        if let Ok(uri) = Uri::try_from(format!("http://{host}{path}")) {
            *request.uri_mut() = uri;
        }
        if let Some(value) = remote.proxy.as_ref().and_then(Proxy::authorization_value) {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, value);
        }
        request
    }
}

impl Remote {
    /// Whether the proxy reads the requests and passes each on, as is done for plain HTTP/1.1. Anything else goes through a
    /// tunnel.
    pub(crate) fn is_forwarded(&self) -> bool {
        self.proxy.is_some() && self.url.scheme() == "http" && !self.http2
    }
}
