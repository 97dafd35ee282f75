//! The `otlp` exporter against a collector on a real socket: what arrives, over each protocol.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
#![allow(clippy::float_cmp, reason = "the values are small whole numbers and halves")]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::certificates::{Authority, Files};
use common::collector::Collector;
use common::export::text;
use common::{Log, PATIENCE, env, pushing, scrape, series, start};
use oz_worker_core::metrics::{MetricEvent, RejectReason, TaskResult};

/// Every protocol, and a collector that speaks it.
fn protocols() -> [(&'static str, Collector); 3] {
    [("http/protobuf", Collector::http(&[])), ("http/json", Collector::http(&[])), ("grpc", Collector::grpc(&[]))]
}

#[test]
fn an_export_holds_every_series_and_who_it_is_from_over_every_protocol() {
    for (protocol, collector) in protocols() {
        let mut variables = pushing(&collector.url, "20");
        variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", protocol));
        variables.push(("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=a%20b"));
        variables.push(("OTEL_RESOURCE_ATTRIBUTES", "team=blue"));
        let (_, telemetry) = start(env(&variables));
        let post = collector.next();
        let (path, content_type) = match protocol {
            "http/protobuf" => ("/v1/metrics", "application/x-protobuf"),
            "http/json" => ("/v1/metrics", "application/json"),
            _ => ("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export", "application/grpc"),
        };
        assert_eq!((post.path.as_str(), post.headers["content-type"].as_str()), (path, content_type));
        assert_eq!(post.headers["x-tenant"], "a b");
        assert!(post.headers["user-agent"].starts_with("oz-agent-worker/"));
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
}

#[test]
fn user_path_and_query_of_the_endpoint_are_those_of_every_request() {
    for (protocol, collector) in protocols() {
        let address = collector.url.trim_start_matches("http://");
        let url = format!("http://user%40x:p@{address}/otlp/?k=v%2F");
        let mut variables = pushing(&url, "3600000");
        variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", protocol));
        start(env(&variables)).1.shutdown(PATIENCE);
        let post = collector.next();
        let path = match protocol {
            "grpc" => "/otlp/opentelemetry.proto.collector.metrics.v1.MetricsService/Export?k=v%2F",
            _ => "/otlp/v1/metrics?k=v%2F",
        };
        // "user@x:p"
        assert_eq!((post.path.as_str(), post.headers["authorization"].as_str()), (path, "Basic dXNlckB4OnA="));
    }
}

#[test]
fn an_export_is_packed_as_asked_for_over_every_protocol() {
    for (protocol, collector) in protocols() {
        let header = if protocol == "grpc" { "grpc-encoding" } else { "content-encoding" };
        for (compression, encoding) in [("gzip", Some("gzip")), ("zstd", Some("zstd")), ("none", None)] {
            let mut variables = pushing(&collector.url, "3600000");
            variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", protocol));
            variables.push(("OTEL_EXPORTER_OTLP_COMPRESSION", compression));
            let (_, telemetry) = start(env(&variables));
            telemetry.shutdown(PATIENCE);
            let post = collector.next();
            assert_eq!(post.headers.get(header).map(String::as_str), encoding, "{protocol}");
            assert_eq!(post.decode().numbers[&series("oz_worker_connected", &[])], 0);
            assert!(encoding.is_none() || post.body.len() < 10_000, "{protocol}: {} bytes", post.body.len());
        }
    }
}

#[test]
fn each_side_proves_who_it_is_over_every_protocol() {
    let log = Log::capture();
    let authority = Authority::new();
    let own = authority.issue("worker");
    let other = Authority::new();
    let stranger = other.issue("stranger");
    for protocol in ["http/protobuf", "http/json", "grpc"] {
        let tls = authority.server();
        let collector = if protocol == "grpc" { Collector::grpc_tls(tls) } else { Collector::https(tls) };
        let push = |certificate: &str, client: Option<&Files>| {
            let mut variables = pushing(&collector.url, "3600000");
            variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", protocol));
            variables.push(("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "3000"));
            variables.push(("OTEL_EXPORTER_OTLP_CERTIFICATE", certificate));
            if let Some(files) = client {
                variables.push(("OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE", &files.certificate));
                variables.push(("OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", &files.key));
            }
            start(env(&variables)).1.shutdown(PATIENCE);
            collector.received.try_iter().map(|post| post.decode().numbers.len()).collect::<Vec<_>>()
        };
        assert_eq!(push(&authority.certificate(), Some(&own)), [103], "{protocol}");
        for (certificate, client) in [
            // Nobody we trust; nobody it trusts; nobody at all.
            ("", Some(&own)),
            (authority.certificate().as_str(), Some(&stranger)),
            (authority.certificate().as_str(), None),
        ] {
            assert_eq!(push(certificate, client), [0; 0], "{protocol}");
        }
        let outages = log.lines_with(&collector.url);
        assert_eq!(outages.len(), 3, "{outages:#?}");
        let causes = ["unknown issuer", "does not accept the client certificate", "asks for a client certificate"];
        for (outage, cause) in outages.iter().zip(causes) {
            assert!(outage.contains(cause), "{protocol}: {outages:#?}");
        }
    }
}

/// The collector says so after the handshake and hangs up: what it said must be found whether or not the request was
/// written by then. One push in two finds nobody to write to.
#[test]
fn who_shows_no_certificate_is_always_told_that_one_is_asked_for() {
    let log = Log::capture();
    let authority = Authority::new();
    let certificate = authority.certificate();
    for protocol in ["http/protobuf", "grpc"] {
        let tls = authority.server();
        let collector = if protocol == "grpc" { Collector::grpc_tls(tls) } else { Collector::https(tls) };
        let mut variables = pushing(&collector.url, "3600000");
        variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", protocol));
        variables.push(("OTEL_EXPORTER_OTLP_CERTIFICATE", &certificate));
        for _ in 0..10 {
            start(env(&variables)).1.shutdown(PATIENCE);
        }
        let outages = log.lines_with(&collector.url);
        assert_eq!(outages.len(), 10, "{outages:#?}");
        let told = outages.iter().filter(|line| line.contains("it asks for a client certificate")).count();
        assert_eq!(told, outages.len(), "{protocol}: {outages:#?}");
    }
}

#[test]
fn without_a_scheme_grpc_is_secure_unless_that_is_turned_off() {
    let collector = Collector::grpc(&[]);
    let address = collector.url.trim_start_matches("http://");
    for (insecure, arrives) in [("true", true), ("false", false), ("", false)] {
        let mut variables = pushing(address, "3600000");
        variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"));
        variables.push(("OTEL_EXPORTER_OTLP_INSECURE", insecure));
        start(env(&variables)).1.shutdown(PATIENCE);
        assert_eq!(collector.received.try_recv().is_ok(), arrives, "{insecure:?}");
    }
}

#[test]
fn with_delta_temporality_counters_are_differences_and_gauges_are_always_there() {
    for preference in ["delta", "lowmemory"] {
        let collector = Collector::http(&[]);
        let mut variables = pushing(&collector.url, "20");
        variables.push(("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", preference));
        let (recorder, telemetry) = start(env(&variables));
        let rejected = series("oz_worker_tasks_rejected_total", &[("reason", "at_capacity")]);
        let mut total = 0;
        for _ in 0..3 {
            recorder.record(MetricEvent::TaskRejected(RejectReason::AtCapacity));
            recorder.record(MetricEvent::TaskClaimed);
            let export = collector.next().decode();
            for gauge in ["oz_worker_tasks_max_concurrent", "oz_worker_connected", "oz_worker_tasks_active"] {
                assert!(export.numbers.contains_key(&series(gauge, &[])), "{gauge}");
            }
            assert!(export.numbers.keys().any(|(name, _)| name == "oz_worker_info"));
            for (name, temporality) in &export.temporalities {
                // An up-down counter is where it is, not how it moved.
                assert_eq!(*temporality, if name == "oz_worker_tasks_active" { 2 } else { 1 }, "{name}");
            }
            total += export.numbers.get(&rejected).copied().unwrap_or_default();
        }
        telemetry.shutdown(PATIENCE);
        let rest = collector.received.try_iter();
        total += rest.filter_map(|post| post.decode().numbers.get(&rejected).copied()).sum::<i64>();
        assert_eq!(total, 3);
    }
}

#[test]
fn an_exponential_histogram_is_for_the_collector_only() {
    let log = Log::capture();
    let collector = Collector::http(&[]);
    let mut variables = pushing(&collector.url, "3600000");
    variables[0] = ("OTEL_METRICS_EXPORTER", "prometheus,otlp");
    variables.push(("OTEL_EXPORTER_PROMETHEUS_PORT", "0"));
    variables.push(("OTEL_EXPORTER_PROMETHEUS_HOST", "127.0.0.3"));
    let aggregation = "base2_exponential_bucket_histogram";
    variables.push(("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", aggregation));
    let (recorder, telemetry) = start(env(&variables));
    for seconds in [1, 3] {
        let duration = Duration::from_secs(seconds);
        recorder.record(MetricEvent::TaskCompleted { result: TaskResult::Succeeded, duration });
    }
    let line = log.wait_for(&["metrics endpoint listening", "127.0.0.3"]);
    let values = scrape(line.rsplit_once("address=").unwrap().1.parse().unwrap()).values;
    let succeeded = |name: &str, more: &[(&str, &str)]| series(name, &[&[("result", "succeeded")], more].concat());
    assert_eq!(values[&succeeded("oz_worker_task_duration_seconds_bucket", &[("le", "2.5")])], 1.0);
    assert_eq!(values[&succeeded("oz_worker_task_duration_seconds_count", &[])], 2.0);
    telemetry.shutdown(PATIENCE);

    let export = collector.next().decode();
    assert!(export.histogram.is_empty());
    let counts: BTreeMap<_, _> =
        export.exponential.iter().map(|point| (text(&point.attributes)["result"].clone(), point.count)).collect();
    assert_eq!(counts.len(), TaskResult::ALL.len());
    assert_eq!((counts["succeeded"], counts["failed"]), (2, 0));
    assert!(export.exponential.iter().all(|point| (point.min, point.max) == (None, None)));
    // Both exporters have everything else.
    assert_eq!(export.numbers[&succeeded("oz_worker_tasks_completed_total", &[])], 2);
    assert_eq!(values[&succeeded("oz_worker_tasks_completed_total", &[])], 2.0);
}

#[test]
fn several_exporters_see_the_same_events() {
    let log = Log::capture();
    let collector = Collector::http(&[]);
    let mut variables = pushing(&collector.url, "20");
    variables[0] = ("OTEL_METRICS_EXPORTER", "prometheus,otlp");
    variables.push(("OTEL_EXPORTER_PROMETHEUS_PORT", "0"));
    variables.push(("OTEL_EXPORTER_PROMETHEUS_HOST", "127.0.0.2"));
    let (recorder, telemetry) = start(env(&variables));
    recorder.record(MetricEvent::Connected);
    let line = log.wait_for(&["metrics endpoint listening", "127.0.0.2"]);
    let address = line.rsplit_once("address=").unwrap().1.parse().unwrap();
    let connected = series("oz_worker_connected", &[]);
    assert_eq!(scrape(address).values[&connected], 1.0);
    let deadline = Instant::now() + PATIENCE;
    while collector.next().decode().numbers[&connected] != 1 {
        assert!(Instant::now() < deadline);
    }
    telemetry.shutdown(PATIENCE);
}

#[test]
fn when_the_worker_leaves_every_span_is_pushed_whether_it_has_ended_or_not() {
    let collector = Collector::http(&[]);
    let variables = [
        ("OTEL_METRICS_EXPORTER", "none"),
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url),
    ];
    let (recorder, telemetry) = start(env(&variables));
    let (done, open) = (recorder.cancelling("done"), recorder.cancelling("open"));
    done.cancelled(&Ok(()));
    telemetry.shutdown(PATIENCE);
    let post = collector.received.try_recv().unwrap();
    assert_eq!(post.path, "/v1/traces");
    let export: serde_json::Value = serde_json::from_slice(&post.body).unwrap();
    let spans = export["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    let shown: Vec<_> = spans.iter().map(|span| (span["traceId"].as_str(), span["status"]["code"].as_u64())).collect();
    let (ok, error) = (1, 2);
    assert_eq!(shown, [(done.id(), Some(ok)), (open.id(), Some(error))]);
    assert!(collector.received.try_recv().is_err());
}
