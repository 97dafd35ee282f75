//! One task that holds a slot: whether it was handed out, who asked it to stop, how it ended.

use alloc::string::String;
use core::time::Duration;

use super::io::RunId;
use crate::message::{NO_OUTCOME, SHUT_DOWN, WorkerMessage};
use crate::metrics::{FailureReason, TaskResult};
use crate::outcome::{Failure, Outcome};
use crate::time::Instant;

/// Why a running task is being stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopCause {
    User,
    Shutdown,
}

#[derive(Debug)]
struct Stop {
    cause: StopCause,
    /// Whether the backend was asked.
    is_given: bool,
}

/// How a task ended, once and for all.
#[derive(Debug)]
pub(super) struct End {
    pub(super) result: TaskResult,
    pub(super) failure: Option<Failure>,
    /// The message that says so, unless somebody else does.
    pub(super) message: Option<String>,
    /// Whether the record of it is safe.
    pub(super) is_safe: bool,
}

impl End {
    fn new(task_id: &str, outcome: Outcome, is_cancelled: bool) -> Self {
        let (result, failure) = match outcome {
            Outcome::Completed => (TaskResult::Succeeded, None),
            Outcome::Dispatched => (TaskResult::Dispatched, None),
            Outcome::Stopped if is_cancelled => (TaskResult::Cancelled, None),
            Outcome::Stopped => (TaskResult::Failed, Some(Failure::new(FailureReason::GracefulShutdown, SHUT_DOWN))),
            Outcome::Failed(failure) => (TaskResult::Failed, Some(failure)),
        };
        let message = match (result, &failure) {
            (TaskResult::Dispatched, _) => None,
            (TaskResult::Cancelled, _) => Some(WorkerMessage::cancelled(task_id)),
            (_, Some(failure)) => Some(WorkerMessage::failed(task_id, failure)),
            (_, None) => Some(WorkerMessage::succeeded(task_id)),
        };
        Self { result, failure, message: message.map(|message| message.encode()), is_safe: false }
    }
}

/// A task that holds a slot.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) run: RunId,
    pub(super) execution_id: Option<String>,
    since: Instant,
    /// How long it had run when this process took it up.
    before: Duration,
    /// Whether it is claimed at the server and the backend has it.
    is_handed_out: bool,
    /// Whether it really runs.
    has_started: bool,
    stop: Option<Stop>,
    end: Option<End>,
    /// Whether what follows it is over too.
    is_cleaned_up: bool,
}

impl Task {
    /// A task that is assigned at `now`.
    pub(super) const fn new(now: Instant, run: RunId, execution_id: Option<String>) -> Self {
        let (before, stop, end) = (Duration::ZERO, None, None);
        let (is_handed_out, has_started, is_cleaned_up) = (false, false, false);
        Self { run, execution_id, since: now, before, is_handed_out, has_started, stop, end, is_cleaned_up }
    }

    /// A task that an earlier process claimed so long before `now`.
    pub(super) fn resumed(now: Instant, run: RunId, execution_id: Option<String>, before: Duration) -> Self {
        Self { before, is_handed_out: true, ..Self::new(now, run, execution_id) }
    }

    /// Time since its claim.
    pub(super) fn age(&self, now: Instant) -> Duration {
        self.before.saturating_add(now.since(self.since))
    }

    pub(super) const fn is_handed_out(&self) -> bool {
        self.is_handed_out
    }

    /// It is about to be claimed and started.
    pub(super) const fn hand_out(&mut self) {
        self.is_handed_out = true;
    }

    /// It really runs.
    pub(super) const fn start(&mut self) {
        self.has_started = true;
    }

    /// Whether it runs, and nobody wants it to stop.
    pub(super) const fn goes_on(&self) -> bool {
        self.has_started && self.stop.is_none() && self.end.is_none()
    }

    /// Takes down who wants it to stop; a user's wish is never replaced.
    pub(super) fn ask_to_stop(&mut self, cause: StopCause) {
        match &mut self.stop {
            None => self.stop = Some(Stop { cause, is_given: false }),
            Some(stop) if cause == StopCause::User => stop.cause = cause,
            Some(_) => {}
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.cause == StopCause::User)
    }

    /// Whether the worker's end wants it to stop, and nothing else.
    pub(super) fn is_shut_down(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.cause == StopCause::Shutdown)
    }

    /// Whether the backend is to be asked now to stop it: once, while there is something to stop.
    pub(super) fn give_stop(&mut self) -> bool {
        let can_stop = self.is_handed_out && self.end.is_none();
        match &mut self.stop {
            Some(stop) if can_stop => !core::mem::replace(&mut stop.is_given, true),
            _ => false,
        }
    }

    /// Fixes how it ended. Gives that when it was not fixed before.
    pub(super) fn finish(&mut self, task_id: &str, outcome: Outcome) -> Option<&End> {
        if self.end.is_some() {
            return None;
        }
        let end = End::new(task_id, outcome, self.is_cancelled());
        Some(self.end.insert(end))
    }

    pub(super) const fn is_finished(&self) -> bool {
        self.end.is_some()
    }

    /// The record of its end is safe.
    pub(super) const fn set_safe(&mut self) {
        if let Some(end) = &mut self.end {
            end.is_safe = true;
        }
    }

    /// What follows it is over. Gives whether that is new.
    pub(super) const fn clean_up(&mut self) -> bool {
        !core::mem::replace(&mut self.is_cleaned_up, true)
    }

    pub(super) const fn is_cleaned_up(&self) -> bool {
        self.is_cleaned_up
    }

    /// Whether its end may be told. A worker that leaves does not wait for what follows the task.
    pub(super) fn is_to_be_told(&self, is_leaving: bool) -> bool {
        self.end.as_ref().is_some_and(|end| end.is_safe) && (self.is_cleaned_up || is_leaving)
    }

    pub(super) fn into_end(self) -> Option<End> {
        self.end
    }
}

/// The outcome of a task that never said one.
pub(super) fn no_outcome() -> Outcome {
    Outcome::Failed(Failure::new(FailureReason::Unknown, NO_OUTCOME))
}
