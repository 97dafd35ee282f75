//! OTLP over HTTP/1.1.

use std::sync::Arc;
use std::time::Duration;

use oz_worker_net::proxy::Proxy;
use oz_worker_net::tls::{TlsError, server_name};
use ureq::http::{HeaderMap, HeaderValue, Uri, header};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector};
use ureq::{Agent, ProxyProtocol};

use crate::otlp::answer::{MAX_ANSWER, PartialSuccess};
use crate::otlp::body::Encoding;
use crate::otlp::failure::{ConnectionFault, ExportFailure};
use crate::otlp::headers::headers;
use crate::otlp::tcp::FirstAddress;
use crate::otlp::tls::TlsConnector;
use crate::settings::Otlp;

/// Buffer per direction of a connection, in bytes; an export is about 20 KiB, and ureq's own default 128 KiB.
const BUFFER: usize = 16 * 1024;

pub(super) struct Http {
    agent: Agent,
    /// Without user and password, which are among the headers.
    endpoint: Uri,
    headers: HeaderMap,
}

impl Http {
    /// # Errors
    /// The URL or the proxy cannot be used; cannot happen, since both have been read.
    pub(super) fn new(otlp: &Otlp, encoding: Encoding) -> Result<Self, ConnectionFault> {
        let url = &otlp.endpoint;
        let endpoint = Uri::builder()
            .scheme(url.scheme())
            .authority(url.authority().clone())
            .path_and_query(url.path_and_query().as_str())
            .build()
            .map_err(|_| ConnectionFault::Url)?;
        let mut headers = headers(url, &otlp.headers, encoding);
        if let Some(packed) = encoding.content_encoding() {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(packed));
        }
        Ok(Self { agent: agent(otlp)?, endpoint, headers })
    }

    /// Sends `body` and reads the answer, within `time`.
    ///
    /// # Errors
    /// No connection, no answer, or an answer that says no.
    pub(super) fn post(&self, body: &[u8], time: Duration) -> Result<PartialSuccess, ExportFailure> {
        let mut request = self.agent.post(&self.endpoint).config().timeout_global(Some(time)).build();
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.headers.clone());
        }
        let (answer, body) = request.send(body).map_err(failure)?.into_parts();
        if !answer.status.is_success() {
            return Err(ExportFailure::http(answer.status, &answer.headers));
        }
        let bytes = body.into_with_config().limit(MAX_ANSWER as u64).read_to_vec().map_err(failure)?;
        let kind = answer.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if bytes.is_empty() {
            Ok(PartialSuccess::default())
        } else if kind.starts_with("application/json") {
            PartialSuccess::from_json(&bytes)
        } else {
            PartialSuccess::from_protobuf(&bytes)
        }
    }
}

fn agent(otlp: &Otlp) -> Result<Agent, ConnectionFault> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        // A redirect would take the headers, and the credentials in them, to somebody else.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_idle_connections(1)
        .input_buffer_size(BUFFER)
        .output_buffer_size(BUFFER)
        // Nothing of the environment is read a second time.
        .proxy(otlp.proxy.as_ref().map(through).transpose()?)
        .build();
    let tls = TlsConnector { tls: Arc::clone(&otlp.tls), name: server_name(otlp.endpoint.host()) };
    let connector = ().chain(ConnectProxyConnector::default()).chain(FirstAddress).chain(tls);
    Ok(Agent::with_parts(config, connector, DefaultResolver::default()))
}

fn through(proxy: &Proxy) -> Result<ureq::Proxy, ConnectionFault> {
    let mut builder = ureq::Proxy::builder(ProxyProtocol::Http).host(&proxy.host.to_string()).port(proxy.port);
    if let Some(user) = &proxy.user_info {
        builder = builder.username(user.user.expose()).password(user.password.expose());
    }
    builder.build().map_err(|_| ConnectionFault::Proxy)
}

/// Facts only: much of what ureq says quotes a URL, or what the other side wrote.
fn failure(error: ureq::Error) -> ExportFailure {
    match error {
        ureq::Error::Timeout(_) => ExportFailure::Timeout,
        ureq::Error::BodyExceedsLimit(_) => ExportFailure::Nonsense("an answer that is far too long"),
        ureq::Error::Io(error) => error.into(),
        ureq::Error::HostNotFound => ConnectionFault::NoAddress.into(),
        ureq::Error::InvalidProxyUrl | ureq::Error::ConnectProxyFailed(_) => ConnectionFault::Proxy.into(),
        ureq::Error::BadUri(_) | ureq::Error::RequireHttpsOnly(_) => ConnectionFault::Url.into(),
        ureq::Error::Http(_) | ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) => {
            ConnectionFault::NotHttp.into()
        }
        ureq::Error::Other(error) => match error.downcast::<TlsError>() {
            Ok(error) => (*error).into(),
            Err(_) => ConnectionFault::Broken.into(),
        },
        _ => ConnectionFault::Broken.into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn nothing_that_ureq_quotes_is_shown() {
        let canary = || "http://user:canary@h/canary".to_owned();
        for error in [
            ureq::Error::BadUri(canary()),
            ureq::Error::RequireHttpsOnly(canary()),
            ureq::Error::ConnectProxyFailed(canary()),
            ureq::Error::Other(canary().into()),
        ] {
            let failure = failure(error);
            assert!(matches!(failure, ExportFailure::Connection(_)), "{failure}");
            assert!(!failure.to_string().contains("canary"), "{failure}");
        }
    }

    #[test]
    fn what_is_known_about_a_failure_is_said() {
        for (error, words) in [
            (ureq::Error::HostNotFound, "the host has no address"),
            (ureq::Error::InvalidProxyUrl, "the proxy does not connect the worker"),
            (ureq::Error::BodyExceedsLimit(1), "an answer that is far too long; is the endpoint an OTLP receiver?"),
            (ureq::Error::LargeResponseHeader(2, 1), &ConnectionFault::NotHttp.to_string()),
            (ureq::Error::ConnectionFailed, "the connection failed"),
            (ureq::Error::Other(TlsError::Pair.into()), "the private key does not belong to the client certificate"),
        ] {
            assert_eq!(failure(error).to_string(), words);
        }
    }
}
