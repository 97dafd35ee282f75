//! The variables of OTLP: where and how one signal is pushed. The signal's own variable wins over the general one.

use std::fmt;
use std::time::Duration;

use ureq::http::{HeaderMap, HeaderName, HeaderValue, Uri};

use crate::problem::Problem;
use crate::settings::reader::{Reader, key_and_value};

/// Default of `OTEL_EXPORTER_OTLP_TIMEOUT` (OpenTelemetry specification, "OTLP exporter").
const OTLP_TIMEOUT: Duration = Duration::from_secs(10);
/// Default of `OTEL_METRIC_EXPORT_TIMEOUT` and `OTEL_BSP_EXPORT_TIMEOUT` (the same, SDK environment variables).
const EXPORT_TIMEOUT: Duration = Duration::from_secs(30);

/// What is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Metrics,
    Traces,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Metrics => "metrics",
            Self::Traces => "traces",
        })
    }
}

impl Signal {
    pub(crate) fn exporter_variable(self) -> &'static str {
        match self {
            Self::Metrics => "OTEL_METRICS_EXPORTER",
            Self::Traces => "OTEL_TRACES_EXPORTER",
        }
    }

    /// The signal's own variable of an option, and the general one.
    fn variables(self, option: &str) -> [String; 2] {
        let own = match self {
            Self::Metrics => "METRICS",
            Self::Traces => "TRACES",
        };
        [format!("OTEL_EXPORTER_OTLP_{own}_{option}"), format!("OTEL_EXPORTER_OTLP_{option}")]
    }
}

/// How a message is written and carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Protocol {
    #[default]
    HttpProtobuf,
    HttpJson,
}

/// What a message is packed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Compression {
    #[default]
    None,
    Gzip,
}

/// Where and how one signal is pushed.
#[derive(Debug)]
pub(crate) struct Otlp {
    pub(crate) signal: Signal,
    pub(crate) protocol: Protocol,
    /// The whole URL, path included.
    pub(crate) endpoint: Uri,
    /// Secrets, all of them: their type shows their names only.
    pub(crate) headers: Headers,
    /// Bound on one export, its retries included.
    pub(crate) timeout: Duration,
    pub(crate) compression: Compression,
}

/// Headers that are shown by name only.
#[derive(Clone, Default)]
pub(crate) struct Headers(pub(crate) HeaderMap);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Reader<'_> {
    /// `None` when nothing can be pushed the way that is asked for.
    pub(super) fn otlp(&mut self, signal: Signal) -> Option<Otlp> {
        let protocols = [("http/protobuf", Protocol::HttpProtobuf), ("http/json", Protocol::HttpJson)];
        let protocol = self.choice(&signal.variables("PROTOCOL"), &protocols);
        let endpoint = self.endpoint(signal)?;
        let timeout = self.milliseconds(&signal.variables("TIMEOUT"), OTLP_TIMEOUT);
        let export_timeout = match signal {
            Signal::Metrics => "OTEL_METRIC_EXPORT_TIMEOUT",
            Signal::Traces => "OTEL_BSP_EXPORT_TIMEOUT",
        };
        let compressions = [("none", Compression::None), ("gzip", Compression::Gzip)];
        Some(Otlp {
            signal,
            protocol,
            endpoint,
            headers: self.headers(signal),
            timeout: timeout.min(self.milliseconds(&[export_timeout], EXPORT_TIMEOUT)),
            compression: self.choice(&signal.variables("COMPRESSION"), &compressions),
        })
    }

    /// The signal's own variable is the whole URL; the general one is a base, to which the signal's path is added.
    fn endpoint(&mut self, signal: Signal) -> Option<Uri> {
        let [own, general] = signal.variables("ENDPOINT");
        let (variable, url) = match (self.get(&own), self.get(&general)) {
            (Some(url), _) => (own, url),
            (None, base) => {
                let base = base.unwrap_or_else(|| "http://localhost:4318".to_owned());
                (general, format!("{}/v1/{signal}", base.trim_end_matches('/')))
            }
        };
        let endpoint = url.parse().ok().filter(|uri: &Uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
        });
        if endpoint.is_none() {
            self.problems.push(Problem::NotAUrl { signal, variable });
        }
        endpoint
    }

    fn headers(&mut self, signal: Signal) -> Headers {
        let Some((variable, list)) = self.first(&signal.variables("HEADERS")) else { return Headers::default() };
        let mut headers = HeaderMap::new();
        for (index, entry) in list.split(',').enumerate().filter(|(_, entry)| !entry.trim().is_empty()) {
            let header = key_and_value(entry).and_then(|(name, value)| {
                let value = HeaderValue::from_str(&value).ok()?;
                Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
            });
            match header {
                Some((name, value)) => drop(headers.insert(name, value)),
                None => self.problems.push(Problem::NotAHeader { variable: variable.clone(), entry: index + 1 }),
            }
        }
        Headers(headers)
    }
}
