//! What a builder starts beside the exporters that the variables ask for.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::sync::{Arc, Weak};
use std::time::Duration;

use common::{Log, PATIENCE, env, identity, request};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, Temporality};
use oz_worker_core::Notice;
use oz_worker_telemetry::{Telemetry, TelemetrySettings};

#[test]
fn health_is_served_without_an_exporter_and_hears_what_the_recorder_is_told() {
    let log = Log::capture();
    let settings = TelemetrySettings::read(env(&[("OTEL_METRICS_EXPORTER", "none")]));
    let (recorder, telemetry) = Telemetry::builder(identity()).settings(settings).health("127.0.9.1", 0).start();
    let line = log.wait_for(&["health endpoint listening address=127.0.9.1:"]);
    let address = line.rsplit_once("address=").unwrap().1.parse().unwrap();
    let get = |path: &str| request(address, "GET", path, "");
    let heartbeat = recorder.heartbeat("the executor");
    heartbeat.alive(Duration::from_secs(1));
    assert!(get("/livez").head.starts_with("HTTP/1.1 200 "));
    let unready = get("/readyz");
    assert!(unready.head.starts_with("HTTP/1.1 503 ") && unready.body.starts_with(b"not connected for "));
    recorder.note(&Notice::Connected { unproven_ends: 0, is_repeated: false });
    assert_eq!(get("/readyz").body, b"ok\n");
    assert!(get("/metrics").head.starts_with("HTTP/1.1 404 "));
    telemetry.shutdown(PATIENCE);
}

#[derive(Debug, Clone, Default)]
struct ByHand(Arc<ManualReader>);

impl MetricReader for ByHand {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, _: InstrumentKind) -> Temporality {
        Temporality::Cumulative
    }
}

#[test]
fn a_reader_of_the_callers_own_finds_every_series_until_telemetry_is_dropped() {
    let reader = ByHand::default();
    let (_, telemetry) = Telemetry::builder(identity()).reader(reader.clone()).start();
    let mut metrics = ResourceMetrics::default();
    reader.collect(&mut metrics).unwrap();
    assert_eq!(metrics.scope_metrics().next().unwrap().metrics().count(), 11);
    drop(telemetry);
    assert!(reader.collect(&mut metrics).is_err());
}

#[test]
fn the_problems_of_the_variables_are_known_before_anything_starts() {
    let settings = TelemetrySettings::read(env(&[("OTEL_METRICS_EXPORTER", "statsd")]));
    let problems: Vec<_> = settings.problems().map(|problem| problem.to_string()).collect();
    assert!(matches!(&*problems, [line] if line.contains("OTEL_METRICS_EXPORTER")), "{problems:?}");
}
