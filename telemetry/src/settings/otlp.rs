//! The variables of OTLP: where and how one signal is pushed. The signal's own variable wins over the general one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use oz_worker_net::proxy::{self, Proxy};
use oz_worker_net::tls::Tls;
use oz_worker_net::url::Url;

use crate::settings::problem::VariableProblem;
use crate::settings::reader::{Reader, key_and_value};
use crate::signal::OtelSignal;

/// What the URL of a collector begins with.
const SCHEMES: &[&str] = &["http", "https"];
/// Default of `OTEL_EXPORTER_OTLP_TIMEOUT` (OpenTelemetry specification, "OTLP exporter").
const OTLP_TIMEOUT: Duration = Duration::from_secs(10);
/// Default of `OTEL_METRIC_EXPORT_TIMEOUT` and `OTEL_BSP_EXPORT_TIMEOUT` (the same, SDK environment variables).
const EXPORT_TIMEOUT: Duration = Duration::from_secs(30);

/// How a message is written and carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Protocol {
    #[default]
    HttpProtobuf,
    HttpJson,
    Grpc,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Compression {
    #[default]
    None,
    Gzip,
    Zstd,
}

/// Where and how one signal is pushed.
#[derive(Debug)]
pub(crate) struct Otlp {
    pub(crate) signal: OtelSignal,
    pub(crate) protocol: Protocol,
    /// The whole URL over HTTP; of gRPC what stands before the method's path. Its type shows neither path nor user.
    pub(crate) endpoint: Url,
    /// What the endpoint is reached through.
    pub(crate) proxy: Option<Proxy>,
    /// Secrets, all of them: their type shows their names only.
    pub(crate) headers: Headers,
    /// Bound on one export, its retries included.
    pub(crate) timeout: Duration,
    pub(crate) compression: Compression,
    /// The defaults where the endpoint is not secure.
    pub(crate) tls: Arc<Tls>,
}

/// Headers that are shown by name only.
#[derive(Clone, Default)]
pub(crate) struct Headers(pub(crate) HeaderMap);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Whether a header says how a message is written or carried, which only the exporter knows, or is about one connection (RFC
/// 9110, section 7.6.1; RFC 9113, section 8.2.2): given by somebody else it would break every push. Names that begin with
/// `grpc-` are gRPC's own.
fn is_the_exporters(name: &HeaderName) -> bool {
    const NAMES: [&str; 14] = [
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    NAMES.contains(&name.as_str()) || name.as_str().starts_with("grpc-")
}

impl Reader<'_> {
    /// `None` when nothing can be pushed the way that is asked for.
    pub(super) fn otlp(&mut self, signal: OtelSignal) -> Option<Otlp> {
        let protocols =
            [("http/protobuf", Protocol::HttpProtobuf), ("http/json", Protocol::HttpJson), ("grpc", Protocol::Grpc)];
        let protocol = self.choice(&signal.variables("PROTOCOL"), &protocols);
        let endpoint = match protocol {
            Protocol::HttpProtobuf | Protocol::HttpJson => self.http_endpoint(signal),
            Protocol::Grpc => self.grpc_endpoint(signal),
        }?;
        let timeout = self.timeout(&signal.variables("TIMEOUT"), OTLP_TIMEOUT);
        let export_timeout = match signal {
            OtelSignal::Metrics => "OTEL_METRIC_EXPORT_TIMEOUT",
            OtelSignal::Traces => "OTEL_BSP_EXPORT_TIMEOUT",
        };
        let compressions = [("none", Compression::None), ("gzip", Compression::Gzip), ("zstd", Compression::Zstd)];
        Some(Otlp {
            signal,
            protocol,
            headers: self.headers(signal),
            timeout: timeout.min(self.timeout(&[export_timeout], EXPORT_TIMEOUT)),
            compression: self.choice(&signal.variables("COMPRESSION"), &compressions),
            // Nothing of it is read where it is of no use.
            tls: Arc::new(if endpoint.is_secure() { self.tls(signal)? } else { Tls::default() }),
            proxy: self.proxy(signal, &endpoint).ok()?,
            endpoint,
        })
    }

    /// The signal's own variable is the whole URL; the general one is a base, to which the signal's path is added.
    fn http_endpoint(&mut self, signal: OtelSignal) -> Option<Url> {
        let [own, general] = signal.variables("ENDPOINT");
        if let Some(url) = self.get(&own) {
            return self.url(signal, own, &url);
        }
        let base = self.get(&general).unwrap_or_else(|| "http://localhost:4318".to_owned());
        self.url(signal, general, &base)?.below(&format!("/v1/{signal}")).ok()
    }

    /// No path is added here: a method has its own. Without a scheme the connection is secure, unless that is turned off.
    fn grpc_endpoint(&mut self, signal: OtelSignal) -> Option<Url> {
        let insecure = self.boolean(&signal.variables("INSECURE"));
        let [_, general] = signal.variables("ENDPOINT");
        let set = self.first(&signal.variables("ENDPOINT"));
        let (variable, mut url) = set.unwrap_or_else(|| (general, "http://localhost:4317".to_owned()));
        if !url.contains("://") {
            url = format!("{}://{url}", if insecure { "http" } else { "https" });
        }
        self.url(signal, variable, &url)
    }

    fn url(&mut self, signal: OtelSignal, variable: String, url: &str) -> Option<Url> {
        let url = Url::parse(url, SCHEMES);
        url.map_err(|flaw| self.problems.push(VariableProblem::NotAUrl { signal, variable, flaw })).ok()
    }

    /// To go without the proxy could lead where the operator does not want it: then nothing is pushed.
    fn proxy(&mut self, signal: OtelSignal, url: &Url) -> Result<Option<Proxy>, ()> {
        let proxy = proxy::for_url(self.env, url);
        proxy.map_err(|source| self.problems.push(VariableProblem::NotAProxy { signal, source }))
    }

    fn headers(&mut self, signal: OtelSignal) -> Headers {
        let Some((variable, list)) = self.first(&signal.variables("HEADERS")) else { return Headers::default() };
        let mut headers = HeaderMap::new();
        for (index, entry) in list.split(',').enumerate().filter(|(_, entry)| !entry.trim().is_empty()) {
            let header = key_and_value(entry).and_then(|(name, value)| {
                let mut value = HeaderValue::from_str(&value).ok()?;
                value.set_sensitive(true);
                Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
            });
            let (variable, entry) = (variable.clone(), index + 1);
            match header {
                Some((name, _)) if is_the_exporters(&name) => {
                    self.problems.push(VariableProblem::NotTheOperators { variable, entry, name });
                }
                Some((name, value)) => drop(headers.insert(name, value)),
                None => self.problems.push(VariableProblem::NotAHeader { variable, entry }),
            }
        }
        Headers(headers)
    }
}
