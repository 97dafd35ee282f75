//! Where a connection goes, and how a request to there begins.

use std::path::PathBuf;
use std::sync::Arc;

use http::{Method, header, request};

use crate::http::secret_value;
use crate::proxy::{self, Proxy, ProxyError};
use crate::tls::Tls;
use crate::url::Url;

/// Who asks.
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
    /// The proxy on the way.
    pub proxy: Option<Proxy>,
    /// Whom to trust there.
    pub tls: Arc<Tls>,
}

impl Destination {
    /// The host of `url`, through the proxy that the variables of `env` name.
    ///
    /// # Errors
    /// A variable that cannot be used.
    pub fn new(url: Url, env: &dyn Fn(&str) -> Option<String>, tls: Arc<Tls>) -> Result<Self, ProxyError> {
        let proxy = proxy::for_url(env, &url)?;
        Ok(Self::Host(Box::new(Remote { url, proxy, tls })))
    }

    /// A request for `path`, which begins with `/`: with `Host`, `User-Agent`, and what a proxy must know.
    pub fn request(&self, method: Method, path: &str) -> request::Builder {
        let request = request::Builder::new().method(method).header(header::USER_AGENT, USER_AGENT);
        let Self::Host(remote) = self else { return request.uri(path).header(header::HOST, "localhost") };
        let host = remote.url.host_header();
        let request = request.header(header::HOST, host.as_str());
        if !remote.is_forwarded() {
            return request.uri(path);
        }
        // The whole URL (RFC 9112, section 3.2.2).
        let request = request.uri(format!("http://{host}{path}"));
        match remote.proxy.as_ref().and_then(|proxy| proxy.authorization.as_ref()).and_then(secret_value) {
            Some(value) => request.header(header::PROXY_AUTHORIZATION, value),
            None => request,
        }
    }
}

impl Remote {
    /// Whether the proxy reads the requests and passes each on, as is done for plain HTTP. Anything else goes through a
    /// tunnel.
    pub(crate) fn is_forwarded(&self) -> bool {
        self.proxy.is_some() && self.url.scheme() == "http"
    }
}
