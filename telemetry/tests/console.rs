//! The `console` exporter, seen from outside the process that prints.

#![allow(clippy::unwrap_used)]

mod common;

use std::process::{Command, Stdio};

use common::{PATIENCE, env, start};
use oz_worker_core::metrics::MetricEvent;

/// The process that prints: this test, run by the other one.
#[test]
#[ignore = "run by exports_to_standard_output_at_exit_and_nothing_elsewhere"]
fn child() {
    let variables = [("OTEL_METRICS_EXPORTER", "console"), ("OTEL_METRIC_EXPORT_INTERVAL", "3600000")];
    let (recorder, telemetry) = start(env(&variables));
    recorder.record(MetricEvent::TaskClaimed);
    telemetry.shutdown(PATIENCE);
}

#[test]
fn exports_to_standard_output_at_exit_and_nothing_elsewhere() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(child.status.success());
    assert_eq!(String::from_utf8(child.stderr).unwrap(), "");
    let text = String::from_utf8(child.stdout).unwrap();
    assert_eq!(text.lines().filter(|line| *line == "Metrics").count(), 1, "{text}");
    for part in ["worker.id", "oz_worker_tasks_claimed_total", "oz_worker_task_duration_seconds"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
