//! The `otlp` exporter against a collector on a real socket: what arrives, outages, and the last export.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
#![allow(clippy::float_cmp, reason = "the values are small whole numbers and halves")]

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::net::TcpListener;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Log, PATIENCE, env, identity, scrape, series};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{HistogramDataPoint, NumberDataPoint};
use oz_worker_core::metrics::{MetricEvent, RejectReason, TaskResult};
use oz_worker_telemetry::start;
use prost::Message;

/// A collector that answers with the statuses it was given and then 200, and hands over what it was sent.
struct Collector {
    url: String,
    statuses: Arc<Mutex<VecDeque<u16>>>,
    received: Receiver<Post>,
}

struct Post {
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Collector {
    fn start(statuses: &[u16]) -> Self {
        let server = tiny_http::Server::http("127.0.0.1:0").unwrap();
        let url = format!("http://{}", server.server_addr());
        let statuses = Arc::new(Mutex::new(statuses.iter().copied().collect::<VecDeque<u16>>()));
        let (sender, received) = mpsc::channel();
        let script = Arc::clone(&statuses);
        thread::spawn(move || {
            while let Ok(mut request) = server.recv() {
                let mut body = Vec::new();
                request.as_reader().read_to_end(&mut body).unwrap();
                let header = |header: &tiny_http::Header| {
                    (header.field.as_str().as_str().to_ascii_lowercase(), header.value.to_string())
                };
                let headers = request.headers().iter().map(header).collect();
                let post = Post { path: request.url().to_owned(), headers, body };
                let status = script.lock().unwrap().pop_front().unwrap_or(200);
                let _ = request.respond(tiny_http::Response::empty(status));
                if sender.send(post).is_err() {
                    break;
                }
            }
        });
        Self { url, statuses, received }
    }

    fn next(&self) -> Post {
        self.received.recv_timeout(PATIENCE).unwrap()
    }
}

impl Post {
    fn decode(&self) -> Export {
        let request = ExportMetricsServiceRequest::decode(self.body.as_slice()).unwrap();
        assert_eq!(request.resource_metrics.len(), 1);
        let resource = request.resource_metrics.into_iter().next().unwrap();
        let mut export = Export { resource: text(&resource.resource.unwrap().attributes), ..Export::default() };
        for metric in resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
            let points = match metric.data.unwrap() {
                Data::Gauge(gauge) => gauge.data_points,
                Data::Sum(sum) => sum.data_points,
                Data::Histogram(histogram) => {
                    export.histogram.extend(histogram.data_points);
                    continue;
                }
                other => panic!("{other:?}"),
            };
            export
                .numbers
                .extend(points.iter().map(|point| ((metric.name.clone(), text(&point.attributes)), number(point))));
        }
        export
    }
}

#[derive(Default)]
struct Export {
    resource: BTreeMap<String, String>,
    numbers: BTreeMap<common::Series, i64>,
    histogram: Vec<HistogramDataPoint>,
}

fn text(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let value = |attribute: &KeyValue| match attribute.value.clone().unwrap().value.unwrap() {
        Value::StringValue(text) => text,
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), value(attribute))).collect()
}

fn number(point: &NumberDataPoint) -> i64 {
    match point.value.unwrap() {
        Number::AsInt(number) => number,
        Number::AsDouble(number) => panic!("{number}"),
    }
}

/// Variables that push to `url` every `interval` milliseconds.
fn pushing<'a>(url: &'a str, interval: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url),
        ("OTEL_METRIC_EXPORT_INTERVAL", interval),
        // Shorter than the wait before a retry, so that one export is one request.
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "400"),
    ]
}

#[test]
fn an_export_holds_every_series_and_who_it_is_from() {
    let collector = Collector::start(&[]);
    let mut variables = pushing(&collector.url, "20");
    variables.push(("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=a%20b"));
    variables.push(("OTEL_RESOURCE_ATTRIBUTES", "team=blue"));
    let (_, telemetry) = start(&identity(), env(&variables));
    let post = collector.next();
    assert_eq!(post.path, "/v1/metrics");
    assert_eq!(post.headers["content-type"], "application/x-protobuf");
    assert_eq!(post.headers["x-tenant"], "a b");
    let export = post.decode();
    for (key, value) in [("service.name", "oz-agent-worker"), ("worker.id", "w1"), ("team", "blue")] {
        assert_eq!(export.resource[key], value);
    }
    let count = |name: &str| export.numbers.keys().filter(|(series, _)| series == name).count();
    assert_eq!(count("oz_worker_task_failures_total"), 87);
    assert_eq!(export.numbers[&series("oz_worker_tasks_active", &[])], 0);
    assert_eq!(export.numbers[&series("oz_worker_tasks_max_concurrent", &[])], 1);
    assert_eq!(export.histogram.len(), TaskResult::ALL.len());
    for point in &export.histogram {
        assert_eq!((point.count, point.bucket_counts.len()), (0, 17));
        assert_eq!((point.min, point.max), (None, None));
    }
    telemetry.shutdown(PATIENCE);
}

#[test]
fn an_export_is_gzipped_when_that_is_asked_for() {
    let collector = Collector::start(&[]);
    let mut variables = pushing(&collector.url, "20");
    variables.push(("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"));
    let (_, telemetry) = start(&identity(), env(&variables));
    let mut post = collector.next();
    assert_eq!(post.headers["content-encoding"], "gzip");
    let mut body = Vec::new();
    flate2::read::GzDecoder::new(post.body.as_slice()).read_to_end(&mut body).unwrap();
    post.body = body;
    assert_eq!(post.decode().numbers[&series("oz_worker_connected", &[])], 0);
    telemetry.shutdown(PATIENCE);
}

#[test]
fn with_delta_temporality_counters_are_differences_and_gauges_are_always_there() {
    let collector = Collector::start(&[]);
    let mut variables = pushing(&collector.url, "20");
    variables.push(("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"));
    let (recorder, telemetry) = start(&identity(), env(&variables));
    let rejected = series("oz_worker_tasks_rejected_total", &[("reason", "at_capacity")]);
    let mut total = 0;
    for _ in 0..3 {
        recorder.record(MetricEvent::TaskRejected(RejectReason::AtCapacity));
        let export = collector.next().decode();
        assert_eq!(export.numbers[&series("oz_worker_tasks_max_concurrent", &[])], 1);
        total += export.numbers.get(&rejected).copied().unwrap_or_default();
    }
    telemetry.shutdown(PATIENCE);
    total +=
        collector.received.try_iter().filter_map(|post| post.decode().numbers.get(&rejected).copied()).sum::<i64>();
    assert_eq!(total, 3);
}

#[test]
fn an_outage_is_one_warning_when_it_begins_and_one_line_when_it_is_over() {
    let log = Log::capture();
    let collector = Collector::start(&[503; 5]);
    let (_, telemetry) = start(&identity(), env(&pushing(&collector.url, "20")));
    for _ in 0..5 {
        collector.next();
    }
    log.wait_for(&[&collector.url, "again", "INFO"]);
    // A second outage is told again.
    collector.statuses.lock().unwrap().extend([400, 400]);
    while !collector.statuses.lock().unwrap().is_empty() {
        collector.next();
    }
    log.wait_for(&[&collector.url, "HTTP 400"]);
    telemetry.shutdown(PATIENCE);

    let lines = log.lines_with(&collector.url);
    assert_eq!(lines.len(), 4, "{lines:#?}");
    for (line, parts) in
        lines.iter().zip([["WARN", "HTTP 503"], ["INFO", "again"], ["WARN", "HTTP 400"], ["INFO", "again"]])
    {
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
    assert_eq!(log.lines_with("opentelemetry"), [""; 0], "the SDK must not log on its own");
}

#[test]
fn a_collector_that_is_not_there_is_one_warning_with_the_cause() {
    let log = Log::capture();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let (_, telemetry) = start(&identity(), env(&pushing(&url, "20")));
    let line = log.wait_for(&[&url]);
    assert!(line.contains("WARN") && line.contains("refused"), "{line}");
    telemetry.shutdown(PATIENCE);
    assert_eq!(log.lines_with(&url).len(), 1);
}

#[test]
fn a_last_export_on_exit_holds_the_last_event() {
    let collector = Collector::start(&[]);
    let (recorder, telemetry) = start(&identity(), env(&pushing(&collector.url, "3600000")));
    recorder.record(MetricEvent::TaskClaimed);
    telemetry.shutdown(PATIENCE);
    let export = collector.received.try_recv().unwrap().decode();
    assert_eq!(export.numbers[&series("oz_worker_tasks_claimed_total", &[])], 1);
    assert!(collector.received.try_recv().is_err());
}

#[test]
fn a_collector_that_never_answers_does_not_hold_up_the_exit() {
    let log = Log::capture();
    // Connections are taken by the kernel; nobody ever reads them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut variables = pushing(&url, "3600000");
    variables.retain(|(name, _)| *name != "OTEL_EXPORTER_OTLP_TIMEOUT");
    let (_, telemetry) = start(&identity(), env(&variables));
    let begin = Instant::now();
    telemetry.shutdown(Duration::from_millis(100));
    // The SDK alone would take 5 seconds, the request 10.
    assert!(begin.elapsed() < Duration::from_secs(4));
    log.wait_for(&["WARN", "the last export of metrics did not end in time"]);
}

#[test]
fn several_exporters_see_the_same_events() {
    let log = Log::capture();
    let collector = Collector::start(&[]);
    let mut variables = pushing(&collector.url, "20");
    variables[0] = ("OTEL_METRICS_EXPORTER", "prometheus,otlp");
    variables.push(("OTEL_EXPORTER_PROMETHEUS_PORT", "0"));
    let (recorder, telemetry) = start(&identity(), env(&variables));
    recorder.record(MetricEvent::Connected);
    let address = log.wait_for(&["metrics endpoint listening"]).rsplit_once("address=").unwrap().1.parse().unwrap();
    let connected = series("oz_worker_connected", &[]);
    assert_eq!(scrape(address).values[&connected], 1.0);
    let deadline = Instant::now() + PATIENCE;
    while collector.next().decode().numbers[&connected] != 1 {
        assert!(Instant::now() < deadline);
    }
    telemetry.shutdown(PATIENCE);
}
