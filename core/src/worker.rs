//! The state machine: what happened goes in, what to do comes out.

mod connection;
mod io;
mod journal;
mod phase;
mod readiness;
mod restored;
mod session;
mod shutdown;
mod task;
mod tasks;

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;

use crate::agent::TaskSpec;
use crate::assignment::Assignment;
use crate::backoff::Backoff;
use crate::flaw::Flaw;
use crate::message::{DecodeError, ServerMessage, WorkerMessage, decode, raw_task};
use crate::metrics::{FailurePhase, FailureReason, MetricEvent, RejectReason};
use crate::notice::{BadFrame, Cause, Notice, Problem};
use crate::outbox::{Entry, Outbox};
use crate::recent::Recent;
use crate::record::Record;
use crate::time::Instant;
pub use io::{AfterKill, Config, Frame, Input, Output, RunId};
use journal::{Journal, Step};
use phase::Phase;
use readiness::Readiness;
use session::Connection;
use task::Task;

/// How many dispatched tasks are remembered so that a cancellation still finds them. A dispatched task's end is never
/// reported to the worker, so something has to bound them.
const DISPATCHED_LIMIT: usize = 4096;

/// Which execution an assignment is of.
#[derive(Clone, Copy)]
enum Of<'a> {
    /// This one, or of a server that names none.
    Execution(Option<&'a str>),
    /// Any: as much of it cannot be read.
    Unknown,
}

impl Of<'_> {
    /// Whether the assignment may be of this execution.
    fn may_be(self, execution_id: Option<&str>) -> bool {
        match self {
            Self::Execution(own) => own == execution_id,
            Self::Unknown => true,
        }
    }

    /// As [`may_be`](Self::may_be), of an execution that is over here: without an id the next one looks the same.
    fn may_have_been(self, execution_id: Option<&str>) -> bool {
        self.may_be(execution_id) && (execution_id.is_some() || matches!(self, Self::Unknown))
    }
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
    /// Whether the last connection brought nothing: then a person is told of the next only when that does better.
    is_fruitless: bool,
    tasks: BTreeMap<String, Task>,
    /// The tasks whose end is told already, because the worker leaves, and that are still being cleaned up after.
    cleaning: BTreeMap<String, RunId>,
    /// The tasks that this worker leaves alone on its way out: they run on, and the next one takes them up.
    let_go: BTreeMap<String, Task>,
    runs: u64,
    readiness: Readiness,
    /// The tasks that a remote runtime has, with their executions.
    dispatched: Recent<Option<String>>,
    outbox: Outbox,
    journal: Journal,
    /// Why the last assignments were rejected, when one line in the log tells of a whole row of them.
    row: Option<RejectReason>,
    outputs: VecDeque<Output>,
}

impl Worker {
    /// A worker that is about to dial for the first time. `seed` draws the jitter of its waits: give each process
    /// another one.
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            journal: Journal::new(config.journal),
            config,
            phase: Phase::Running,
            connection: Connection::Waiting(Instant::default()),
            backoff: Backoff::new(seed),
            is_fruitless: false,
            tasks: BTreeMap::new(),
            cleaning: BTreeMap::new(),
            let_go: BTreeMap::new(),
            runs: 0,
            readiness: Readiness::default(),
            dispatched: Recent::new(DISPATCHED_LIMIT),
            outbox: Outbox::default(),
            row: None,
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

    /// Whether the tasks that are claimed start in time. While they do not, no other is claimed.
    pub const fn is_ready(&self) -> bool {
        self.readiness.is_ready()
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
        let phase = match self.phase {
            Phase::Gone => return None,
            Phase::Running | Phase::Leaving => None,
            Phase::Draining(until) | Phase::Stopping(until) | Phase::Reporting(until) => Some(until),
        };
        [Some(connection), phase, self.readiness.deadline()].into_iter().flatten().min()
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
                    self.on_dial_failed(now, Cause::Outside(cause));
                }
            }
            Input::Disconnected(cause) => self.on_disconnected(now, Cause::Outside(cause)),
            Input::Text(text) => {
                if self.on_received(now) {
                    // A task that is late now must not be joined by another.
                    self.check_readiness(now);
                    self.on_text(now, text);
                }
            }
            Input::Binary(size) => {
                if self.on_received(now) {
                    let problem = Problem::Binary;
                    self.notice(Notice::BadFrame(BadFrame { size, problem, message_type: None }));
                }
            }
            Input::Ping | Input::Received => {
                self.on_received(now);
            }
            Input::Taken => self.on_taken(now),
            Input::Pong(payload) => {
                if self.on_received(now)
                    && let Ok(serial) = payload.try_into()
                {
                    self.on_proven(u64::from_be_bytes(serial));
                }
            }
            Input::Written => self.on_written(),
            Input::TaskStarted { task_id, run } => self.on_task_started(task_id, run),
            Input::TaskFinished { task_id, run, outcome } => self.on_task_finished(now, task_id, run, outcome),
            Input::TaskEnded { task_id, run, cleanup } => self.on_task_ended(now, task_id, run, cleanup),
            Input::CleanupFailed { task_id, failure } => self.on_cleanup_failed(task_id, failure),
            Input::CancelFailed { task_id, problem } => {
                self.metric(MetricEvent::TaskFailure {
                    phase: FailurePhase::Cleanup,
                    reason: FailureReason::CancelCommand,
                });
                self.notice(Notice::CancelFailed { task_id: task_id.into(), problem });
            }
            Input::Found { task_id, execution_id, age } => self.on_found(now, task_id, execution_id, age),
            Input::Durable(number) => {
                while let Some(step) = self.journal.release(number) {
                    self.take(now, step);
                }
            }
            Input::Stop(signal) => self.on_stop(now, signal),
        }
        self.check_readiness(now);
        self.check_phase(now);
        self.check_connection(now);
        self.prove(now);
    }

    /// The server has everything up to this serial.
    fn on_proven(&mut self, serial: u64) {
        for end in self.outbox.proven(serial) {
            self.persist(|| Record::Told { task_id: end.task_id.clone(), execution_id: end.execution_id.clone() });
            self.settled(end.task_id.clone(), end.execution_id.clone());
            self.outbox.remember(end);
        }
    }

    // Messages of the server.

    fn on_text(&mut self, now: Instant, text: &str) {
        let (message_type, problem) = match decode(text) {
            Ok(ServerMessage::TaskAssignment(assignment)) => {
                self.on_good();
                return self.on_assignment(now, &assignment, text);
            }
            Ok(ServerMessage::TaskCancellation { task_id }) => {
                self.on_good();
                return self.on_cancellation(now, &task_id);
            }
            Err(DecodeError::MalformedAssignment { task_id, execution_id, flaw }) => {
                self.on_good();
                let is_answered = self.on_malformed_assignment(now, &task_id, execution_id.as_deref(), &flaw);
                let (task_id, size) = (task_id.into_owned(), text.len());
                return self.notice(Notice::MalformedAssignment { task_id, size, flaw, is_answered });
            }
            Err(DecodeError::Malformed { message_type, flaw }) => {
                (Some(message_type.to_owned()), Problem::Malformed(flaw))
            }
            Err(DecodeError::NotJson) => (None, Problem::NotJson),
            Err(DecodeError::UnknownType { message_type }) => (message_type, Problem::UnknownType),
        };
        self.notice(Notice::BadFrame(BadFrame { size: text.len(), message_type, problem }));
    }

    fn on_assignment(&mut self, now: Instant, assignment: &Assignment<'_>, text: &str) {
        let task_id = assignment.task_id.as_str();
        if self.answer_known(now, task_id, Of::Execution(assignment.execution_id()), assignment.title()) {
            return;
        }
        if let Some(reason) = self.cannot_take() {
            return self.reject(now, task_id, assignment.title(), reason);
        }
        self.forget_older(task_id);
        self.row = None;
        self.start(now, assignment, text);
    }

    /// Answers an assignment of a run that is known, or that cannot be told from one. Gives whether it was such a one.
    fn answer_known(&mut self, now: Instant, task_id: &str, of: Of<'_>, title: &str) -> bool {
        if let Some(task) = self.tasks.get(task_id) {
            if of.may_be(task.execution_id.as_deref()) {
                let (execution_id, is_handed_out) = (task.execution_id.clone(), task.is_handed_out());
                self.claim_again(now, task_id, execution_id.as_deref(), is_handed_out);
            } else {
                self.reject(now, task_id, title, RejectReason::AlreadyRunning);
            }
            return true;
        }
        // The end of this very run is under way; or it was proven lately, and the assignment was sent before the server heard
        // of it, but behind the Pong that proved it: servers read, answer Pings and write in different threads.
        let unproven = self.outbox.end_of(task_id).filter(|end| of.may_be(end.execution_id.as_deref()));
        if let Some(end) = unproven.or_else(|| self.outbox.told(task_id, |told| of.may_have_been(told))) {
            let end = end.text.clone();
            self.report_again(now, task_id, end);
            return true;
        }
        // What runs on without this worker is no task for another one.
        let let_go = self.let_go.get(task_id).map(|task| &task.execution_id);
        if let Some(execution_id) = let_go.filter(|execution_id| of.may_be(execution_id.as_deref())).cloned() {
            self.claim_again(now, task_id, execution_id.as_deref(), true);
            return true;
        }
        // What a remote runtime has is the same run assigned again.
        let dispatched = self.dispatched.get(task_id).filter(|execution_id| of.may_have_been(execution_id.as_deref()));
        if let Some(execution_id) = dispatched.cloned() {
            self.claim_again(now, task_id, execution_id.as_deref(), true);
            return true;
        }
        false
    }

    /// Drops what an older execution of a task has still to say: the server has moved on, and its end must not end the new
    /// run.
    fn forget_older(&mut self, task_id: &str) {
        if let Some(end) = self.outbox.end_of(task_id) {
            let execution_id = end.execution_id.clone();
            self.outbox.forget(task_id);
            self.persist(|| Record::Forgotten { task_id: task_id.into() });
            self.settled(task_id.into(), execution_id);
        }
    }

    fn settled(&mut self, task_id: String, execution_id: Option<String>) {
        self.outputs.push_back(Output::Settled { task_id, execution_id });
    }

    /// Why no further task can be taken, when that is so.
    fn cannot_take(&self) -> Option<RejectReason> {
        let limit = self.config.max_concurrent_tasks as usize;
        if self.phase != Phase::Running {
            Some(RejectReason::ShuttingDown)
        } else if !self.is_ready() {
            Some(RejectReason::NotReady)
        } else if limit > 0 && self.tasks.len() >= limit {
            Some(RejectReason::AtCapacity)
        } else {
            None
        }
    }

    fn start(&mut self, now: Instant, assignment: &Assignment<'_>, text: &str) {
        let raw = raw_task(text).map_or("null", |raw| raw.get());
        let spec = Box::new(TaskSpec::new(assignment, raw, &self.config.agent));
        self.runs += 1;
        let (task_id, execution_id, run) = (spec.task_id.clone(), spec.execution_id.clone(), RunId(self.runs));
        self.tasks.insert(task_id.clone(), Task::new(now, run, execution_id.clone()));
        self.readiness.claimed(now, run);
        self.metric(MetricEvent::TaskClaimed);
        self.persist(|| Record::Claimed { task_id: task_id.clone(), execution_id });
        if self.config.after_kill == AfterKill::IsCancelled {
            self.persist(|| Record::Dispatching { task_id });
        }
        self.once_safe(now, Step::Start { run, spec });
    }

    fn claimed(&self, task_id: &str) -> WorkerMessage {
        WorkerMessage::TaskClaimed { task_id: task_id.to_owned(), worker_id: self.config.worker_id.clone() }
    }

    /// `is_handed_out` is false of a task whose first claim waits for its record: that one is answer enough.
    fn claim_again(&mut self, now: Instant, task_id: &str, execution_id: Option<&str>, is_handed_out: bool) {
        let claimed = self.claimed(task_id);
        if self.outbox.holds(task_id) {
            self.send(now, Frame::Text(claimed.encode()));
        } else if is_handed_out {
            self.post(now, Entry::new(execution_id, &claimed));
        }
        self.notice(Notice::AssignedAgain { task_id: task_id.into() });
    }

    /// Sends claim and end of an execution once more. What is not proven of them keeps its place in the outbox: on the next
    /// connection each task's messages come in the order in which things happened.
    fn report_again(&mut self, now: Instant, task_id: &str, end: String) {
        let claimed = self.claimed(task_id);
        self.send(now, Frame::Text(claimed.encode()));
        self.send(now, Frame::Text(end));
        self.notice(Notice::AssignedAgain { task_id: task_id.into() });
    }

    fn reject(&mut self, now: Instant, task_id: &str, title: &str, reason: RejectReason) {
        // Not kept: when the connection ends, the server assigns the task to somebody else anyway.
        self.send(now, Frame::Text(WorkerMessage::rejected(task_id, reason).encode()));
        self.metric(MetricEvent::TaskRejected(reason));
        let is_repeated = self.row == Some(reason);
        if matches!(reason, RejectReason::AtCapacity | RejectReason::NotReady) {
            self.row = Some(reason);
        }
        let (task_id, title, active) = (task_id.into(), title.into(), self.tasks.len());
        self.notice(Notice::Rejected { task_id, title, reason, active, is_repeated });
    }

    /// Gives whether the task was answered as failed.
    fn on_malformed_assignment(
        &mut self,
        now: Instant,
        task_id: &str,
        execution_id: Option<&str>,
        flaw: &Flaw,
    ) -> bool {
        // A run has one end, however its assignment looks the second time.
        let of = execution_id.map_or(Of::Unknown, |execution_id| Of::Execution(Some(execution_id)));
        if self.answer_known(now, task_id, of, "") {
            return false;
        }
        if let Some(reason) = self.cannot_take() {
            self.reject(now, task_id, "", reason);
            return false;
        }
        self.forget_older(task_id);
        self.metric(MetricEvent::TaskFailure { phase: FailurePhase::Assignment, reason: FailureReason::Unknown });
        let entry = Entry::new(execution_id, &WorkerMessage::not_understood(task_id, flaw));
        // Nothing waits for the record: nothing ran, and without it the server asks once more.
        self.persist(|| Record::Finished {
            task_id: task_id.into(),
            execution_id: entry.execution_id.clone(),
            message: entry.text.clone(),
        });
        self.post(now, entry);
        true
    }

    // Records, and what waits for them.

    fn persist(&mut self, record: impl FnOnce() -> Record) {
        self.outputs.extend(self.journal.append(record));
    }

    /// Takes a step once everything that is recorded so far is safe.
    fn once_safe(&mut self, now: Instant, step: Step) {
        if let Some(step) = self.journal.hold(step) {
            self.take(now, step);
        }
    }

    fn take(&mut self, now: Instant, step: Step) {
        match step {
            Step::Start { run, spec } => self.hand_out(now, run, spec),
            Step::Stop { task_id, run } => self.stop_task(&task_id, run),
            Step::Tell { task_id, run } => self.on_end_safe(now, &task_id, run),
        }
    }

    fn metric(&mut self, event: MetricEvent) {
        self.outputs.push_back(Output::Metric(event));
    }

    fn notice(&mut self, notice: Notice) {
        self.outputs.push_back(Output::Notice(notice));
    }
}
