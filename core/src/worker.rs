//! The state machine: what happened goes in, what to do comes out.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use crate::agent::{AgentSettings, TaskSpec};
use crate::assignment::Assignment;
use crate::backoff::Backoff;
use crate::message::{DecodeError, ServerMessage, WorkerMessage, decode, raw_task};
use crate::metrics::{FailurePhase, FailureReason, MetricEvent, ReconnectReason, RejectReason, TaskResult};
use crate::notice::{BadFrame, Notice};
use crate::outbox::Outbox;
use crate::time::Instant;

// The times of `docs/protocol.md`.
const DIAL_TIMEOUT: Duration = Duration::from_secs(45);
const PING_INTERVAL: Duration = Duration::from_secs(30);
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// How long the reports of stopped tasks may take to be acknowledged before the worker leaves.
const REPORT_LIMIT: Duration = Duration::from_secs(10);
/// How long the closing handshake may take at the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// How many dispatched tasks are remembered so that a cancellation still finds them; the oldest is forgotten first.
/// A dispatched task's end is never reported to the worker, so something has to bound them.
const DISPATCHED_LIMIT: usize = 4096;

/// What the operator decided.
#[derive(Debug, Clone)]
pub struct Config {
    /// The worker's id, part of every claim.
    pub worker_id: String,
    /// How many tasks may hold a slot at once; 0 means any number.
    pub max_concurrent_tasks: u32,
    /// How long running tasks may go on after the first request to stop.
    pub drain_timeout: Duration,
    /// How long tasks may take to stop when the worker leaves; those that have not by then are reported as failed all
    /// the same.
    pub stop_timeout: Duration,
    /// Whether the worker's end stops its tasks (direct, docker), or leaves what it handed over alone (command,
    /// kubernetes).
    pub stops_tasks_on_shutdown: bool,
    /// What tasks are started with.
    pub agent: AgentSettings,
}

/// Tells one run of a task from every other one in the life of a [`Worker`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(u64);

/// What happened.
#[derive(Debug, Clone)]
pub enum Input<'a> {
    /// Nothing but time passed: [`Worker::poll_timeout`] may have come.
    Timeout,
    /// The dial succeeded; the connection is established.
    Connected,
    /// The dial failed, for this reason in words.
    DialFailed(String),
    /// The established connection ended, for this reason in words.
    Disconnected(String),
    /// A text frame arrived.
    Text(&'a str),
    /// A binary frame of this many bytes arrived.
    Binary(usize),
    /// A Ping arrived. The WebSocket layer answers it.
    Ping,
    /// A Pong with this payload arrived.
    Pong(&'a [u8]),
    /// Every frame that was handed out is written.
    Written,
    /// The backend is done with a task.
    TaskEnded {
        /// Which task.
        task_id: &'a str,
        /// Which run of it.
        run: RunId,
        /// How it ended.
        end: TaskEnd,
    },
    /// The cancel command of a dispatched task failed, for this reason in words.
    CancelFailed {
        /// Which task.
        task_id: &'a str,
        /// Why.
        problem: String,
    },
    /// Somebody asks the worker to stop, with the signal of this name.
    Stop(&'static str),
}

/// What to do.
#[derive(Debug, Clone)]
pub enum Output {
    /// Open a connection; answer with [`Input::Connected`] or [`Input::DialFailed`].
    Dial,
    /// Give up the connection or the dial at once, without an answer.
    Drop,
    /// Put this frame behind those already handed out; [`Input::Written`] once all are written.
    Send(Frame),
    /// Close the connection with code 1000 after what was handed out; answer with [`Input::Disconnected`].
    Close,
    /// Start a task; answer with [`Input::TaskEnded`].
    StartTask {
        /// Which run this is.
        run: RunId,
        /// What to run.
        spec: Box<TaskSpec>,
    },
    /// Stop a task, also one that has not really started; [`Input::TaskEnded`] follows all the same.
    StopTask {
        /// Which task.
        task_id: String,
        /// Which run of it.
        run: RunId,
    },
    /// Run the cancel command for a task that was dispatched.
    CancelDispatched {
        /// Which task.
        task_id: String,
        /// Which execution of it.
        execution_id: Option<String>,
    },
    /// Count this.
    Metric(MetricEvent),
    /// Tell a person this.
    Notice(Notice),
    /// The worker is done: end every task that still runs, flush the telemetry, exit with 0. Nothing comes after it.
    Exit,
}

/// A frame to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A message.
    Text(String),
    /// A Ping with this payload.
    Ping([u8; 8]),
}

/// How a backend is done with a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskEnd {
    /// How the task itself ended.
    pub outcome: Outcome,
    /// What failed after that, in order: teardown, removal of the workspace. Never changes the result.
    pub cleanup: Vec<Failure>,
}

/// How a task itself ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It ran and exited 0.
    Completed,
    /// It was handed to a remote runtime, which reports its end.
    Dispatched,
    /// It failed.
    Failed(Failure),
    /// It was stopped because [`Output::StopTask`] asked for it.
    Stopped,
}

/// What failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The reason, as metrics and messages name it.
    pub reason: FailureReason,
    /// The exit code of what failed, or 0 when there is none.
    pub exit_code: i32,
    /// What happened, in words.
    pub message: String,
}

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

/// The connection, as the worker knows it.
#[derive(Debug)]
enum Connection {
    /// None; the next dial is due at this moment.
    Waiting(Instant),
    /// Being dialled until this moment.
    Dialing(Instant),
    /// Established.
    Open(Session),
    /// Closing at the worker's end, until this moment.
    Closing(Instant),
}

/// An established connection.
#[derive(Debug)]
struct Session {
    last_received: Instant,
    next_ping: Instant,
    /// Until when what was handed out must be written, when something is still unwritten.
    write_limit: Option<Instant>,
}

impl Session {
    fn deadline(&self) -> Instant {
        let silence = self.last_received.plus(SILENCE_LIMIT);
        self.write_limit.map_or(silence, |limit| limit.min(silence)).min(self.next_ping)
    }
}

/// How far the worker is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not at all.
    Running,
    /// Tasks may go on until then.
    Draining(Instant),
    /// Tasks have been asked to stop and may take until then.
    Stopping(Instant),
    /// All tasks ended; their reports may take until then.
    Reporting(Instant),
    /// Nothing is left but to close the connection.
    Leaving,
    /// [`Output::Exit`] was given.
    Gone,
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

/// The tasks that a remote runtime has, oldest first.
#[derive(Debug, Default)]
struct Dispatched {
    executions: BTreeMap<String, Option<String>>,
    order: VecDeque<String>,
}

impl Dispatched {
    fn insert(&mut self, task_id: &str, execution_id: Option<String>) {
        if self.executions.insert(task_id.to_owned(), execution_id).is_none() {
            self.order.push_back(task_id.to_owned());
        }
        if self.order.len() > DISPATCHED_LIMIT
            && let Some(oldest) = self.order.pop_front()
        {
            self.executions.remove(&oldest);
        }
    }
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
            Input::Written => {
                if let Connection::Open(session) = &mut self.connection {
                    session.write_limit = None;
                }
            }
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

    // The connection.

    fn on_connected(&mut self, now: Instant) {
        if !matches!(self.connection, Connection::Dialing(_)) {
            return;
        }
        self.backoff.reset();
        self.connection =
            Connection::Open(Session { last_received: now, next_ping: now.plus(PING_INTERVAL), write_limit: None });
        self.metric(MetricEvent::Connected);
        self.notice(Notice::Connected { unproven_ends: self.outbox.unproven_ends() });
        self.outbox.reconnected();
        let again: Vec<Frame> = self.outbox.messages().map(|message| Frame::Text(message.encode())).collect();
        for frame in again {
            self.send(now, frame);
        }
    }

    fn on_dial_failed(&mut self, now: Instant, cause: String) {
        let wait = self.backoff.next();
        self.connection = Connection::Waiting(now.plus(wait));
        self.metric(MetricEvent::Reconnect(ReconnectReason::DialFailed));
        self.notice(Notice::DialFailed { cause, retry_in: wait });
    }

    fn on_disconnected(&mut self, now: Instant, cause: String) {
        match self.connection {
            Connection::Open(_) => {
                let wait = self.backoff.next();
                self.connection = Connection::Waiting(now.plus(wait));
                self.metric(MetricEvent::Disconnected);
                self.metric(MetricEvent::Reconnect(ReconnectReason::RemoteClose));
                self.notice(Notice::Disconnected { cause, retry_in: wait });
            }
            Connection::Closing(_) => self.exit(),
            Connection::Waiting(_) | Connection::Dialing(_) => {}
        }
    }

    /// Anything that arrives proves life. Gives whether there is a connection on which it can have arrived.
    const fn on_received(&mut self, now: Instant) -> bool {
        let Connection::Open(session) = &mut self.connection else { return false };
        session.last_received = now;
        true
    }

    fn check_connection(&mut self, now: Instant) {
        match &mut self.connection {
            Connection::Waiting(until) if now >= *until && self.phase != Phase::Gone => {
                self.connection = Connection::Dialing(now.plus(DIAL_TIMEOUT));
                self.outputs.push_back(Output::Dial);
            }
            Connection::Dialing(until) if now >= *until => {
                self.outputs.push_back(Output::Drop);
                self.on_dial_failed(now, "not connected after 45 s".into());
            }
            Connection::Open(session) => {
                if session.write_limit.is_some_and(|limit| now >= limit) {
                    self.outputs.push_back(Output::Drop);
                    self.on_disconnected(now, "a write took longer than 10 s".into());
                } else if now >= session.last_received.plus(SILENCE_LIMIT) {
                    self.outputs.push_back(Output::Drop);
                    self.on_disconnected(now, "nothing was received for 60 s".into());
                } else if now >= session.next_ping {
                    session.next_ping = now.plus(PING_INTERVAL);
                    let serial = self.outbox.last_serial();
                    self.ping(now, serial);
                }
            }
            Connection::Closing(until) if now >= *until => self.exit(),
            _ => {}
        }
    }

    fn send(&mut self, now: Instant, frame: Frame) {
        if let Connection::Open(session) = &mut self.connection {
            session.write_limit.get_or_insert(now.plus(WRITE_LIMIT));
            self.outputs.push_back(Output::Send(frame));
        }
    }

    fn ping(&mut self, now: Instant, serial: u64) {
        self.outbox.pinged(serial);
        self.send(now, Frame::Ping(serial.to_be_bytes()));
    }

    /// Asks the server to prove what it was sent, when there is something worth it.
    fn prove(&mut self, now: Instant) {
        if self.is_connected()
            && let Some(serial) = self.outbox.ping_due(self.phase != Phase::Running)
        {
            self.ping(now, serial);
        }
    }

    /// Sends a message, and keeps it until it is proven.
    fn post(&mut self, now: Instant, execution_id: Option<&str>, message: WorkerMessage) {
        if self.is_connected() {
            self.send(now, Frame::Text(message.encode()));
        }
        self.outbox.push(execution_id, message);
    }

    // Messages of the server.

    fn on_text(&mut self, now: Instant, text: &str) {
        let (message_type, problem) = match decode(text) {
            Ok(ServerMessage::TaskAssignment(assignment)) => return self.on_assignment(now, &assignment, text),
            Ok(ServerMessage::TaskCancellation { task_id }) => return self.on_cancellation(&task_id),
            Err(DecodeError::MalformedAssignment { task_id, execution_id, problem }) => {
                self.on_malformed_assignment(now, &task_id, execution_id.as_deref(), &problem);
                (Some("task_assignment".to_owned()), problem)
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
                self.reject(now, task_id, RejectReason::AlreadyRunning);
            };
        }
        // A run whose end the server does not have yet, or that a remote runtime has, is the same run assigned again.
        let ended = self.outbox.end_of(task_id).map(|end| end.execution_id.as_deref() == execution_id);
        if ended == Some(true) {
            return self.report_again(now, task_id);
        }
        if execution_id.is_some()
            && self.dispatched.executions.get(task_id).is_some_and(|id| id.as_deref() == execution_id)
        {
            return self.claim_again(now, task_id, execution_id);
        }
        if let Some(reason) = self.cannot_take() {
            return self.reject(now, task_id, reason);
        }
        if ended == Some(false) {
            // The server has moved on: the old end must not end the new run.
            self.outbox.take(task_id);
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
        self.notice(Notice::Claimed {
            task_id: spec.task_id.clone(),
            execution_id: spec.execution_id.clone(),
            title: spec.title.clone(),
            active: self.tasks.len(),
        });
        self.outputs.push_back(Output::StartTask { run, spec });
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

    /// Sends what the outbox holds of a task once more, behind everything else.
    fn report_again(&mut self, now: Instant, task_id: &str) {
        let execution_id = self.outbox.end_of(task_id).and_then(|end| end.execution_id.clone());
        let entries = self.outbox.take(task_id);
        if !entries.iter().any(|entry| matches!(entry.message, WorkerMessage::TaskClaimed { .. })) {
            let claimed = self.claimed(task_id);
            self.post(now, execution_id.as_deref(), claimed);
        }
        for entry in entries {
            self.post(now, entry.execution_id.as_deref(), entry.message);
        }
        self.notice(Notice::AssignedAgain { task_id: task_id.into() });
    }

    fn reject(&mut self, now: Instant, task_id: &str, reason: RejectReason) {
        let text = match reason {
            RejectReason::AtCapacity => "worker at maximum concurrency",
            RejectReason::ShuttingDown => "worker is shutting down",
            RejectReason::AlreadyRunning => "task is already running on this worker",
        };
        // Not kept: when the connection ends, the server assigns the task to somebody else anyway.
        let message = WorkerMessage::TaskRejected { task_id: task_id.to_owned(), reason: text };
        self.send(now, Frame::Text(message.encode()));
        self.metric(MetricEvent::TaskRejected(reason));
        let told_already = reason == RejectReason::AtCapacity && self.saturated;
        self.saturated |= reason == RejectReason::AtCapacity;
        if !told_already {
            self.notice(Notice::Rejected { task_id: task_id.into(), reason, active: self.tasks.len() });
        }
    }

    fn on_malformed_assignment(&mut self, now: Instant, task_id: &str, execution_id: Option<&str>, problem: &str) {
        // An answer would end the run that is active, or the one whose end is on its way.
        if self.tasks.contains_key(task_id) || self.outbox.end_of(task_id).is_some() {
            return;
        }
        if let Some(reason) = self.cannot_take() {
            return self.reject(now, task_id, reason);
        }
        self.metric(MetricEvent::TaskFailure { phase: FailurePhase::Assignment, reason: FailureReason::Unknown });
        let failed = WorkerMessage::TaskFailed {
            task_id: task_id.to_owned(),
            message: alloc::format!("The assignment could not be understood: {problem}"),
            failure_reason: FailureReason::Unknown,
            exit_code: 0,
        };
        self.post(now, execution_id, failed);
    }

    fn on_cancellation(&mut self, task_id: &str) {
        if let Some(task) = self.tasks.get_mut(task_id) {
            let asked_before = task.stopping.replace(StopCause::User);
            if asked_before.is_none() {
                self.outputs.push_back(Output::StopTask { task_id: task_id.into(), run: task.run });
            }
            self.notice(Notice::CancelRequested { task_id: task_id.into() });
        } else if let Some(execution_id) = self.dispatched.executions.get(task_id) {
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

    // Shutdown.

    fn on_stop(&mut self, now: Instant, signal: &'static str) {
        match self.phase {
            Phase::Running if !self.config.drain_timeout.is_zero() && !self.tasks.is_empty() => {
                self.phase = Phase::Draining(now.plus(self.config.drain_timeout));
                let (timeout, active) = (self.config.drain_timeout, self.tasks.len());
                self.notice(Notice::Draining { signal, active, timeout });
            }
            Phase::Running | Phase::Draining(_) => {
                self.notice(Notice::Stopping { signal, active: self.tasks.len() });
                self.stop_tasks(now);
            }
            Phase::Stopping(_) | Phase::Reporting(_) => {
                self.notice(Notice::Stopping { signal, active: self.tasks.len() });
                self.give_up_tasks(now);
                self.leave(now);
            }
            Phase::Leaving | Phase::Gone => {}
        }
        // Whatever is to be reported does not wait for a backoff that has grown.
        self.backoff.reset();
        if let Connection::Waiting(until) = &mut self.connection
            && (!self.tasks.is_empty() || !self.outbox.is_empty())
        {
            *until = now.min(*until);
        }
    }

    fn stop_tasks(&mut self, now: Instant) {
        self.phase = Phase::Stopping(now.plus(self.config.stop_timeout));
        if !self.config.stops_tasks_on_shutdown {
            return;
        }
        for (task_id, task) in &mut self.tasks {
            if task.stopping.is_none() {
                task.stopping = Some(StopCause::Shutdown);
                self.outputs.push_back(Output::StopTask { task_id: task_id.clone(), run: task.run });
            }
        }
    }

    /// Reports every task that has not stopped in time as stopped: [`Output::Exit`] will end it.
    fn give_up_tasks(&mut self, now: Instant) {
        let left: Vec<(String, RunId)> = self.tasks.iter().map(|(id, task)| (id.clone(), task.run)).collect();
        for (task_id, run) in left {
            let end = TaskEnd { outcome: Outcome::Stopped, cleanup: Vec::new() };
            self.on_task_ended(now, &task_id, run, end);
        }
    }

    fn check_phase(&mut self, now: Instant) {
        match self.phase {
            Phase::Draining(until) if now >= until => {
                self.notice(Notice::DrainTimedOut { active: self.tasks.len() });
                self.stop_tasks(now);
            }
            Phase::Stopping(until) if now >= until => self.give_up_tasks(now),
            _ => {}
        }
        if self.tasks.is_empty() && matches!(self.phase, Phase::Draining(_) | Phase::Stopping(_)) {
            self.phase = Phase::Reporting(now.plus(REPORT_LIMIT));
        }
        if let Phase::Reporting(until) = self.phase
            && (self.outbox.is_empty() || now >= until)
        {
            self.leave(now);
        }
    }

    fn leave(&mut self, now: Instant) {
        self.phase = Phase::Leaving;
        let unproven: Vec<String> =
            self.outbox.messages().filter(|message| message.is_end()).map(|m| m.task_id().to_owned()).collect();
        if !unproven.is_empty() {
            self.notice(Notice::LeavingUnproven { task_ids: unproven });
        }
        match self.connection {
            Connection::Open(_) => {
                self.outputs.push_back(Output::Close);
                self.connection = Connection::Closing(now.plus(CLOSE_LIMIT));
                self.metric(MetricEvent::Disconnected);
            }
            Connection::Dialing(_) | Connection::Waiting(_) | Connection::Closing(_) => self.exit(),
        }
    }

    fn exit(&mut self) {
        self.phase = Phase::Gone;
        self.outputs.push_back(Output::Drop);
        self.outputs.push_back(Output::Exit);
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
