//! A task from the backend's side: handed out, started, stopped, finished, cleaned up after, told.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use super::Worker;
use super::io::{Output, RunId};
use super::journal::Step;
use super::phase::Phase;
use super::readiness::Change;
use super::task::{StopCause, Task, no_outcome};
use crate::agent::TaskSpec;
use crate::metrics::{FailurePhase, MetricEvent, TaskResult};
use crate::notice::Notice;
use crate::outbox::Entry;
use crate::outcome::{Failure, Outcome};
use crate::record::Record;
use crate::time::Instant;

impl Worker {
    pub(super) fn task(&mut self, task_id: &str, run: RunId) -> Option<&mut Task> {
        self.tasks.get_mut(task_id).filter(|task| task.run == run)
    }

    /// Claims the task and starts it.
    pub(super) fn hand_out(&mut self, now: Instant, run: RunId, spec: Box<TaskSpec>) {
        let task_id = spec.task_id.clone();
        // One that was given up while its record was on the way never starts.
        let Some(task) = self.task(&task_id, run) else { return };
        task.hand_out();
        let is_shut_down = task.is_shut_down();
        self.post_claim(now, &task_id, spec.execution_id.as_deref());
        let (execution_id, title, active) = (spec.execution_id.clone(), spec.title.clone(), self.tasks.len());
        self.outputs.push_back(Output::StartTask { run, spec });
        self.notice(Notice::Claimed { task_id: task_id.clone(), execution_id, title, active });
        // A user's request has a step of its own behind this one.
        if is_shut_down {
            self.stop_task(&task_id, run);
        }
    }

    pub(super) fn post_claim(&mut self, now: Instant, task_id: &str, execution_id: Option<&str>) {
        let claimed = self.claimed(task_id);
        self.post(now, Entry::new(execution_id, &claimed));
    }

    pub(super) fn on_task_started(&mut self, task_id: &str, run: RunId) {
        if let Some(task) = self.task(task_id, run) {
            task.start();
            self.readiness.over(run);
            // It began on the way out.
            self.let_go(task_id, run);
        }
    }

    /// Tells a person when tasks cease to start in time, and when they do again.
    pub(super) fn check_readiness(&mut self, now: Instant) {
        if self.phase == Phase::Gone {
            return;
        }
        match self.readiness.check(now) {
            None => {}
            Some(Change::Ready) => {
                self.row = None;
                self.notice(Notice::Ready);
            }
            Some(Change::Late(late)) => {
                let task = self.tasks.iter().find(|(_, task)| task.run == late);
                let not_ready = task.map(|(task_id, _)| Notice::NotReady { task_id: task_id.clone() });
                self.outputs.extend(not_ready.map(Output::Notice));
            }
        }
    }

    // Stopping.

    pub(super) fn on_cancellation(&mut self, now: Instant, task_id: &str) {
        if self.take_back(task_id) {
            self.notice(Notice::CancelTooLate { task_id: task_id.into() });
        } else if let Some(task) = self.tasks.get_mut(task_id) {
            if task.is_finished() {
                return self.notice(Notice::CancelTooLate { task_id: task_id.into() });
            }
            let run = task.run;
            if !task.is_cancelled() {
                task.ask_to_stop(StopCause::User);
                self.persist(|| Record::CancelAsked { task_id: task_id.into() });
                self.once_safe(now, Step::Stop { task_id: task_id.into(), run });
            }
            self.notice(Notice::CancelRequested { task_id: task_id.into() });
        } else if self.cleaning.contains_key(task_id) {
            self.notice(Notice::CancelTooLate { task_id: task_id.into() });
        } else if let Some(execution_id) = self.dispatched.get(task_id) {
            let execution_id = execution_id.clone();
            self.notice(Notice::CancelRequested { task_id: task_id.into() });
            self.outputs.push_back(Output::CancelDispatched { task_id: task_id.into(), execution_id });
        } else {
            self.notice(Notice::CancelUnknown { task_id: task_id.into() });
        }
    }

    /// Wants a task to stop, and asks the backend to.
    pub(super) fn ask_to_stop(&mut self, task_id: &str, run: RunId, cause: StopCause) {
        if let Some(task) = self.tasks.get_mut(task_id) {
            task.ask_to_stop(cause);
        }
        self.stop_task(task_id, run);
    }

    /// Asks the backend to stop a task, unless that is done or too late.
    pub(super) fn stop_task(&mut self, task_id: &str, run: RunId) {
        if self.task(task_id, run).is_some_and(Task::give_stop) {
            self.outputs.push_back(Output::StopTask { task_id: task_id.into(), run });
        }
    }

    // The end.

    /// Fixes how a task ended. What follows it changes nothing about that.
    pub(super) fn on_task_finished(&mut self, now: Instant, task_id: &str, run: RunId, outcome: Outcome) {
        if let Some(task) = self.let_go.get_mut(task_id).filter(|task| task.run == run) {
            // The next worker tells it.
            task.finish(task_id, outcome);
            return;
        }
        let Some(task) = self.task(task_id, run) else { return };
        let execution_id = task.execution_id.clone();
        let Some(end) = task.finish(task_id, outcome) else { return };
        let message = end.message.clone();
        self.readiness.over(run);
        self.persist(|| record_of_end(task_id.into(), execution_id, message));
        self.once_safe(now, Step::Tell { task_id: task_id.into(), run });
    }

    pub(super) fn on_end_safe(&mut self, now: Instant, task_id: &str, run: RunId) {
        if let Some(task) = self.task(task_id, run) {
            task.set_safe();
            self.tell_if_due(now, task_id);
        }
    }

    pub(super) fn on_task_ended(&mut self, now: Instant, task_id: &str, run: RunId, cleanup: Vec<Failure>) {
        if self.let_go.get(task_id).is_some_and(|task| task.run == run) {
            return self.on_task_finished(now, task_id, run, no_outcome());
        }
        if self.cleaning.get(task_id) == Some(&run) {
            self.cleaning.remove(task_id);
        } else if self.task(task_id, run).is_none_or(|task| !task.clean_up()) {
            return;
        }
        for failure in cleanup {
            self.on_cleanup_failed(task_id, failure);
        }
        self.on_task_finished(now, task_id, run, no_outcome());
        self.tell_if_due(now, task_id);
    }

    pub(super) fn on_cleanup_failed(&mut self, task_id: &str, failure: Failure) {
        self.metric(MetricEvent::TaskFailure { phase: FailurePhase::Cleanup, reason: failure.reason });
        self.notice(Notice::CleanupFailed { task_id: task_id.into(), failure });
    }

    pub(super) fn tell_if_due(&mut self, now: Instant, task_id: &str) {
        let is_leaving = self.is_leaving();
        if self.tasks.get(task_id).is_some_and(|task| task.is_to_be_told(is_leaving)) {
            self.tell(now, task_id);
        }
    }

    /// Tells everybody how a task ended, and frees its slot.
    pub(super) fn tell(&mut self, now: Instant, task_id: &str) {
        let Some(task) = self.tasks.remove(task_id) else { return };
        self.row = None;
        if !task.is_handed_out() {
            self.post_claim(now, task_id, task.execution_id.as_deref());
        }
        if !task.is_cleaned_up() {
            self.cleaning.insert(task_id.into(), task.run);
        }
        let (duration, is_cancelled, execution_id) = (task.age(now), task.is_cancelled(), task.execution_id.clone());
        let Some(end) = task.into_end() else { return };
        if let Some(message) = end.message {
            self.post(now, Entry::end(task_id.into(), execution_id.clone(), message));
        }
        if let Some(failure) = &end.failure {
            self.metric(MetricEvent::TaskFailure { phase: FailurePhase::Backend, reason: failure.reason });
        }
        let (result, failure, active) = (end.result, end.failure, self.tasks.len());
        self.metric(MetricEvent::TaskCompleted { result, duration });
        self.notice(Notice::Ended { task_id: task_id.into(), result, duration, failure, active });
        if result == TaskResult::Dispatched {
            self.dispatched.insert(task_id, execution_id.clone());
            if is_cancelled {
                // The cancellation came while the task was handed over: what has it now must hear of it.
                self.outputs.push_back(Output::CancelDispatched { task_id: task_id.into(), execution_id });
            }
        }
    }
}

/// What is recorded of an end: the message, or that nobody here sends one.
fn record_of_end(task_id: String, execution_id: Option<String>, message: Option<String>) -> Record {
    match message {
        Some(message) => Record::Finished { task_id, execution_id, message },
        None => Record::Dispatched { task_id, execution_id },
    }
}
