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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PROXY: &str = "http://user:word@proxy.example:3128";

    /// The first line and two headers of a request to `url`, through a proxy or not.
    fn request(url: Option<&str>, has_proxy: bool, http2: bool) -> (String, [Option<String>; 2]) {
        let destination = match url {
            None => Destination::Unix("/run/engine.sock".into()),
            Some(url) => {
                let env = |name: &str| {
                    (has_proxy && name.ends_with("_PROXY") && name != "NO_PROXY").then(|| PROXY.to_owned())
                };
                let url = Url::parse(url, &["http", "https"]).unwrap();
                let Ok(Destination::Host(remote)) = Destination::new(url, &env, Arc::default()) else { unreachable!() };
                Destination::Host(Box::new(Remote { http2, ..*remote }))
            }
        };
        let request = destination.request(Method::GET, PathAndQuery::from_static("/a?b"), Payload::default());
        let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert!(header(header::USER_AGENT).unwrap().starts_with("oz-agent-worker/"));
        (format!("{} {}", request.method(), request.uri()), [header(header::HOST), header(header::PROXY_AUTHORIZATION)])
    }

    #[test]
    fn only_a_proxy_that_passes_requests_on_reads_the_whole_url_and_the_password() {
        let host = |name: &str| [Some(name.to_owned()), None];
        assert_eq!(request(None, false, false), ("GET /a?b".to_owned(), host("localhost")));
        assert_eq!(request(Some("http://h.example:81"), false, false), ("GET /a?b".to_owned(), host("h.example:81")));
        assert_eq!(request(Some("https://h.example"), true, false), ("GET /a?b".to_owned(), host("h.example")));
        assert_eq!(request(Some("http://h.example"), true, true), ("GET /a?b".to_owned(), host("h.example")));
        let password = Some("Basic dXNlcjp3b3Jk".to_owned());
        let forwarded = ("GET http://h.example/a?b".to_owned(), [Some("h.example".to_owned()), password]);
        assert_eq!(request(Some("http://h.example"), true, false), forwarded);
    }
}
