//! How many threads telemetry takes. One test only: threads are counted per process, and the harness has its own.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use std::thread;
use std::time::Instant;

use common::{Log, PATIENCE, connect, env, scrape, start};
use oz_worker_core::metrics::MetricEvent;

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Waits until there are so many: one that has ended may be listed for a moment after it was joined.
fn wait_for_threads(count: usize) {
    let until = Instant::now() + PATIENCE;
    while threads() != count {
        assert!(Instant::now() < until, "{} threads, not {count}", threads());
        thread::yield_now();
    }
}

#[test]
fn none_takes_no_thread_and_no_line_and_each_exporter_one_thread_however_many_clients_there_are() {
    let log = Log::capture();
    let before = threads();
    let none = [("OTEL_METRICS_EXPORTER", "none"), ("OTEL_TRACES_EXPORTER", "none")];
    let disabled = [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "console")];
    for variables in [&none[..1], &none, &disabled] {
        let (recorder, telemetry) = start(env(variables));
        recorder.record(MetricEvent::Connected);
        assert_eq!(threads(), before);
        telemetry.shutdown(PATIENCE);
    }
    assert_eq!(log.lines_with(""), [""; 0]);

    let variables = [("OTEL_METRICS_EXPORTER", "prometheus"), ("OTEL_EXPORTER_PROMETHEUS_PORT", "0")];
    let (_, telemetry) = start(env(&variables));
    let line = log.wait_for(&["metrics endpoint listening"]);
    let address = line.rsplit_once("address=").unwrap().1.split(", ").next().unwrap().parse().unwrap();
    let clients: Vec<_> = (0..50).map(|_| connect(address)).collect();
    scrape(address);
    assert_eq!(threads(), before + 1);
    drop(clients);
    telemetry.shutdown(PATIENCE);

    wait_for_threads(before);
    let variables = [("OTEL_METRICS_EXPORTER", "none"), ("OTEL_TRACES_EXPORTER", "console")];
    let (_, telemetry) = start(env(&variables));
    assert_eq!(threads(), before + 1);
    telemetry.shutdown(PATIENCE);
}
