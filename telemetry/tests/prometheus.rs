//! The `prometheus` exporter over real HTTP: what a scrape holds.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
#![allow(clippy::float_cmp, reason = "the values are small whole numbers and halves")]

mod common;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

use common::{Endpoint, Log, PATIENCE, env, request, series, start};
use oz_worker_core::metrics::{FailurePhase, FailureReason, MetricEvent, ReconnectReason, RejectReason, TaskResult};

#[test]
fn the_first_scrape_holds_everything_operators_are_used_to() {
    let endpoint = Endpoint::start("127.0.7.1");
    endpoint.recorder.record(MetricEvent::Connected);
    let scrape = endpoint.scrape();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/first-scrape.json");
    let expected: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for (name, family) in expected.as_object().unwrap() {
        assert_eq!(scrape.types.get(name).map(String::as_str), family["type"].as_str(), "{name}");
        for entry in family["labels"].as_array().unwrap() {
            let labels: BTreeMap<String, String> = serde_json::from_value(entry["set"].clone()).unwrap();
            let value = scrape.values.get(&(name.clone(), labels));
            assert_eq!(value.copied(), entry["value"].as_f64(), "{name} {entry}");
        }
    }
    endpoint.stop();
}

#[test]
fn the_first_scrape_has_every_series_of_the_catalogue_at_zero() {
    let endpoint = Endpoint::start("127.0.7.2");
    let scrape = endpoint.scrape();
    let types = [
        ("oz_worker_connected", "gauge"),
        ("oz_worker_info", "gauge"),
        ("oz_worker_oldest_task_age_seconds", "gauge"),
        ("oz_worker_task_duration_seconds", "histogram"),
        ("oz_worker_task_failures_total", "counter"),
        ("oz_worker_tasks_active", "gauge"),
        ("oz_worker_tasks_claimed_total", "counter"),
        ("oz_worker_tasks_completed_total", "counter"),
        ("oz_worker_tasks_max_concurrent", "gauge"),
        ("oz_worker_tasks_rejected_total", "counter"),
        ("oz_worker_websocket_reconnects_total", "counter"),
        ("target_info", "gauge"),
    ];
    let expected: BTreeMap<_, _> = types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).into();
    assert_eq!(scrape.types, expected);

    let count = |name: &str| scrape.values.keys().filter(|(series, _)| series == name).count();
    assert_eq!(count("oz_worker_task_failures_total"), 87);
    assert_eq!(count("oz_worker_tasks_rejected_total"), 4);
    assert_eq!(count("oz_worker_task_duration_seconds_bucket"), 4 * 17);
    for result in TaskResult::ALL {
        let result = ("result", result.as_str());
        for bound in
            "0.5 1 2.5 5 10 30 60 120 300 600 1200 1800 3600 7200 14400 28800 +Inf".split(' ').map(|le| ("le", le))
        {
            assert!(scrape.values.contains_key(&series("oz_worker_task_duration_seconds_bucket", &[result, bound])));
        }
        for name in ["oz_worker_task_duration_seconds_sum", "oz_worker_task_duration_seconds_count"] {
            assert!(scrape.values.contains_key(&series(name, &[result])));
        }
    }
    let not_zero: Vec<&str> =
        scrape.values.iter().filter(|(_, value)| **value != 0.0).map(|((name, _), _)| name.as_str()).collect();
    assert_eq!(not_zero, ["oz_worker_info", "oz_worker_tasks_max_concurrent", "target_info"]);
    endpoint.stop();
}

#[test]
fn target_info_names_the_worker_and_every_series_names_its_scope() {
    let endpoint = Endpoint::start("127.0.7.3");
    let scrape = endpoint.scrape();
    let (_, labels) = scrape.values.keys().find(|(name, _)| name == "target_info").unwrap();
    for (key, value) in [
        ("service_name", "oz-agent-worker"),
        ("service_version", "dev"),
        ("worker_id", "w1"),
        ("worker_backend", "direct"),
        ("host_name", "host-1"),
        ("telemetry_sdk_name", "opentelemetry"),
    ] {
        assert_eq!(labels.get(key).map(String::as_str), Some(value), "{key}");
    }
    assert!(labels.contains_key("service_instance_id"));
    let text = String::from_utf8(request(endpoint.address, "GET", "/metrics", "").body).unwrap();
    for line in text.lines().filter(|line| line.starts_with("oz_worker_")) {
        assert!(line.contains("otel_scope_name=\"oz-agent-worker\""), "{line}");
    }
    endpoint.stop();
}

/// Records `event` and gives what it changed, but for buckets and sums: series and difference.
fn changes(endpoint: &Endpoint, event: MetricEvent) -> Vec<(common::Series, f64)> {
    let before = endpoint.scrape().values;
    endpoint.recorder.record(event);
    let after = endpoint.scrape().values;
    assert!(after.keys().eq(before.keys()));
    let bucket_or_sum = |name: &str| name.ends_with("_bucket") || name.ends_with("_sum");
    after
        .into_iter()
        .filter(|((name, _), _)| !bucket_or_sum(name))
        .map(|(series, value)| (before[&series], series, value))
        .filter(|(before, _, after)| (after - before).abs() > f64::EPSILON)
        .map(|(before, series, after)| (series, after - before))
        .collect()
}

#[test]
fn every_event_changes_its_own_series_and_no_other() {
    let endpoint = Endpoint::start("127.0.7.4");
    let connected = series("oz_worker_connected", &[]);
    assert_eq!(changes(&endpoint, MetricEvent::Connected), [(connected.clone(), 1.0)]);
    assert_eq!(changes(&endpoint, MetricEvent::Disconnected), [(connected, -1.0)]);
    for reason in ReconnectReason::ALL {
        let expected = series("oz_worker_websocket_reconnects_total", &[("reason", reason.as_str())]);
        assert_eq!(changes(&endpoint, MetricEvent::Reconnect(*reason)), [(expected, 1.0)]);
    }
    for reason in RejectReason::ALL {
        let expected = series("oz_worker_tasks_rejected_total", &[("reason", reason.as_str())]);
        assert_eq!(changes(&endpoint, MetricEvent::TaskRejected(*reason)), [(expected, 1.0)]);
    }
    for result in TaskResult::ALL {
        let active = series("oz_worker_tasks_active", &[]);
        let claimed = series("oz_worker_tasks_claimed_total", &[]);
        assert_eq!(changes(&endpoint, MetricEvent::TaskClaimed), [(active.clone(), 1.0), (claimed, 1.0)]);
        let labels = [("result", result.as_str())];
        let counted = series("oz_worker_task_duration_seconds_count", &labels);
        let completed = series("oz_worker_tasks_completed_total", &labels);
        let event = MetricEvent::TaskCompleted { result: *result, duration: Duration::from_secs(3) };
        assert_eq!(changes(&endpoint, event), [(counted, 1.0), (active, -1.0), (completed, 1.0)]);
    }
    for phase in FailurePhase::ALL {
        for reason in FailureReason::ALL {
            let labels = [("phase", phase.as_str()), ("reason", reason.as_str())];
            let expected = series("oz_worker_task_failures_total", &labels);
            let event = MetricEvent::TaskFailure { phase: *phase, reason: *reason };
            assert_eq!(changes(&endpoint, event), [(expected, 1.0)]);
        }
    }
    endpoint.stop();
}

#[test]
fn a_duration_is_counted_in_its_bucket_and_summed_in_seconds() {
    let endpoint = Endpoint::start("127.0.7.5");
    let result = TaskResult::Succeeded;
    endpoint.recorder.record(MetricEvent::TaskCompleted { result, duration: Duration::from_millis(3500) });
    let values = endpoint.scrape().values;
    let bucket = |le| values[&series("oz_worker_task_duration_seconds_bucket", &[("le", le), ("result", "succeeded")])];
    assert_eq!([bucket("2.5"), bucket("5"), bucket("28800"), bucket("+Inf")], [0.0, 1.0, 1.0, 1.0]);
    assert_eq!(values[&series("oz_worker_task_duration_seconds_sum", &[("result", "succeeded")])], 3.5);
    endpoint.stop();
}

#[test]
fn the_number_of_series_is_the_same_after_a_hundred_thousand_events() {
    let endpoint = Endpoint::start("127.0.7.6");
    let before = endpoint.scrape().values;
    for count in 0..25_000_usize {
        let result = TaskResult::ALL[count % TaskResult::ALL.len()];
        let duration = Duration::from_millis(count as u64);
        let reason = FailureReason::ALL[count % FailureReason::ALL.len()];
        let phase = FailurePhase::ALL[count % FailurePhase::ALL.len()];
        endpoint.recorder.record(MetricEvent::TaskClaimed);
        endpoint.recorder.record(MetricEvent::TaskCompleted { result, duration });
        endpoint.recorder.record(MetricEvent::TaskFailure { phase, reason });
        endpoint.recorder.record(MetricEvent::TaskRejected(RejectReason::AtCapacity));
    }
    let after = endpoint.scrape().values;
    assert!(after.keys().eq(before.keys()));
    assert_eq!(after[&series("oz_worker_tasks_claimed_total", &[])], 25_000.0);
    assert_eq!(after[&series("oz_worker_tasks_active", &[])], 0.0);
    endpoint.stop();
}

#[test]
fn a_port_in_use_is_one_error_that_names_host_port_and_variable() {
    let log = Log::capture();
    let taken = TcpListener::bind("127.0.7.11:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let variables = [
        ("OTEL_METRICS_EXPORTER", "prometheus"),
        ("OTEL_EXPORTER_PROMETHEUS_HOST", "127.0.7.11"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", port.as_str()),
    ];
    let (recorder, telemetry) = start(env(&variables));
    let lines = log.lines_with(&format!("127.0.7.11:{port}"));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("ERROR") && lines[0].contains("OTEL_EXPORTER_PROMETHEUS_PORT"), "{lines:?}");
    recorder.record(MetricEvent::Connected);
    telemetry.shutdown(PATIENCE);
}

#[test]
fn the_port_is_free_again_after_the_shutdown() {
    let endpoint = Endpoint::start("127.0.7.12");
    let address = endpoint.address;
    endpoint.scrape();
    endpoint.stop();
    TcpListener::bind(address).unwrap();
}

#[test]
fn an_unknown_exporter_is_one_error_and_the_worker_goes_on() {
    let log = Log::capture();
    let (recorder, telemetry) = start(env(&[("OTEL_METRICS_EXPORTER", "graphite")]));
    recorder.record(MetricEvent::Connected);
    telemetry.shutdown(PATIENCE);
    let lines = log.lines_with("graphite");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("ERROR") && lines[0].contains("otlp, prometheus, console and none"), "{lines:?}");
}
