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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use opentelemetry_sdk::trace::SdkTracerProvider;
    use oz_worker_core::metrics::TaskResult;

    use super::*;
    use crate::resource::tests::identity;
    use crate::step::TaskStep;
    use crate::traces::tests::task;

    /// A recorder with all that tells of single tasks.
    fn recorder() -> (Recorder, Arc<Status>) {
        let status = Arc::new(Status::new(identity()));
        let traces = Traces::new(&SdkTracerProvider::builder().build(), &identity(), 20);
        let (oldest, traces) = (Some(Arc::default()), Some(Arc::new(traces)));
        (Recorder { instruments: None, oldest, status: Some(Arc::clone(&status)), traces }, status)
    }

    #[test]
    fn whoever_has_promised_to_move_is_stuck_once_it_does_not() {
        let (recorder, status) = recorder();
        let heartbeat = recorder.heartbeat("the executor");
        let stuck = || {
            let later = Instant::now() + Duration::from_secs(60);
            status.stuck(later).into_iter().map(|stuck| stuck.name).collect::<Vec<_>>()
        };
        assert_eq!(stuck(), ["the run loop", "the executor"]);
        recorder.alive(Duration::from_secs(120));
        assert_eq!(stuck(), ["the executor"]);
        heartbeat.alive(Duration::from_secs(120));
        assert_eq!(stuck(), [""; 0]);
    }

    #[test]
    fn a_task_is_followed_on_the_page_and_in_its_trace() {
        let (recorder, status) = recorder();
        let step = || status.state(1).running.first().unwrap().step.clone();
        let (task_id, title) = (String::from("T"), String::new());
        let trace = recorder.claimed(&task(&[]));
        let claimed = Notice::Claimed { task_id: task_id.clone(), execution_id: None, title, active: 1 };
        let id = recorder.note(&claimed);
        assert!(id.is_some() && id.as_deref() == trace.id());
        trace.step(&TaskStep::SettingUp);
        assert_eq!(step(), "Running the setup command");
        let later = Instant::now() + Duration::from_secs(3);
        assert!(recorder.oldest.as_ref().unwrap().age(later) >= Duration::from_secs(3));

        // An earlier worker began its span, which ended with it.
        let resumed = recorder.resumed(&task_id);
        resumed.step(&TaskStep::TearingDown);
        assert_eq!((resumed.id(), step().as_str()), (None, "Running the teardown command"));

        let (result, duration) = (TaskResult::Dispatched, Duration::ZERO);
        recorder.note(&Notice::Ended { task_id: task_id.clone(), result, duration, failure: None, active: 0 });
        assert_eq!(recorder.cancelling(&task_id).id(), id.as_deref(), "it is a part of the trace of the task");
    }
}
