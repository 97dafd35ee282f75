//! The metric catalogue as a scrape shows it; the exporters themselves are tested in `telemetry`.

use oz_worker_tests::{
    message::Assignment,
    worker::{Launch, http_get},
};

use crate::scene::Scene;

/// Histogram boundaries, in seconds (`docs/metrics.md`).
const BOUNDARIES: [&str; 17] = [
    "0.5", "1", "2.5", "5", "10", "30", "60", "120", "300", "600", "1200", "1800", "3600", "7200", "14400", "28800",
    "+Inf",
];

#[test]
fn every_series_is_there_before_the_first_task_and_none_is_added() {
    let mut scene = Scene::with(|launch| launch.with_metrics().flags(["--max-concurrent-tasks", "7"]));
    let first = scene.worker.wait_for_metric("oz_worker_connected", &[], 1.0);
    assert_eq!(first.families["oz_worker_task_failures_total"].samples.len(), 87);
    assert_eq!(first.families["oz_worker_tasks_rejected_total"].samples.len(), 3);
    assert_eq!(first.families["oz_worker_tasks_completed_total"].samples.len(), 4);
    assert_eq!(first.value("oz_worker_tasks_max_concurrent", &[]), 7.0);
    assert_eq!(first.families["oz_worker_task_duration_seconds"].kind, "histogram");
    for result in ["succeeded", "failed", "cancelled", "dispatched"] {
        for boundary in BOUNDARIES {
            let labels = [("result", result), ("le", boundary)];
            assert_eq!(first.value("oz_worker_task_duration_seconds_bucket", &labels), 0.0);
        }
        assert_eq!(first.value("oz_worker_task_duration_seconds_sum", &[("result", result)]), 0.0);
        assert_eq!(first.value("oz_worker_task_duration_seconds_count", &[("result", result)]), 0.0);
    }
    assert_eq!(first.families["oz_worker_task_duration_seconds"].samples.len(), 4 * (BOUNDARIES.len() + 2));

    for count in 0..30 {
        scene.run(&Assignment::new(&format!("T{count}")).run(&format!("exit {}", count % 2)));
    }
    let last = scene.worker.wait_for_metric("oz_worker_tasks_active", &[], 0.0);
    assert_eq!(first.series(), last.series());
    assert_eq!(last.value("oz_worker_tasks_claimed_total", &[]), 30.0);
}

#[test]
fn port_in_use_is_named_and_the_worker_goes_on() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let mut scene = Scene::with(|launch| launch.with_metrics().env("OTEL_EXPORTER_PROMETHEUS_PORT", &port));
    let line = scene.worker.wait_for_line("OTEL_EXPORTER_PROMETHEUS_PORT");
    assert!(line.contains(&port) && line.contains("127.0.0.1"), "{line}");
    scene.still_works("T1");
}

#[test]
fn unknown_exporter_is_one_error_and_the_worker_goes_on() {
    let mut scene = Scene::with(|launch| launch.env("OTEL_METRICS_EXPORTER", "carrier-pigeon"));
    scene.still_works("T1");
    scene.warnings_before("T1");
    let lines = scene.worker.lines_with("carrier-pigeon");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(["otlp", "prometheus", "console", "none"].iter().all(|name| lines[0].contains(name)), "{}", lines[0]);
}

#[test]
fn console_exporter_writes_to_standard_output_at_exit() {
    let mut scene = Scene::with(|launch| launch.env("OTEL_METRICS_EXPORTER", "console"));
    scene.still_works("T1");
    scene.worker.signal(rustix::process::Signal::TERM);
    scene.session.expect_close();
    scene.session.hang_up();
    let ended = scene.worker.ended();
    assert!(ended.stdout.contains("oz_worker_tasks_claimed_total"), "{}", ended.stdout);
    assert!(!ended.stderr.contains("oz_worker_tasks_claimed_total"), "{}", ended.stderr);
}

#[test]
fn only_known_paths_are_served() {
    let mut scene = Scene::with(Launch::with_metrics);
    let address = scene.worker.metrics_address();
    assert_eq!(http_get(&address, "/metrics").0, 200);
    assert_eq!(http_get(&address, "/no-such-path").0, 404);
    scene.still_works("T1");
}
