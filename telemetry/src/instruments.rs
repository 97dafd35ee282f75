//! The catalogue of `docs/metrics.md` as OpenTelemetry instruments, each series bound before the first event.

use std::sync::Arc;
use std::time::Instant;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{BoundCounter, BoundGauge, BoundHistogram, BoundUpDownCounter, Counter, Meter};
use opentelemetry_sdk::metrics::{Aggregation, Instrument, InstrumentKind, Stream};
use oz_worker_core::metrics::{FailurePhase, FailureReason, MetricEvent, ReconnectReason, RejectReason, TaskResult};

use crate::identity::Identity;
use crate::oldest::Oldest;

/// Upper bounds of `oz_worker_task_duration_seconds`, in seconds: agents run for seconds to hours.
const DURATION_BOUNDS: [f64; 16] =
    [0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0, 14_400.0, 28_800.0];

/// Defaults of an exponential histogram (OpenTelemetry specification, Metrics SDK): buckets on each side of 0, and the
/// finest scale it begins with.
const EXPONENTIAL_BUCKETS: u32 = 160;
const EXPONENTIAL_SCALE: i8 = 20;

/// The most series one instrument has. The SDK's own limit of 2,000 makes it reserve 130 KiB per instrument and reader.
const SERIES_LIMIT: usize = FailurePhase::ALL.len() * FailureReason::ALL.len();

/// One handle per series. A list is indexed by its label's enum, `task_failures` by phase and then reason.
#[derive(Debug)]
pub(crate) struct Instruments {
    connected: BoundGauge<u64>,
    tasks_active: BoundUpDownCounter<i64>,
    tasks_claimed: BoundCounter<u64>,
    tasks_rejected: Box<[BoundCounter<u64>]>,
    tasks_completed: Box<[BoundCounter<u64>]>,
    task_duration: Box<[BoundHistogram<f64>]>,
    task_failures: Box<[BoundCounter<u64>]>,
    reconnects: Box<[BoundCounter<u64>]>,
}

impl Instruments {
    /// Makes every instrument and every one of its series.
    pub(crate) fn new(meter: &Meter, identity: &Identity, oldest: &Arc<Oldest>) -> Self {
        describe_worker(meter, identity);
        observe_oldest(meter, Arc::clone(oldest));
        let connected = meter
            .u64_gauge("oz_worker_connected")
            .with_description("1 while the worker has an established connection to the server, else 0")
            .build()
            .bind(&[]);
        let tasks_active = meter
            .i64_up_down_counter("oz_worker_tasks_active")
            .with_description("Tasks that hold a slot on this worker")
            .build()
            .bind(&[]);
        let tasks_claimed = meter
            .u64_counter("oz_worker_tasks_claimed_total")
            .with_description("Tasks this worker has claimed")
            .build()
            .bind(&[]);
        // A bound series without labels exists once it is written to.
        connected.record(0);
        tasks_active.add(0);
        tasks_claimed.add(0);

        let tasks_rejected = meter
            .u64_counter("oz_worker_tasks_rejected_total")
            .with_description("Tasks this worker has declined, by reason")
            .build();
        let tasks_completed = meter
            .u64_counter("oz_worker_tasks_completed_total")
            .with_description("Tasks that ended, by result")
            .build();
        let task_duration = meter
            .f64_histogram("oz_worker_task_duration_seconds")
            .with_description("Time from the claim of a task to its end, by result")
            .with_unit("s")
            .build();
        let task_failures = meter
            .u64_counter("oz_worker_task_failures_total")
            .with_description("Failures of tasks, by phase and reason")
            .build();
        let reconnects = meter
            .u64_counter("oz_worker_websocket_reconnects_total")
            .with_description("Failed dials and lost connections, by reason")
            .build();

        let phases_and_reasons = FailurePhase::ALL
            .iter()
            .flat_map(|phase| FailureReason::ALL.iter().map(|reason| (phase.as_str(), reason.as_str())));
        Self {
            connected,
            tasks_active,
            tasks_claimed,
            tasks_rejected: by_label(&tasks_rejected, "reason", RejectReason::ALL.iter().map(|it| it.as_str())),
            tasks_completed: by_label(&tasks_completed, "result", TaskResult::ALL.iter().map(|it| it.as_str())),
            task_duration: TaskResult::ALL
                .iter()
                .map(|result| task_duration.bind(&[KeyValue::new("result", result.as_str())]))
                .collect(),
            task_failures: phases_and_reasons
                .map(|(phase, reason)| {
                    task_failures.bind(&[KeyValue::new("phase", phase), KeyValue::new("reason", reason)])
                })
                .collect(),
            reconnects: by_label(&reconnects, "reason", ReconnectReason::ALL.iter().map(|it| it.as_str())),
        }
    }

    pub(crate) fn record(&self, event: MetricEvent) {
        match event {
            MetricEvent::Connected => self.connected.record(1),
            MetricEvent::Disconnected => self.connected.record(0),
            MetricEvent::Reconnect(reason) => add_one(&self.reconnects, reason as usize),
            MetricEvent::TaskClaimed => {
                self.tasks_claimed.add(1);
                self.tasks_active.add(1);
            }
            MetricEvent::TaskResumed => self.tasks_active.add(1),
            MetricEvent::TaskRejected(reason) => add_one(&self.tasks_rejected, reason as usize),
            MetricEvent::TaskCompleted { result, duration } => {
                self.tasks_active.add(-1);
                add_one(&self.tasks_completed, result as usize);
                if let Some(histogram) = self.task_duration.get(result as usize) {
                    histogram.record(duration.as_secs_f64());
                }
            }
            MetricEvent::TaskFailure { phase, reason } => {
                add_one(&self.task_failures, phase as usize * FailureReason::ALL.len() + reason as usize);
            }
        }
    }
}

/// The two gauges that are known from the start and never change.
fn describe_worker(meter: &Meter, identity: &Identity) {
    meter
        .u64_gauge("oz_worker_tasks_max_concurrent")
        .with_description("Tasks this worker runs at once at most; 0 means unlimited")
        .build()
        .record(identity.max_concurrent_tasks.into(), &[]);
    meter
        .u64_gauge("oz_worker_info")
        .with_description("The worker's build and configuration; always 1")
        .build()
        .record(
            1,
            &[
                KeyValue::new("version", identity.version.clone()),
                KeyValue::new("backend", identity.backend.clone()),
                KeyValue::new("worker_id", identity.worker_id.clone()),
            ],
        );
}

/// The gauge that changes by time alone.
fn observe_oldest(meter: &Meter, oldest: Arc<Oldest>) {
    meter
        .u64_observable_gauge("oz_worker_oldest_task_age_seconds")
        .with_description("Seconds since the claim of the oldest task that holds a slot; 0 when none does")
        .with_unit("s")
        .with_callback(move |observer| observer.observe(oldest.age(Instant::now()).as_secs(), &[]))
        .build();
}

fn by_label(
    counter: &Counter<u64>,
    label: &'static str,
    values: impl Iterator<Item = &'static str>,
) -> Box<[BoundCounter<u64>]> {
    values.map(|value| counter.bind(&[KeyValue::new(label, value)])).collect()
}

fn add_one(counters: &[BoundCounter<u64>], index: usize) {
    if let Some(counter) = counters.get(index) {
        counter.add(1);
    }
}

/// How the durations of tasks are put into buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Buckets {
    /// Those of the catalogue.
    #[default]
    Explicit,
    /// As many as the SDK finds it needs.
    Exponential,
}

/// The SDK view of every instrument: room for its own series and no more, and for the histogram these buckets, without
/// minimum and maximum, which mean nothing for a series that has not counted yet.
pub(crate) fn view(instrument: &Instrument, buckets: Buckets) -> Option<Stream> {
    let mut stream = Stream::builder().with_cardinality_limit(SERIES_LIMIT);
    if instrument.kind() == InstrumentKind::Histogram {
        stream = stream.with_aggregation(match buckets {
            Buckets::Explicit => {
                Aggregation::ExplicitBucketHistogram { boundaries: DURATION_BOUNDS.to_vec(), record_min_max: false }
            }
            Buckets::Exponential => Aggregation::Base2ExponentialHistogram {
                max_size: EXPONENTIAL_BUCKETS,
                max_scale: EXPONENTIAL_SCALE,
                record_min_max: false,
            },
        });
    }
    stream.build().ok()
}
