//! What the suites share: an identity, settings, an HTTP client of a few lines, scrapes as maps, and the log.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
#![allow(dead_code, reason = "every suite is a crate of its own and uses a part of this")]

pub mod certificates;
pub mod collector;
pub mod export;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use oz_worker_telemetry::{Identity, Recorder, Telemetry, TelemetrySettings};
use tracing_subscriber::fmt::MakeWriter;

/// The most any wait takes before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn identity() -> Identity {
    Identity {
        version: "dev".to_owned(),
        worker_id: "w1".to_owned(),
        backend: "direct".to_owned(),
        max_concurrent_tasks: 1,
        host_name: "host-1".to_owned(),
        status_page: true,
    }
}

/// Telemetry as these variables ask for it.
pub fn start(env: impl Fn(&str) -> Option<String>) -> (Recorder, Telemetry) {
    Telemetry::builder(identity()).settings(TelemetrySettings::read(env)).start()
}

/// An environment of these variables and no others.
pub fn env(variables: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> + use<> {
    let variables: BTreeMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    move |name| variables.get(name).cloned()
}

/// Everything this process has logged, one entry per line, at any level and from any crate.
#[derive(Clone, Default)]
pub struct Log(Arc<(Mutex<Vec<u8>>, Condvar)>);

impl Log {
    /// Starts to listen, once per process: the SDK logs on threads of its own.
    pub fn capture() -> Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        LOG.get_or_init(|| {
            let log = Self::default();
            tracing_subscriber::fmt()
                .with_writer(log.clone())
                .with_ansi(false)
                .with_max_level(tracing::Level::TRACE)
                .init();
            log
        })
        .clone()
    }

    pub fn lines_with(&self, text: &str) -> Vec<String> {
        lines_with(&self.0.0.lock().unwrap(), &[text])
    }

    /// Waits for a line that contains all of `texts`.
    pub fn wait_for(&self, texts: &[&str]) -> String {
        let (bytes, written) = &*self.0;
        let none = |bytes: &mut Vec<u8>| lines_with(bytes, texts).is_empty();
        let (bytes, waited) = written.wait_timeout_while(bytes.lock().unwrap(), PATIENCE, none).unwrap();
        assert!(!waited.timed_out(), "no line with {texts:?}");
        lines_with(&bytes, texts).swap_remove(0)
    }
}

fn lines_with(bytes: &[u8], texts: &[&str]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().filter(|line| texts.iter().all(|text| line.contains(text)));
    lines.map(ToOwned::to_owned).collect()
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.0.lock().unwrap().extend_from_slice(bytes);
        self.0.1.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

pub struct Answer {
    pub head: String,
    pub body: Vec<u8>,
}

/// Sends the only request of a connection and reads until the server closes.
pub fn request(address: SocketAddr, method: &str, target: &str, headers: &str) -> Answer {
    let mut stream = connect(address);
    stream
        .write_all(format!("{method} {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n").as_bytes())
        .unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let (head, body) = bytes.split_at(end);
    Answer { head: String::from_utf8(head.to_vec()).unwrap(), body: body.to_vec() }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A worker's telemetry with an endpoint on a port of its own.
pub struct Endpoint {
    pub recorder: Recorder,
    pub telemetry: Telemetry,
    pub address: SocketAddr,
}

impl Endpoint {
    /// Starts it on an address of 127.0.0.0/8 that no other test uses, by which its line in the log is found.
    pub fn start(host: &str) -> Self {
        let log = Log::capture();
        let variables = [
            ("OTEL_METRICS_EXPORTER", "prometheus"),
            ("OTEL_EXPORTER_PROMETHEUS_HOST", host),
            ("OTEL_EXPORTER_PROMETHEUS_PORT", "0"),
        ];
        let (recorder, telemetry) = start(env(&variables));
        let lines = log.lines_with(&format!("metrics endpoint listening address={host}:"));
        assert_eq!(lines.len(), 1, "{lines:?}");
        let address = lines.first().unwrap().rsplit_once("address=").unwrap().1.parse().unwrap();
        Self { recorder, telemetry, address }
    }

    pub fn scrape(&self) -> Scrape {
        scrape(self.address)
    }

    pub fn stop(self) {
        self.telemetry.shutdown(PATIENCE);
    }
}

/// A series: its name, and its labels but for those of the scope.
pub type Series = (String, BTreeMap<String, String>);

/// A scrape: the type of every family, and the value of every series.
pub struct Scrape {
    pub types: BTreeMap<String, String>,
    pub values: BTreeMap<Series, f64>,
}

pub fn scrape(address: SocketAddr) -> Scrape {
    let answer = request(address, "GET", "/metrics", "");
    assert!(answer.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", answer.head);
    let mut scrape = Scrape { types: BTreeMap::new(), values: BTreeMap::new() };
    for line in String::from_utf8(answer.body).unwrap().lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap();
            assert!(scrape.types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(scrape.values.insert(parse_series(series), value.parse().unwrap()).is_none(), "{series} twice");
        }
    }
    scrape
}

/// Reads `name{key="value",…}`; no value of these suites has a quote or a comma.
fn parse_series(text: &str) -> Series {
    let Some((name, labels)) = text.split_once('{') else { return (text.to_owned(), BTreeMap::new()) };
    let labels = labels.strip_suffix('}').unwrap().split(',').map(|label| {
        let (key, value) = label.split_once('=').unwrap();
        (key.to_owned(), value.trim_matches('"').to_owned())
    });
    (name.to_owned(), labels.filter(|(key, _)| !key.starts_with("otel_scope")).collect())
}

pub fn series(name: &str, labels: &[(&str, &str)]) -> Series {
    (name.to_owned(), labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}

/// Variables that push to `url` every `interval` milliseconds.
pub fn pushing<'a>(url: &'a str, interval: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url),
        ("OTEL_METRIC_EXPORT_INTERVAL", interval),
        // Shorter than the wait before a retry, so that one export is one request.
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "400"),
    ]
}
