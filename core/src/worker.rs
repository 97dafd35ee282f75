//! The state machine: what happened goes in, what to do comes out.

mod connection;
mod dispatched;
mod io;
mod shutdown;

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};

use crate::agent::TaskSpec;
use crate::assignment::Assignment;
use crate::backoff::Backoff;
use crate::message::{DecodeError, ServerMessage, WorkerMessage, decode, raw_task};
use crate::metrics::{FailurePhase, FailureReason, MetricEvent, RejectReason, TaskResult};
use crate::notice::{BadFrame, Notice};
use crate::outbox::{Entry, Outbox};
use crate::time::Instant;
use connection::Connection;
use dispatched::Dispatched;
pub use io::{Config, Failure, Frame, Input, Outcome, Output, RunId, TaskEnd};
use shutdown::Phase;

/// Why a running task is being stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StopCause {
    User,
    Shutdown,
}

/// A task that holds a slot.
#[derive(Debug)]
struct Task {
    run: RunId,
    execution_id: Option<String>,
    since: Instant,
    stopping: Option<StopCause>,
}

/// The whole protocol of one worker: sessions, tasks, outbox, shutdown. See the [crate page](crate) for how to drive it.
///
/// It is total: every input is legal in every state. One that makes no sense (a Pong without a connection, the end of a
/// task that ended) changes nothing.
#[derive(Debug)]
pub struct Worker {
    config: Config,
    phase: Phase,
    connection: Connection,
    backoff: Backoff,
    tasks: BTreeMap<String, Task>,
    runs: u64,
    dispatched: Dispatched,
    outbox: Outbox,
    /// Whether the last assignment was rejected for lack of a slot; one line in the log tells of a whole row of them.
    saturated: bool,
    outputs: VecDeque<Output>,
}

impl Worker {
    /// A worker that is about to dial for the first time. `seed` draws the jitter of its waits: give each process
    /// another one.
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            config,
            phase: Phase::Running,
            connection: Connection::Waiting(Instant::default()),
            backoff: Backoff::new(seed),
            tasks: BTreeMap::new(),
            runs: 0,
            dispatched: Dispatched::default(),
            outbox: Outbox::default(),
            saturated: false,
            outputs: VecDeque::new(),
        }
    }

    // Getters.

    /// The number of tasks that hold a slot.
    pub fn active_tasks(&self) -> usize {
        self.tasks.len()
    }

    /// Whether an established connection exists.
    pub const fn is_connected(&self) -> bool {
        matches!(self.connection, Connection::Open(_))
    }

    /// The number of ended tasks whose end the server is not known to have.
    pub fn unproven_ends(&self) -> usize {
        self.outbox.unproven_ends()
    }

    // What to do.

    /// The next thing to do. Only [`handle`](Self::handle) can change the answer from `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due, unless something else happens first. Only [`handle`](Self::handle) can change
    /// the answer; `None` once the worker is done.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let connection = match &self.connection {
            Connection::Waiting(until) | Connection::Dialing(until) | Connection::Closing(until) => *until,
            Connection::Open(session) => session.deadline(),
        };
        match self.phase {
            Phase::Gone => None,
            Phase::Running | Phase::Leaving => Some(connection),
            Phase::Draining(until) | Phase::Stopping(until) | Phase::Reporting(until) => Some(connection.min(until)),
        }
    }

    // What happened.

    /// Takes what happened at `now`, which must not be earlier than the `now` of the call before. Afterwards drain
    /// [`poll_output`](Self::poll_output).
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        if self.phase == Phase::Gone {
            return;
        }
        match input {
            Input::Timeout => {}
            Input::Connected => self.on_connected(now),
            Input::DialFailed(cause) => {
                if matches!(self.connection, Connection::Dialing(_)) {
                    self.on_dial_failed(now, cause);
                }
            }
            Input::Disconnected(cause) => self.on_disconnected(now, cause),
            Input::Text(text) => {
                if self.on_received(now) {
                    self.on_text(now, text);
                }
            }
            Input::Binary(size) => {
                if self.on_received(now) {
                    self.notice(Notice::BadFrame(BadFrame {
                        size,
                        problem: "it is binary".into(),
                        message_type: None,
                    }));
                }
            }
            Input::Ping => {
                self.on_received(now);
            }
            Input::Pong(payload) => {
                if self.on_received(now)
                    && let Ok(serial) = payload.try_into()
                {
                    self.outbox.proven(u64::from_be_bytes(serial));
                }
            }
            Input::Written => self.on_written(),
            Input::TaskEnded { task_id, run, end } => self.on_task_ended(now, task_id, run, end),
            Input::CancelFailed { task_id, problem } => {
                self.metric(MetricEvent::TaskFailure {
                    phase: FailurePhase::Cleanup,
                    reason: FailureReason::CancelCommand,
                });
                self.notice(Notice::CancelFailed { task_id: task_id.into(), problem });
            }
            Input::Stop(signal) => self.on_stop(now, signal),
        }
        self.check_phase(now);
        self.check_connection(now);
        self.prove(now);
    }

    // Messages of the server.

    fn on_text(&mut self, now: Instant, text: &str) {
        let (message_type, problem) = match decode(text) {
            Ok(ServerMessage::TaskAssignment(assignment)) => return self.on_assignment(now, &assignment, text),
            Ok(ServerMessage::TaskCancellation { task_id }) => return self.on_cancellation(&task_id),
            Err(DecodeError::MalformedAssignment { task_id, execution_id, problem }) => {
                let is_answered = self.on_malformed_assignment(now, &task_id, execution_id.as_deref(), &problem);
                let (task_id, size) = (task_id.into_owned(), text.len());
                return self.notice(Notice::MalformedAssignment { task_id, size, problem, is_answered });
            }
            Err(DecodeError::Malformed { message_type, problem }) => (Some(message_type.to_owned()), problem),
            Err(DecodeError::NotJson) => (None, "it is not a JSON object".to_owned()),
            Err(DecodeError::UnknownType { message_type }) => (message_type, "its type is unknown".to_owned()),
        };
        self.notice(Notice::BadFrame(BadFrame { size: text.len(), message_type, problem }));
    }

    fn on_assignment(&mut self, now: Instant, assignment: &Assignment<'_>, text: &str) {
        let task_id = assignment.task_id.as_str();
        let execution_id = assignment.execution_id();
        if let Some(task) = self.tasks.get(task_id) {
            return if task.execution_id.as_deref() == execution_id {
                self.claim_again(now, task_id, execution_id);
            } else {
                self.reject(now, task_id, assignment.title(), RejectReason::AlreadyRunning);
            };
        }
        // The end of this very run is under way; or it was proven lately, and the assignment was sent before the server heard
        // of it, but behind the Pong that proved it: servers read, answer Pings and write in different threads.
        let unproven = self.outbox.end_of(task_id);
        let is_this = |end: &&Entry| end.execution_id.as_deref() == execution_id;
        let told = execution_id.and_then(|execution_id| self.outbox.told(task_id, execution_id));
        if let Some(end) = unproven.filter(is_this).or(told) {
            let end = end.message.clone();
            return self.report_again(now, task_id, &end);
        }
        let is_another = unproven.is_some();
        // What a remote runtime has is the same run assigned again.
        if execution_id.is_some() && self.dispatched.execution(task_id).is_some_and(|id| id.as_deref() == execution_id)
        {
            return self.claim_again(now, task_id, execution_id);
        }
        if let Some(reason) = self.cannot_take() {
            return self.reject(now, task_id, assignment.title(), reason);
        }
        if is_another {
            // The server has moved on: the old end must not end the new run.
            self.outbox.forget(task_id);
        }
        self.saturated = false;
        self.start(now, assignment, text);
    }

    /// Why no further task can be taken, when that is so.
    fn cannot_take(&self) -> Option<RejectReason> {
        let limit = self.config.max_concurrent_tasks as usize;
        if self.phase != Phase::Running {
            Some(RejectReason::ShuttingDown)
        } else if limit > 0 && self.tasks.len() >= limit {
            Some(RejectReason::AtCapacity)
        } else {
            None
        }
    }

    fn start(&mut self, now: Instant, assignment: &Assignment<'_>, text: &str) {
        let raw = raw_task(text).map_or("null", |raw| raw.get());
        let spec = Box::new(TaskSpec::new(assignment, raw, &self.config.agent));
        let claimed = self.claimed(&spec.task_id);
        self.post(now, spec.execution_id.as_deref(), claimed);
        self.runs += 1;
        let run = RunId(self.runs);
        let task = Task { run, execution_id: spec.execution_id.clone(), since: now, stopping: None };
        self.tasks.insert(spec.task_id.clone(), task);
        self.metric(MetricEvent::TaskClaimed);
        let claimed = Notice::Claimed {
            task_id: spec.task_id.clone(),
            execution_id: spec.execution_id.clone(),
            title: spec.title.clone(),
            active: self.tasks.len(),
        };
        self.outputs.push_back(Output::StartTask { run, spec });
        self.notice(claimed);
    }

    fn claimed(&self, task_id: &str) -> WorkerMessage {
        WorkerMessage::TaskClaimed { task_id: task_id.to_owned(), worker_id: self.config.worker_id.clone() }
    }

    fn claim_again(&mut self, now: Instant, task_id: &str, execution_id: Option<&str>) {
        let claimed = self.claimed(task_id);
        if self.outbox.holds(task_id) {
            self.send(now, Frame::Text(claimed.encode()));
        } else {
            self.post(now, execution_id, claimed);
        }
        self.notice(Notice::AssignedAgain { task_id: task_id.into() });
    }

    /// Sends claim and end of an execution once more. What is not proven of them keeps its place in the outbox: on the next
    /// connection each task's messages come in the order in which things happened.
    fn report_again(&mut self, now: Instant, task_id: &str, end: &WorkerMessage) {
        let claimed = self.claimed(task_id);
        self.send(now, Frame::Text(claimed.encode()));
        self.send(now, Frame::Text(end.encode()));
        self.notice(Notice::AssignedAgain { task_id: task_id.into() });
    }

    fn reject(&mut self, now: Instant, task_id: &str, title: &str, reason: RejectReason) {
        let text = match reason {
            RejectReason::AtCapacity => "worker at maximum concurrency",
            RejectReason::ShuttingDown => "worker is shutting down",
            RejectReason::AlreadyRunning => "task is already running on this worker",
        };
        // Not kept: when the connection ends, the server assigns the task to somebody else anyway.
        let message = WorkerMessage::TaskRejected { task_id: task_id.to_owned(), reason: text };
        self.send(now, Frame::Text(message.encode()));
        self.metric(MetricEvent::TaskRejected(reason));
        let is_repeated = reason == RejectReason::AtCapacity && self.saturated;
        self.saturated |= reason == RejectReason::AtCapacity;
        let (task_id, title, active) = (task_id.into(), title.into(), self.tasks.len());
        self.notice(Notice::Rejected { task_id, title, reason, active, is_repeated });
    }

    /// Gives whether the task was answered as failed.
    fn on_malformed_assignment(
        &mut self,
        now: Instant,
        task_id: &str,
        execution_id: Option<&str>,
        problem: &str,
    ) -> bool {
        // An answer would end the run that is active, or the one whose end is on its way.
        if self.tasks.contains_key(task_id) || self.outbox.end_of(task_id).is_some() {
            return false;
        }
        if let Some(reason) = self.cannot_take() {
            self.reject(now, task_id, "", reason);
            return false;
        }
        self.metric(MetricEvent::TaskFailure { phase: FailurePhase::Assignment, reason: FailureReason::Unknown });
        let failed = WorkerMessage::TaskFailed {
            task_id: task_id.to_owned(),
            message: alloc::format!("The assignment could not be understood: {problem}"),
            failure_reason: FailureReason::Unknown,
            exit_code: 0,
        };
        self.post(now, execution_id, failed);
        true
    }

    fn on_cancellation(&mut self, task_id: &str) {
        if let Some(task) = self.tasks.get_mut(task_id) {
            let asked_before = task.stopping.replace(StopCause::User);
            if asked_before.is_none() {
                self.outputs.push_back(Output::StopTask { task_id: task_id.into(), run: task.run });
            }
            self.notice(Notice::CancelRequested { task_id: task_id.into() });
        } else if let Some(execution_id) = self.dispatched.execution(task_id) {
            let execution_id = execution_id.clone();
            self.notice(Notice::CancelRequested { task_id: task_id.into() });
            self.outputs.push_back(Output::CancelDispatched { task_id: task_id.into(), execution_id });
        } else {
            self.notice(Notice::CancelUnknown { task_id: task_id.into() });
        }
    }

    // The end of a task.

    fn on_task_ended(&mut self, now: Instant, task_id: &str, run: RunId, end: TaskEnd) {
        if self.tasks.get(task_id).is_none_or(|task| task.run != run) {
            return;
        }
        let Some(task) = self.tasks.remove(task_id) else { return };
        self.saturated = false;
        for failure in end.cleanup {
            self.metric(MetricEvent::TaskFailure { phase: FailurePhase::Cleanup, reason: failure.reason });
            self.notice(Notice::CleanupFailed { task_id: task_id.into(), failure });
        }
        let outcome = match (end.outcome, task.stopping) {
            (Outcome::Stopped, Some(StopCause::User)) => Ok(TaskResult::Cancelled),
            (Outcome::Stopped, _) => Err(Failure {
                reason: FailureReason::GracefulShutdown,
                exit_code: 0,
                message: "the worker was shut down while the task ran".into(),
            }),
            (Outcome::Completed, _) => Ok(TaskResult::Succeeded),
            (Outcome::Dispatched, _) => Ok(TaskResult::Dispatched),
            (Outcome::Failed(failure), _) => Err(failure),
        };
        let result = outcome.as_ref().map_or(TaskResult::Failed, |result| *result);
        let message = match &outcome {
            Ok(TaskResult::Succeeded) => Some(completed(task_id, "Task completed successfully", None)),
            Ok(TaskResult::Cancelled) => Some(completed(task_id, "Task cancelled by user request.", Some("CANCELLED"))),
            Err(failure) => Some(WorkerMessage::TaskFailed {
                task_id: task_id.to_owned(),
                message: failure.message.clone(),
                failure_reason: failure.reason,
                exit_code: failure.exit_code,
            }),
            Ok(TaskResult::Dispatched | TaskResult::Failed) => None,
        };
        if let Some(message) = message {
            self.post(now, task.execution_id.as_deref(), message);
        }
        if let Err(failure) = &outcome {
            self.metric(MetricEvent::TaskFailure { phase: FailurePhase::Backend, reason: failure.reason });
        }
        let duration = now.since(task.since);
        self.metric(MetricEvent::TaskCompleted { result, duration });
        self.notice(Notice::Ended {
            task_id: task_id.into(),
            result,
            duration,
            failure: outcome.err(),
            active: self.tasks.len(),
        });
        if result == TaskResult::Dispatched {
            self.dispatched.insert(task_id, task.execution_id.clone());
            if task.stopping == Some(StopCause::User) {
                // The cancellation came while the task was handed over: what has it now must hear of it.
                let (task_id, execution_id) = (task_id.into(), task.execution_id);
                self.outputs.push_back(Output::CancelDispatched { task_id, execution_id });
            }
        }
    }

    fn metric(&mut self, event: MetricEvent) {
        self.outputs.push_back(Output::Metric(event));
    }

    fn notice(&mut self, notice: Notice) {
        self.outputs.push_back(Output::Notice(notice));
    }
}

fn completed(task_id: &str, message: &'static str, task_state: Option<&'static str>) -> WorkerMessage {
    WorkerMessage::TaskCompleted { task_id: task_id.to_string(), message, task_state }
}
