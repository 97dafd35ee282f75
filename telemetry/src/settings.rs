//! What the OpenTelemetry environment variables ask for. An empty variable counts as unset, as the specification says.

use std::collections::HashMap;
use std::time::Duration;

use opentelemetry_sdk::metrics::Temporality;
use percent_encoding::percent_decode_str;
use ureq::http::{HeaderName, HeaderValue, Uri};

use crate::problem::Problem;

/// Default of `OTEL_METRIC_EXPORT_INTERVAL` (OpenTelemetry specification, SDK environment variables).
const INTERVAL: Duration = Duration::from_secs(60);
/// Default of `OTEL_METRIC_EXPORT_TIMEOUT` (the same place).
const EXPORT_TIMEOUT: Duration = Duration::from_secs(30);
/// Default of `OTEL_EXPORTER_OTLP_TIMEOUT` (OpenTelemetry specification, "OTLP exporter").
const OTLP_TIMEOUT: Duration = Duration::from_secs(10);
/// Default of `OTEL_EXPORTER_PROMETHEUS_PORT` (OpenTelemetry specification, "Prometheus exporter").
const PROMETHEUS_PORT: u16 = 9464;

/// Which exporters run, and how.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub(crate) prometheus: Option<Prometheus>,
    pub(crate) console: bool,
    pub(crate) otlp: Option<Otlp>,
    /// Time between two exports of `console` and `otlp`.
    pub(crate) interval: Duration,
}

/// Where `/metrics` is served.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Prometheus {
    pub(crate) host: String,
    /// 0 lets the operating system choose.
    pub(crate) port: u16,
}

/// Where and how metrics are pushed.
#[derive(Debug)]
pub(crate) struct Otlp {
    /// The whole URL, path included.
    pub(crate) endpoint: Uri,
    pub(crate) headers: HashMap<String, String>,
    /// Bound on one export, its retries included.
    pub(crate) timeout: Duration,
    pub(crate) gzip: bool,
    pub(crate) temporality: Temporality,
}

impl Settings {
    /// Reads the variables through `env`; whatever is wrong with one is in the list, and its default in the settings.
    pub(crate) fn read(env: &dyn Fn(&str) -> Option<String>) -> (Self, Vec<Problem>) {
        let mut reader = Reader { env, problems: Vec::new() };
        let settings = if reader.sdk_disabled() { Self::default() } else { reader.settings() };
        (settings, reader.problems)
    }

    /// Whether any exporter is asked for.
    pub(crate) fn exports(&self) -> bool {
        self.prometheus.is_some() || self.console || self.otlp.is_some()
    }
}

/// The value of a variable, `None` when it is unset or blank.
pub(crate) fn variable(env: &dyn Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

struct Reader<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn get(&self, name: &str) -> Option<String> {
        variable(self.env, name)
    }

    /// The first of these variables that is set, with its name.
    fn first(&self, names: &[&'static str]) -> Option<(&'static str, String)> {
        names.iter().find_map(|name| self.get(name).map(|value| (*name, value)))
    }

    fn sdk_disabled(&mut self) -> bool {
        match self.get("OTEL_SDK_DISABLED") {
            Some(value) if value.eq_ignore_ascii_case("true") => true,
            Some(value) if !value.eq_ignore_ascii_case("false") => {
                self.problems.push(Problem::NotABoolean { value });
                false
            }
            _ => false,
        }
    }

    fn settings(&mut self) -> Settings {
        let exporters = self.get("OTEL_METRICS_EXPORTER").unwrap_or_else(|| "otlp".to_owned());
        let mut settings = Settings::default();
        let mut push = false;
        for exporter in exporters.split(',').map(str::trim).filter(|exporter| !exporter.is_empty()) {
            match exporter.to_ascii_lowercase().as_str() {
                "prometheus" => settings.prometheus = Some(self.prometheus()),
                "console" => settings.console = true,
                "otlp" => push = true,
                "none" => {}
                _ => self.problems.push(Problem::UnknownExporter { value: exporter.to_owned() }),
            }
        }
        if push {
            settings.otlp = self.otlp();
        }
        if settings.console || settings.otlp.is_some() {
            settings.interval = self.milliseconds(&["OTEL_METRIC_EXPORT_INTERVAL"], INTERVAL);
        }
        settings
    }

    fn prometheus(&mut self) -> Prometheus {
        let host = self.get("OTEL_EXPORTER_PROMETHEUS_HOST").unwrap_or_else(|| "localhost".to_owned());
        let port = match self.get("OTEL_EXPORTER_PROMETHEUS_PORT") {
            None => PROMETHEUS_PORT,
            Some(value) => value.parse().unwrap_or_else(|_| {
                self.problems.push(Problem::NotAPort { value, instead: PROMETHEUS_PORT });
                PROMETHEUS_PORT
            }),
        };
        Prometheus { host, port }
    }

    /// `None` when metrics cannot be pushed the way that is asked for.
    fn otlp(&mut self) -> Option<Otlp> {
        self.check_protocol()?;
        let endpoint = self.endpoint()?;
        let timeout =
            self.milliseconds(&["OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"], OTLP_TIMEOUT);
        let export_timeout = self.milliseconds(&["OTEL_METRIC_EXPORT_TIMEOUT"], EXPORT_TIMEOUT);
        Some(Otlp {
            endpoint,
            headers: self.headers(),
            timeout: timeout.min(export_timeout),
            gzip: self.gzip(),
            temporality: self.temporality(),
        })
    }

    fn check_protocol(&mut self) -> Option<()> {
        let set = self.first(&["OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]);
        let Some((variable, value)) = set else { return Some(()) };
        match value.to_ascii_lowercase().as_str() {
            "http/protobuf" => return Some(()),
            "grpc" | "http/json" => self.problems.push(Problem::UnsupportedProtocol { variable, value }),
            _ => self.problems.push(Problem::UnknownProtocol { variable, value }),
        }
        None
    }

    /// The signal's own variable is the whole URL; the general one is a base, to which the signal's path is added.
    fn endpoint(&mut self) -> Option<Uri> {
        const SIGNAL: &str = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT";
        const GENERAL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let (variable, url) = match self.first(&[SIGNAL, GENERAL]) {
            Some((SIGNAL, url)) => (SIGNAL, url),
            Some((_, base)) => (GENERAL, format!("{}/v1/metrics", base.trim_end_matches('/'))),
            None => (GENERAL, "http://localhost:4318/v1/metrics".to_owned()),
        };
        let endpoint = url.parse().ok().filter(|uri: &Uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
        });
        if endpoint.is_none() {
            self.problems.push(Problem::NotAUrl { variable });
        }
        endpoint
    }

    fn headers(&mut self) -> HashMap<String, String> {
        let set = self.first(&["OTEL_EXPORTER_OTLP_METRICS_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"]);
        let Some((variable, list)) = set else { return HashMap::new() };
        let mut headers = HashMap::new();
        for (index, entry) in list.split(',').enumerate().filter(|(_, entry)| !entry.trim().is_empty()) {
            let header = key_and_value(entry).filter(|(name, value)| {
                HeaderName::from_bytes(name.as_bytes()).is_ok() && HeaderValue::from_str(value).is_ok()
            });
            match header {
                Some((name, value)) => drop(headers.insert(name, value)),
                None => self.problems.push(Problem::NotAHeader { variable, entry: index + 1 }),
            }
        }
        headers
    }

    fn gzip(&mut self) -> bool {
        match self.first(&["OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"]) {
            Some((_, value)) if value.eq_ignore_ascii_case("gzip") => true,
            Some((variable, value)) if !value.eq_ignore_ascii_case("none") => {
                self.problems.push(Problem::UnsupportedCompression { variable, value });
                false
            }
            _ => false,
        }
    }

    fn temporality(&mut self) -> Temporality {
        let variable = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        let Some(value) = self.get(variable) else { return Temporality::Cumulative };
        match value.to_ascii_lowercase().as_str() {
            "cumulative" => Temporality::Cumulative,
            // The two differ only for observable counters, of which there are none, and for gauges: `Delta` makes the
            // SDK leave out a gauge that was not set since the last export, and `oz_worker_info` is set once.
            "delta" | "lowmemory" => Temporality::LowMemory,
            _ => {
                self.problems.push(Problem::UnknownTemporality { variable, value });
                Temporality::Cumulative
            }
        }
    }

    /// The time in the first of `variables` that is set, or `default` when none is, or it is not a time.
    fn milliseconds(&mut self, variables: &[&'static str], default: Duration) -> Duration {
        let Some((variable, value)) = self.first(variables) else { return default };
        match value.parse() {
            Ok(milliseconds) if milliseconds > 0 => Duration::from_millis(milliseconds),
            _ => {
                self.problems.push(Problem::NotMilliseconds { variable, value, instead: default });
                default
            }
        }
    }
}

/// Splits `key=value`, as lists in OpenTelemetry variables have it: blanks trimmed, both sides percent-decoded.
pub(crate) fn key_and_value(entry: &str) -> Option<(String, String)> {
    let (key, value) = entry.split_once('=')?;
    let decode = |text: &str| percent_decode_str(text.trim()).decode_utf8().ok().map(std::borrow::Cow::into_owned);
    let (key, value) = (decode(key)?, decode(value)?);
    (!key.is_empty()).then_some((key, value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    fn read(variables: &[(&str, &str)]) -> (Settings, Vec<String>) {
        let env = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let (settings, problems) = Settings::read(&env);
        (settings, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn pushes_to_the_local_collector_when_nothing_is_set() {
        for variables in [&[][..], &[("OTEL_METRICS_EXPORTER", "")], &[("OTEL_METRICS_EXPORTER", " ")]] {
            let (settings, problems) = read(variables);
            let otlp = settings.otlp.unwrap();
            assert_eq!(otlp.endpoint, "http://localhost:4318/v1/metrics");
            assert_eq!(otlp.timeout, Duration::from_secs(10));
            assert_eq!(settings.interval, Duration::from_secs(60));
            assert!(settings.prometheus.is_none() && !settings.console && problems.is_empty());
        }
    }

    #[test]
    fn runs_every_exporter_of_a_list() {
        let (settings, problems) = read(&[("OTEL_METRICS_EXPORTER", "prometheus, OTLP,console,")]);
        assert_eq!(settings.prometheus, Some(Prometheus { host: "localhost".to_owned(), port: 9464 }));
        assert!(settings.otlp.is_some() && settings.console && problems.is_empty());
    }

    #[test]
    fn none_and_a_disabled_sdk_export_nothing() {
        for variables in [[("OTEL_METRICS_EXPORTER", "none")], [("OTEL_SDK_DISABLED", "True")]] {
            let (settings, problems) = read(&variables);
            assert!(!settings.exports() && problems.is_empty());
        }
    }

    #[test]
    fn an_unknown_exporter_is_named_with_the_accepted_ones_and_the_others_run() {
        let (settings, problems) = read(&[("OTEL_METRICS_EXPORTER", "prometheus,statsd")]);
        assert!(settings.prometheus.is_some());
        assert_eq!(problems.len(), 1);
        for word in ["\"statsd\"", "otlp", "prometheus", "console", "none", "OTEL_METRICS_EXPORTER"] {
            assert!(problems[0].contains(word), "{problems:?}");
        }
        let (settings, problems) = read(&[("OTEL_METRICS_EXPORTER", "statsd")]);
        assert!(!settings.exports());
        assert_eq!(problems.len(), 1);
    }

    #[test]
    fn a_protocol_that_is_not_there_yet_is_one_problem_and_no_push() {
        for protocol in ["grpc", "http/json", "carrier-pigeon"] {
            let (settings, problems) = read(&[("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)]);
            assert!(settings.otlp.is_none());
            assert_eq!(problems.len(), 1);
            assert!(problems[0].contains(protocol) && problems[0].contains("http/protobuf"), "{problems:?}");
        }
        let protocols =
            [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf")];
        assert!(read(&protocols).0.otlp.is_some());
    }

    #[test]
    fn the_general_endpoint_is_a_base_and_the_metrics_endpoint_a_whole_url() {
        let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");
        assert_eq!(read(&[general]).0.otlp.unwrap().endpoint, "http://collector:4318/v1/metrics");
        let own = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "https://other/ingest");
        assert_eq!(read(&[general, own]).0.otlp.unwrap().endpoint, "https://other/ingest");
    }

    #[test]
    fn a_bad_endpoint_is_named_but_not_shown() {
        for url in ["collector:4318", "ftp://collector", "http://user:hunter2@", "::"] {
            let (settings, problems) = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", url)]);
            assert!(settings.otlp.is_none(), "{url}");
            assert_eq!(problems.len(), 1);
            assert!(problems[0].contains("OTEL_EXPORTER_OTLP_ENDPOINT") && !problems[0].contains("hunter2"));
        }
    }

    #[test]
    fn headers_are_decoded_and_a_bad_one_is_counted_not_shown() {
        let list = "api-key=a%20b=c , nonsense,x\u{e9}=canary,,last=1";
        let (settings, problems) = read(&[("OTEL_EXPORTER_OTLP_HEADERS", list)]);
        let headers = settings.otlp.unwrap().headers;
        assert_eq!(headers.len(), 2);
        assert_eq!((headers["api-key"].as_str(), headers["last"].as_str()), ("a b=c", "1"));
        assert_eq!(problems.len(), 2);
        assert!(problems[0].contains("entry 2") && problems[1].contains("entry 3"));
        assert!(!problems.concat().contains("canary"));
    }

    #[test]
    fn a_bad_value_is_one_problem_and_its_default_is_used() {
        let (settings, problems) = read(&[
            ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
            ("OTEL_SDK_DISABLED", "yes"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1m"),
            ("OTEL_METRIC_EXPORT_TIMEOUT", "0"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "-5"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "sideways"),
            ("OTEL_EXPORTER_PROMETHEUS_PORT", "94640"),
        ]);
        assert_eq!(problems.len(), 7, "{problems:#?}");
        let otlp = settings.otlp.unwrap();
        assert_eq!((settings.interval, otlp.timeout), (Duration::from_secs(60), Duration::from_secs(10)));
        assert_eq!((otlp.gzip, otlp.temporality), (false, Temporality::Cumulative));
        assert_eq!(settings.prometheus.unwrap().port, 9464);
    }

    #[test]
    fn an_export_is_bounded_by_the_smaller_of_the_two_timeouts() {
        let otlp = [("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "1500")];
        assert_eq!(read(&otlp).0.otlp.unwrap().timeout, Duration::from_millis(1500));
        let export = [("OTEL_METRIC_EXPORT_TIMEOUT", "250")];
        assert_eq!(read(&export).0.otlp.unwrap().timeout, Duration::from_millis(250));
    }
}
