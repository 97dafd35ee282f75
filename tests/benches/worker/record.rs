//! What counting costs: one metric event with every exporter on.

use std::{
    hint::black_box,
    net::TcpListener,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use oz_worker_core::metrics::{FailurePhase, FailureReason, MetricEvent, ReconnectReason, RejectReason, TaskResult};
use oz_worker_telemetry::{Identity, Telemetry, TelemetrySettings};

use crate::{
    Effort, allocations,
    proc::nanos,
    report::{self, Report, Row},
};

pub fn measure(report: &mut Report, effort: Effort) {
    report::subject("counting, with prometheus, otlp and console on");
    let identity = Identity {
        version: "bench".to_owned(),
        worker_id: "bench".to_owned(),
        backend: "direct".to_owned(),
        max_concurrent_tasks: 8,
        host_name: "bench".to_owned(),
        status_page: true,
    };
    // Somebody to push to, who is never pushed to: only counting is measured.
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let settings = TelemetrySettings::read(|name| match name {
        "OTEL_METRICS_EXPORTER" => Some("prometheus,otlp,console".to_owned()),
        "OTEL_EXPORTER_PROMETHEUS_PORT" => Some("0".to_owned()),
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(endpoint.clone()),
        "OTEL_METRIC_EXPORT_INTERVAL" => Some("86400000".to_owned()),
        _ => None,
    });
    let (recorder, telemetry) = Telemetry::builder(identity).settings(settings).start();

    let rounds = effort.pick(60, 15);
    let each = |event: MetricEvent| nanos(rounds, |batch| (0..batch).for_each(|_| recorder.record(black_box(event))));
    let completed = MetricEvent::TaskCompleted { result: TaskResult::Succeeded, duration: Duration::from_secs(90) };
    let failure = MetricEvent::TaskFailure { phase: FailurePhase::Backend, reason: FailureReason::AgentInvocation };
    let events = [
        ("connected", MetricEvent::Connected),
        ("reconnect", MetricEvent::Reconnect(ReconnectReason::RemoteClose)),
        ("claimed", MetricEvent::TaskClaimed),
        ("rejected", MetricEvent::TaskRejected(RejectReason::AtCapacity)),
        ("completed", completed),
        ("failure", failure),
    ];
    let costs = events.map(|(what, event)| (what, each(event)));
    let (what, most) = costs.into_iter().max_by(|one, other| one.1.total_cmp(&other.1)).unwrap();
    let counter = AtomicU64::new(0);
    let add = nanos(rounds, |batch| (0..batch).for_each(|_| _ = black_box(&counter).fetch_add(1, Ordering::Relaxed)));
    Row::new(&format!("the dearest event: {what}"), format!("{most:.0} ns"))
        .beside("an atomic addition", &format!("{add:.1} ns"), most / add)
        .at_most(most, 100.0, " ns")
        .print(report);
    report::note(&costs.map(|(what, cost)| format!("{what} {cost:.0} ns")).join(", "));
    let allocated = allocations::during(|| events.iter().for_each(|(_, event)| recorder.record(*event)));
    Row::new("allocations of all six", allocated.to_string()).at_most(allocated as f64, 0.0, "").print(report);
    // Its last export would be printed between these figures.
    std::mem::forget(telemetry);
}
