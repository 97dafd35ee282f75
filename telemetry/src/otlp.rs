//! The `otlp` exporter over http/protobuf: an HTTP client for it, and one line in the log per outage.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Compression, MetricExporter, Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use tracing::{info, warn};
use ureq::http::Uri;
use ureq::tls::{RootCerts, TlsConfig};

use crate::problem::Problem;
use crate::settings::Otlp;

/// The longest answer of a collector that is read, in bytes: it only ever names what it did not take.
const MAX_ANSWER: u64 = 64 * 1024;

/// Buffer per direction of a connection, in bytes; an export is about 20 KiB, and ureq's own default 128 KiB.
const BUFFER: usize = 16 * 1024;

/// Pushes to a collector and says when it cannot, once, and when it can again.
#[derive(Debug)]
pub(crate) struct Push {
    exporter: MetricExporter,
    /// Why the last request failed.
    cause: Arc<Mutex<String>>,
    /// For the log: without credentials and query.
    endpoint: String,
    down: AtomicBool,
}

impl Push {
    /// # Errors
    /// The library refuses the settings.
    pub(crate) fn new(otlp: Otlp) -> Result<Self, Problem> {
        let cause = Arc::new(Mutex::new(String::new()));
        let client = Client { agent: agent(&otlp.endpoint, otlp.timeout), cause: Arc::clone(&cause) };
        let mut builder = MetricExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(otlp.endpoint.to_string())
            .with_headers(otlp.headers)
            .with_timeout(otlp.timeout);
        if otlp.gzip {
            builder = builder.with_compression(Compression::Gzip);
        }
        let exporter = builder.with_temporality(otlp.temporality).build().map_err(|_| Problem::Exporter)?;
        Ok(Self { exporter, cause, endpoint: without_secrets(&otlp.endpoint), down: AtomicBool::new(false) })
    }
}

impl PushMetricExporter for Push {
    /// Never an error: the SDK has nothing to do about one, except to log every attempt.
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let endpoint = &self.endpoint;
        match self.exporter.export(metrics).await {
            Ok(()) if self.down.swap(false, Ordering::Relaxed) => info!(%endpoint, "metrics reach the collector again"),
            Err(_) if !self.down.swap(true, Ordering::Relaxed) => {
                let cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner).clone();
                warn!(%endpoint, cause, "metrics do not reach the collector; trying again at every export");
            }
            _ => {}
        }
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}

fn agent(endpoint: &Uri, timeout: Duration) -> ureq::Agent {
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    let mut config = ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
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
    host.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// Scheme, host, port and path of a URL.
fn without_secrets(url: &Uri) -> String {
    let port = url.port_u16().map_or(String::new(), |port| format!(":{port}"));
    format!("{}://{}{port}{}", url.scheme_str().unwrap_or("http"), url.host().unwrap_or_default(), url.path())
}

/// ureq, as opentelemetry-http wants a client. Blocking is right: it is called on the SDK's export thread.
struct Client {
    agent: ureq::Agent,
    cause: Arc<Mutex<String>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The agent's configuration can hold a proxy's credentials.
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let (parts, body) = request.into_parts();
        let answer = self.agent.run(Request::from_parts(parts, body.as_ref()))?;
        let (parts, mut body) = answer.into_parts();
        let body = body.with_config().limit(MAX_ANSWER).read_to_vec()?;
        Ok(Response::from_parts(parts, body.into()))
    }

    fn note(&self, cause: String) {
        *self.cause.lock().unwrap_or_else(PoisonError::into_inner) = cause;
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.send(request);
        match &answer {
            Ok(response) if response.status().is_success() => {}
            Ok(response) => self.note(format!("HTTP {}", response.status())),
            Err(error) => self.note(describe(error)),
        }
        Ok(answer?)
    }
}

/// The cause as it goes into the log.
fn describe(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        // Both would quote the URL.
        ureq::Error::BadUri(_) | ureq::Error::RequireHttpsOnly(_) => "the URL cannot be used".to_owned(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn credentials_and_query_of_an_endpoint_stay_out_of_the_log() {
        let url = "https://user:hunter2@collector:4318/v1/metrics?token=canary".parse().unwrap();
        assert_eq!(without_secrets(&url), "https://collector:4318/v1/metrics");
    }

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
