//! OTLP over HTTP/1.1.

use std::net::IpAddr;
use std::time::Duration;

use ureq::http::{HeaderMap, HeaderValue, Uri, header};
use ureq::tls::TlsConfig;

use crate::otlp::answer::{MAX_ANSWER, PartialSuccess};
use crate::otlp::body::Encoding;
use crate::otlp::failure::ExportFailure;
use crate::otlp::{USER_AGENT, tls};
use crate::settings::Otlp;

/// Buffer per direction of a connection, in bytes; an export is about 20 KiB, and ureq's own default 128 KiB.
const BUFFER: usize = 16 * 1024;

/// One collector.
pub(super) struct Http {
    agent: ureq::Agent,
    endpoint: Uri,
    headers: HeaderMap,
}

impl Http {
    /// # Errors
    /// The certificates cannot be used.
    pub(super) fn new(otlp: &Otlp) -> Result<Self, rustls::Error> {
        let agent = agent(&otlp.endpoint, tls::for_http1(&otlp.tls)?);
        Ok(Self { agent, endpoint: otlp.endpoint.clone(), headers: otlp.headers.0.clone() })
    }

    /// Sends `body` and reads the answer, within `time`.
    ///
    /// # Errors
    /// No connection, no answer, or an answer that says no.
    pub(super) fn post(
        &self,
        encoding: Encoding,
        body: &[u8],
        time: Duration,
    ) -> Result<PartialSuccess, ExportFailure> {
        let mut request = self.agent.post(&self.endpoint).config().timeout_global(Some(time)).build();
        if let Some(headers) = request.headers_mut() {
            headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
            headers.extend(self.headers.clone());
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(encoding.content_type()));
            if let Some(packed) = encoding.content_encoding() {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(packed));
            }
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

fn agent(endpoint: &Uri, tls: TlsConfig) -> ureq::Agent {
    let mut config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        // A redirect would take the headers, and the credentials in them, to somebody else.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_idle_connections(1)
        .input_buffer_size(BUFFER)
        .output_buffer_size(BUFFER)
        .tls_config(tls);
    if endpoint.host().is_some_and(is_this_machine) {
        config = config.proxy(None);
    }
    config.build().new_agent()
}

/// Whether `host` is a name or an address of this machine itself, which no proxy can reach for us.
fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn failure(error: ureq::Error) -> ExportFailure {
    match error {
        ureq::Error::Timeout(_) => ExportFailure::Timeout,
        ureq::Error::BodyExceedsLimit(_) => ExportFailure::Nonsense("an answer that is far too long"),
        ureq::Error::Io(error) => error.into(),
        ureq::Error::Rustls(error) => ExportFailure::Tls(error.to_string()),
        // Both would quote the URL.
        ureq::Error::BadUri(_) | ureq::Error::RequireHttpsOnly(_) => {
            ExportFailure::Connection("the URL cannot be used".to_owned())
        }
        error => ExportFailure::Connection(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_is_asked_for_this_machine() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.8.8.8", "[::1]"] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in ["collector", "10.0.0.1", "[2001:db8::1]"] {
            assert!(!is_this_machine(host), "{host}");
        }
    }
}
