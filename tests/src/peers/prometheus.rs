//! A real Prometheus that scrapes workers, and promtool.
// Looking into Prometheus' own JSON by name is no look outside.
#![allow(clippy::indexing_slicing)]

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Peer, service::Service, ticks::Ticks};
use crate::{BOUND, metrics::Labels, worker::http_get};

/// How often each worker is scraped: between two scrapes no answer changes.
const INTERVAL: Duration = Duration::from_millis(200);

/// One series of an answer, and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its labels, `__name__` included.
    pub labels: Labels,
    pub value: f64,
}

pub struct Prometheus {
    _service: Service,
    _dir: TempDir,
    address: String,
    /// Scraped as often as the workers.
    ticks: Ticks,
}

impl Prometheus {
    /// Starts one that scrapes these workers five times a second. `None` when there is no Prometheus to be had.
    pub fn scraping(workers: &[String]) -> Option<Self> {
        Self::scraping_at("/metrics", workers)
    }

    /// The same for a Collector that workers push to: whose the metrics are is what the Collector says.
    pub fn scraping_collector(address: &str) -> Option<Self> {
        let targets = json!([{"targets": [address]}]);
        Self::with(&json!({"job_name": "collector", "honor_labels": true, "static_configs": targets}))
    }

    /// The same for workers whose metrics are at this path.
    pub fn scraping_at(path: &str, workers: &[String]) -> Option<Self> {
        let targets = json!([{"targets": workers}]);
        Self::with(&json!({"job_name": "oz-agent-worker", "metrics_path": path, "static_configs": targets}))
    }

    fn with(scrape: &Value) -> Option<Self> {
        let program = Peer::Prometheus.programs()?.first()?;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ticks = Ticks::start();
        let interval = format!("{}ms", INTERVAL.as_millis());
        let config = json!({
            "global": {"scrape_interval": interval, "scrape_timeout": interval},
            "scrape_configs": [scrape, {"job_name": "ticks", "static_configs": [{"targets": [ticks.address()]}]}],
        });
        let file = dir.path().join("prometheus.yml");
        // JSON is YAML.
        fs::write(&file, config.to_string()).expect("one's own directory");
        let service = start(program, &file, &dir.path().join("data"));
        let line = service.wait_for_line("msg=\"Listening on\"");
        let (_, address) = line.rsplit_once("address=").unwrap_or_else(|| panic!("no address in {line:?}"));
        let address = address.to_owned();
        service.wait_for_line("Server is ready to receive web requests");
        Some(Self { _service: service, _dir: dir, address, ticks })
    }

    /// What a `PromQL` query answers now.
    pub fn query(&self, query: &str) -> Vec<Sample> {
        let encoded = utf8_percent_encode(query, NON_ALPHANUMERIC);
        let (status, body) = http_get(&self.address, &format!("/api/v1/query?query={encoded}"));
        assert_eq!(status, 200, "{query}: {body}");
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{query}: {error}: {body}"));
        assert_eq!(answer["status"], "success", "{query}: {body}");
        assert_eq!(answer["data"]["resultType"], "vector", "{query}: {body}");
        let samples = answer["data"]["result"].as_array().into_iter().flatten().map(sample);
        samples.map(|sample| sample.unwrap_or_else(|| panic!("{query}: {body}"))).collect()
    }

    /// The one value that a query answers. `None` when it answers nothing.
    pub fn value(&self, query: &str) -> Option<f64> {
        let answer = self.query(query);
        assert!(answer.len() <= 1, "{query} answers more than one value: {answer:#?}");
        answer.first().map(|sample| sample.value)
    }

    /// Asks until the answer is as wanted, and gives it; once more whenever everything was scraped once more.
    pub fn wait_for(&self, query: &str, is_wanted: impl Fn(&[Sample]) -> bool) -> Vec<Sample> {
        let deadline = Instant::now() + BOUND;
        loop {
            let seen = self.ticks.count();
            let answer = self.query(query);
            if is_wanted(&answer) {
                return answer;
            }
            assert!(self.ticks.wait_beyond(seen, deadline), "{query} still answers {answer:#?}");
        }
    }

    /// Asks until the one value of the answer is this.
    pub fn wait_for_value(&self, query: &str, value: f64) {
        self.wait_for(query, |answer| matches!(answer, [sample] if (sample.value - value).abs() < 1e-9));
    }
}

fn start(program: &Path, config: &Path, data: &Path) -> Service {
    let mut command = Command::new(program);
    command.arg("--config.file").arg(config).arg("--storage.tsdb.path").arg(data);
    command.args(["--web.listen-address", "127.0.0.1:0", "--log.level", "info"]);
    Service::start("Prometheus", &mut command)
}

/// `{"metric": {…}, "value": [time, "1.5"]}`
fn sample(json: &Value) -> Option<Sample> {
    let labels = json["metric"].as_object()?.iter();
    let labels: Option<Labels> = labels.map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect();
    Some(Sample { labels: labels?, value: json["value"][1].as_str()?.parse().ok()? })
}

/// What `promtool check metrics` says about a scrape: whether it is satisfied, and every line. `None` when there is no
/// promtool to be had.
pub fn check_metrics(scrape: &str) -> Option<(bool, Vec<String>)> {
    let program = Peer::Prometheus.programs()?.get(1)?;
    let mut command = Command::new(program);
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool starts");
    // Dropped after the write: the end of its input.
    child.stdin.take().expect("a pipe").write_all(scrape.as_bytes()).expect("promtool reads");
    let ended = child.wait_with_output().expect("an own child");
    let said = [ended.stdout, ended.stderr].concat();
    Some((ended.status.success(), String::from_utf8_lossy(&said).lines().map(str::to_owned).collect()))
}
