//! What the run loop holds of telemetry: where each event and each notice goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oz_worker_core::Notice;
use oz_worker_core::agent::TaskSpec;
use oz_worker_core::metrics::MetricEvent;

use crate::instruments::Instruments;
use crate::oldest::Oldest;
use crate::pulse::Heartbeat;
use crate::status::Status;
use crate::task_trace::TaskTrace;
use crate::traces::Traces;

/// Takes down what happens. Cheap to clone, and cheap to tell: whoever exports does so on a thread of its own.
#[derive(Debug, Clone, Default)]
pub struct Recorder {
    /// One set, or two when the collector's histogram is not everybody's.
    pub(crate) instruments: Option<Arc<[Instruments]>>,
    pub(crate) oldest: Option<Arc<Oldest>>,
    pub(crate) status: Option<Arc<Status>>,
    pub(crate) traces: Option<Arc<Traces>>,
}

impl Recorder {
    /// A recorder that takes nothing down.
    pub const fn disabled() -> Self {
        Self { instruments: None, oldest: None, status: None, traces: None }
    }

    /// Counts one event: a handful of atomic writes. Takes no lock that an exporter holds for longer than a copy, and
    /// never allocates.
    pub fn record(&self, event: MetricEvent) {
        for instruments in self.instruments.iter().flat_map(|sets| sets.iter()) {
            instruments.record(event);
        }
    }

    /// Hears what a person is told, before the log does. Gives the id of the trace of the task that it is about, when tracing
    /// is on, so that the log can name it.
    pub fn note(&self, notice: &Notice) -> Option<String> {
        let now = Instant::now();
        if let Some(oldest) = &self.oldest {
            oldest.note(now, notice);
        }
        if let Some(status) = &self.status {
            status.note(now, notice);
        }
        self.traces.as_ref()?.note(notice)
    }

    /// The run loop lives, and will say so again within `wait`. One atomic write, for `/livez`.
    pub fn alive(&self, wait: Duration) {
        if let Some(status) = &self.status {
            status.alive(Instant::now(), wait);
        }
    }

    /// From now on `/livez` and `/readyz` hear what has this name too, `the executor` for one: it must say again and again that
    /// it lives, until the heartbeat is dropped. Where none was ever begun, only the run loop counts.
    pub fn heartbeat(&self, name: &'static str) -> Heartbeat {
        Heartbeat(self.status.as_ref().map(|status| status.heartbeat(name, Instant::now())))
    }

    /// A task is claimed and about to be started.
    pub fn claimed(&self, spec: &TaskSpec) -> TaskTrace {
        let traced = self.traces.as_ref().map(|traces| (Arc::clone(traces), traces.claimed(spec)));
        TaskTrace::new(traced, self.status.as_ref(), &spec.task_id)
    }

    /// A task of an earlier worker is taken up. Its span ended with that worker.
    pub fn resumed(&self, task_id: &str) -> TaskTrace {
        TaskTrace::new(None, self.status.as_ref(), task_id)
    }

    /// The cancel command of a task that was handed over is about to be run; [`TaskTrace::cancelled`] says how that went.
    pub fn cancelling(&self, task_id: &str) -> TaskTrace {
        let traced = self.traces.as_ref().map(|traces| (Arc::clone(traces), traces.cancelling(task_id)));
        TaskTrace::new(traced, None, task_id)
    }
}
