//! The protocol once more, written flat and for reading: from what happens it foretells each output (`docs/protocol.md`).

use std::collections::BTreeMap;
use std::time::Duration;

use oz_worker_core::metrics::{FailurePhase, FailureReason, MetricEvent, ReconnectReason, RejectReason, TaskResult};
use oz_worker_core::time::Instant;
use oz_worker_core::{AfterKill, Config, Failure, Frame, Input, Notice, Outcome, Output, RunId, Worker};

use super::law;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Draining(Instant),
    Stopping(Instant),
    Reporting(Instant),
    Leaving,
    Gone,
}

#[derive(Debug)]
enum Link {
    Down(Instant),
    Dialing(Instant),
    Up {
        silent: Instant,
        ping: Instant,
        write: Option<Instant>,
        /// When it has lasted.
        lasts: Instant,
        /// Whether it brought a message, or has lasted.
        good: bool,
    },
    Closing(Instant),
}

#[derive(Debug)]
struct Task {
    run: Option<RunId>,
    execution: Option<String>,
    since: Instant,
    stopping: bool,
    by_user: bool,
    started: bool,
    end: Option<Outcome>,
}

/// What the server may not have.
#[derive(Debug, Clone)]
struct Kept {
    task: String,
    execution: Option<String>,
    text: String,
    /// How many messages of this connection are before it.
    position: usize,
}

impl Kept {
    fn is_end(&self) -> bool {
        !self.text.contains("task_claimed")
    }
}

/// What the worker is to do. Pings are looked at by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Act {
    Dial,
    Drop,
    Text(String),
    Start(String),
    Stop(String),
    CancelDispatched(String, Option<String>),
    /// A person is told that a connection does better than those before.
    Stays,
    /// The worker becomes ready, or ceases to be.
    Ready(bool),
    Close,
    Exit,
    Count(MetricEvent),
}

/// The worker that was meant.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub struct Reference {
    config: Config,
    now: Instant,
    phase: Phase,
    link: Link,
    /// The step that the next wait between dials is drawn from, and whether the last connection brought nothing.
    backoff: Duration,
    fruitless: bool,
    tasks: BTreeMap<String, Task>,
    /// What is told already while it is still being cleaned up after.
    cleaning: BTreeMap<String, RunId>,
    ready: bool,
    dispatched: BTreeMap<String, Option<String>>,
    /// What runs on without the worker that leaves.
    let_go: BTreeMap<String, Task>,
    kept: Vec<Kept>,
    /// The last ends that were proven.
    told: Vec<Kept>,
    /// Messages and Pings of this connection; a Ping stands with the number of messages before it.
    sent: usize,
    pings: Vec<([u8; 8], usize)>,
    proven: usize,
    awaiting: bool,
    /// What is foretold of this step: its outputs, whether a Ping is due, between which two a wait is drawn.
    acts: Vec<Act>,
    keepalive: bool,
    drawn: Option<(Duration, Duration)>,
}

impl Reference {
    pub fn new(config: &Config) -> Self {
        Self {
            config: config.clone(),
            now: Instant::default(),
            phase: Phase::Running,
            link: Link::Down(Instant::default()),
            backoff: seconds(1),
            fruitless: false,
            tasks: BTreeMap::new(),
            cleaning: BTreeMap::new(),
            ready: true,
            dispatched: BTreeMap::new(),
            let_go: BTreeMap::new(),
            kept: Vec::new(),
            told: Vec::new(),
            sent: 0,
            pings: Vec::new(),
            proven: 0,
            awaiting: false,
            acts: Vec::new(),
            keepalive: false,
            drawn: None,
        }
    }

    /// Foretells what comes of `input` at `now`.
    pub fn foretell(&mut self, now: Instant, input: &Input<'_>) {
        self.now = now;
        self.acts.clear();
        (self.keepalive, self.drawn) = (false, None);
        if self.phase == Phase::Gone {
            return;
        }
        if let Link::Up { silent, write, .. } = &mut self.link {
            match input {
                Input::Text(_) | Input::Binary(_) | Input::Ping | Input::Pong(_) | Input::Received => {
                    *silent = now.plus(seconds(60));
                }
                // A limit is for standing still.
                Input::Taken if write.is_some() => {
                    (*write, *silent) = (Some(now.plus(seconds(10))), now.plus(seconds(60)));
                }
                Input::Written => *write = None,
                _ => {}
            }
        }
        let up = matches!(self.link, Link::Up { .. });
        match input {
            Input::Connected if matches!(self.link, Link::Dialing(_)) => self.connected(),
            Input::DialFailed(_) if matches!(self.link, Link::Dialing(_)) => self.down(ReconnectReason::DialFailed),
            Input::Disconnected(_) => match self.link {
                Link::Up { lasts, good, .. } => self.disconnected(good || now >= lasts),
                Link::Closing(_) => self.exit(),
                _ => {}
            },
            Input::Text(text) if up => self.text(text),
            Input::Pong(payload) if up => {
                if let Some((_, before)) = self.pings.iter().find(|(sent, _)| sent == payload) {
                    self.proven = self.proven.max(*before);
                    let proven = self.proven;
                    let (told, kept): (Vec<Kept>, _) = self.kept.drain(..).partition(|kept| kept.position < proven);
                    self.kept = kept;
                    self.told.extend(told.into_iter().filter(Kept::is_end));
                    self.told.drain(..self.told.len().saturating_sub(256));
                }
                self.awaiting &= self.pings.last().is_none_or(|(sent, _)| sent != payload);
            }
            Input::TaskStarted { task_id, run } if self.is_run(task_id, *run) => {
                self.tasks.get_mut(*task_id).unwrap().started = true;
                if !matches!(self.phase, Phase::Running | Phase::Draining(_)) {
                    self.let_go(task_id);
                }
            }
            Input::TaskFinished { task_id, run, .. } | Input::TaskEnded { task_id, run, .. }
                if self.let_go.get(*task_id).is_some_and(|task| task.run == Some(*run)) =>
            {
                // It is told by whoever takes it up.
                self.let_go.get_mut(*task_id).unwrap().end.get_or_insert(Outcome::Stopped);
            }
            Input::TaskFinished { task_id, run, outcome } if self.is_run(task_id, *run) => {
                self.finished(task_id, outcome.clone());
                if !matches!(self.phase, Phase::Running | Phase::Draining(_)) {
                    self.told(task_id, true);
                }
            }
            Input::TaskEnded { task_id, run, cleanup } => {
                let is_told = self.cleaning.get(*task_id) == Some(run);
                if is_told || self.is_run(task_id, *run) {
                    self.cleaning.remove(*task_id);
                    for failure in cleanup {
                        self.failed(FailurePhase::Cleanup, failure.reason);
                    }
                }
                if !is_told && self.is_run(task_id, *run) {
                    let unknown = FailureReason::Unknown;
                    let words = "internal error of the worker: it does not know how the task ended";
                    self.finished(task_id, Outcome::Failed(failure(unknown, words)));
                    self.told(task_id, false);
                }
            }
            Input::CleanupFailed { failure, .. } => self.failed(FailurePhase::Cleanup, failure.reason),
            Input::CancelFailed { .. } => self.failed(FailurePhase::Cleanup, FailureReason::CancelCommand),
            Input::Stop(_) => self.stop(),
            _ => {}
        }
        if self.phase != Phase::Gone {
            self.look_whether_ready();
            self.due();
        }
    }

    fn is_run(&self, task: &str, run: RunId) -> bool {
        self.tasks.get(task).is_some_and(|task| task.run == Some(run))
    }

    /// When each task that was claimed and has neither started nor finished is late.
    fn starts(&self) -> impl Iterator<Item = Instant> {
        let waiting = self.tasks.values().filter(|task| !task.started && task.end.is_none());
        waiting.map(|task| task.since.plus(seconds(10)))
    }

    fn look_whether_ready(&mut self) {
        let ready = self.starts().all(|late| self.now < late);
        if ready != self.ready {
            self.acts.push(Act::Ready(ready));
        }
        self.ready = ready;
    }

    // The connection.

    fn connected(&mut self) {
        let minute = self.now.plus(seconds(60));
        self.link =
            Link::Up { silent: minute, ping: self.now.plus(seconds(30)), write: None, lasts: minute, good: false };
        (self.sent, self.proven, self.awaiting) = (0, 0, false);
        self.pings.clear();
        self.acts.push(Act::Count(MetricEvent::Connected));
        for kept in std::mem::take(&mut self.kept) {
            self.post(&kept.task, kept.execution, kept.text);
        }
    }

    fn disconnected(&mut self, good: bool) {
        self.acts.push(Act::Count(MetricEvent::Disconnected));
        self.down(ReconnectReason::RemoteClose);
        self.fruitless = !good;
        if good {
            (self.drawn, self.backoff) = (Some((Duration::ZERO, Duration::from_millis(500))), seconds(1));
        }
    }

    /// The connection is worth something, and a person hears of it if the one before was not.
    fn good(&mut self) {
        if let Link::Up { good, .. } = &mut self.link {
            *good = true;
            if std::mem::take(&mut self.fruitless) {
                self.acts.push(Act::Stays);
            }
        }
    }

    fn down(&mut self, reason: ReconnectReason) {
        self.acts.push(Act::Count(MetricEvent::Reconnect(reason)));
        // Until the wait that was drawn is known.
        self.link = Link::Down(self.now);
        self.drawn = Some((self.backoff / 2, self.backoff));
        self.backoff = (self.backoff * 2).min(seconds(60));
    }

    /// Sends a message and keeps it until it is proven.
    fn post(&mut self, task: &str, execution: Option<String>, text: String) {
        self.kept.push(Kept { task: task.into(), execution, text: text.clone(), position: self.sent });
        self.send(text);
    }

    fn send(&mut self, text: String) {
        if let Link::Up { write, .. } = &mut self.link {
            write.get_or_insert(self.now.plus(seconds(10)));
            self.sent += 1;
            self.acts.push(Act::Text(text));
        }
    }

    // What the server says.

    fn text(&mut self, text: &str) {
        self.look_whether_ready();
        let frame: serde_json::Value = serde_json::from_str(text).unwrap();
        let data = &frame["data"];
        let Some(task) = data["task_id"].as_str() else { return };
        self.good();
        if frame["type"] == "task_cancellation" {
            return self.cancel(task);
        }
        let execution = data["execution_id"].as_str().map(str::to_owned);
        let kept: Vec<Kept> = self.kept.iter().filter(|kept| kept.task == task).cloned().collect();
        let end = kept.iter().rev().find(|kept| kept.is_end());
        let sound = data["task"].is_object();
        // Of what cannot be understood, no id may be one that cannot be read either.
        let any = !sound && execution.is_none();
        if let Some(active) = self.tasks.get(task) {
            if !any && active.execution != execution {
                return self.reject(task, RejectReason::AlreadyRunning);
            }
            return self.claim_again(task, active.execution.clone(), kept.is_empty());
        }
        let is_this = |other: &Option<String>| any || *other == execution;
        let was_this = |other: &Option<String>| any || execution.is_some() && *other == execution;
        let told = self.told.iter().rev().find(|told| told.task == task && was_this(&told.execution));
        if let Some(end) = end.filter(|end| is_this(&end.execution)).or(told) {
            // The same execution once more: it is told again how that ended.
            let end = end.text.clone();
            self.send(Self::claimed(task));
            self.send(end);
            return;
        }
        if let Some(let_go) = self.let_go.get(task).filter(|let_go| is_this(&let_go.execution)) {
            return self.claim_again(task, let_go.execution.clone(), kept.is_empty());
        }
        if let Some(handed_over) = self.dispatched.get(task).filter(|handed_over| was_this(handed_over)) {
            return self.claim_again(task, handed_over.clone(), kept.is_empty());
        }
        if let Some(reason) = self.full() {
            return self.reject(task, reason);
        }
        if end.is_some() {
            self.kept.retain(|kept| kept.task != task);
        }
        if !sound {
            return self.malformed(task, execution);
        }
        self.acts.push(Act::Count(MetricEvent::TaskClaimed));
        self.claim(task, execution.clone());
        self.acts.push(Act::Start(task.into()));
        let (since, stopping, by_user, started) = (self.now, false, false, false);
        let task_now = Task { run: None, execution, since, stopping, by_user, started, end: None };
        self.tasks.insert(task.into(), task_now);
    }

    fn claimed(task: &str) -> String {
        format!(r#"{{"type":"task_claimed","data":{{"task_id":"{task}","worker_id":"w"}}}}"#)
    }

    fn claim(&mut self, task: &str, execution: Option<String>) {
        self.post(task, execution, Self::claimed(task));
    }

    fn claim_again(&mut self, task: &str, execution: Option<String>, keep: bool) {
        if keep { self.claim(task, execution) } else { self.send(Self::claimed(task)) }
    }

    fn full(&self) -> Option<RejectReason> {
        let limit = self.config.max_concurrent_tasks as usize;
        if self.phase != Phase::Running {
            return Some(RejectReason::ShuttingDown);
        }
        if !self.ready {
            return Some(RejectReason::NotReady);
        }
        (limit > 0 && self.tasks.len() == limit).then_some(RejectReason::AtCapacity)
    }

    fn reject(&mut self, task: &str, reason: RejectReason) {
        let words = match reason {
            RejectReason::AtCapacity => "worker at maximum concurrency",
            RejectReason::ShuttingDown => "worker is shutting down",
            RejectReason::AlreadyRunning => "task is already running on this worker",
            RejectReason::NotReady => "worker is not ready",
        };
        self.send(format!(r#"{{"type":"task_rejected","data":{{"task_id":"{task}","reason":"{words}"}}}}"#));
        self.acts.push(Act::Count(MetricEvent::TaskRejected(reason)));
    }

    fn malformed(&mut self, task: &str, execution: Option<String>) {
        self.failed(FailurePhase::Assignment, FailureReason::Unknown);
        // The flaw of `step::malformed`.
        let message = "The assignment could not be understood: task must be an object, not a string";
        self.post(task, execution, fail(task, message, FailureReason::Unknown, 0));
    }

    fn cancel(&mut self, task: &str) {
        // What was let go and has not finished meanwhile.
        if self.let_go.get(task).is_some_and(|let_go| let_go.end.is_none()) {
            let let_go = self.let_go.remove(task).unwrap();
            self.tasks.insert(task.into(), let_go);
        }
        if self.let_go.contains_key(task) {
            return;
        }
        if let Some(active) = self.tasks.get_mut(task) {
            if active.end.is_some() {
                return;
            }
            active.by_user = true;
            if !std::mem::replace(&mut active.stopping, true) {
                self.acts.push(Act::Stop(task.into()));
            }
        } else if self.cleaning.contains_key(task) {
        } else if let Some(execution) = self.dispatched.get(task) {
            self.acts.push(Act::CancelDispatched(task.into(), execution.clone()));
        }
    }

    // The end of a task.

    fn finished(&mut self, task: &str, outcome: Outcome) {
        self.tasks.get_mut(task).unwrap().end.get_or_insert(outcome);
    }

    fn told(&mut self, task: &str, cleaning: bool) {
        let Some(Task { run, execution, since, by_user, end, .. }) = self.tasks.remove(task) else { return };
        if cleaning && let Some(run) = run {
            self.cleaning.insert(task.into(), run);
        }
        let given_up = failure(FailureReason::GracefulShutdown, "the worker was shut down while the task ran");
        let complete =
            |rest: &str| format!(r#"{{"type":"task_completed","data":{{"task_id":"{task}","message":{rest}}}}}"#);
        let (result, text, failure) = match end.as_ref().unwrap() {
            Outcome::Completed => (TaskResult::Succeeded, Some(complete(r#""Task completed successfully""#)), None),
            Outcome::Dispatched => (TaskResult::Dispatched, None, None),
            Outcome::Stopped if by_user => {
                let words = r#""Task cancelled by user request.","task_state":"CANCELLED""#;
                (TaskResult::Cancelled, Some(complete(words)), None)
            }
            Outcome::Stopped => (TaskResult::Failed, None, Some(&given_up)),
            Outcome::Failed(failure) => (TaskResult::Failed, None, Some(failure)),
        };
        let text = text.or(failure.map(|f| fail(task, &f.message, f.reason, f.exit_code)));
        if let Some(text) = text {
            self.post(task, execution.clone(), text);
        }
        if let Some(failure) = failure {
            self.failed(FailurePhase::Backend, failure.reason);
        }
        self.acts.push(Act::Count(MetricEvent::TaskCompleted { result, duration: self.now.since(since) }));
        if result == TaskResult::Dispatched {
            if by_user {
                self.acts.push(Act::CancelDispatched(task.into(), execution.clone()));
            }
            self.dispatched.insert(task.into(), execution);
        }
    }

    fn failed(&mut self, phase: FailurePhase, reason: FailureReason) {
        self.acts.push(Act::Count(MetricEvent::TaskFailure { phase, reason }));
    }

    // The way out, and what time brings.

    fn stop(&mut self) {
        match self.phase {
            Phase::Running if !self.config.drain_timeout.is_zero() && !self.tasks.is_empty() => {
                self.phase = Phase::Draining(self.now.plus(self.config.drain_timeout));
            }
            Phase::Running | Phase::Draining(_) => self.stop_tasks(),
            Phase::Stopping(_) | Phase::Reporting(_) => {
                self.give_up();
                self.leave();
            }
            Phase::Leaving | Phase::Gone => return,
        }
        self.backoff = seconds(1);
        if let Link::Down(at) = &mut self.link
            && !(self.tasks.is_empty() && self.kept.is_empty())
        {
            *at = self.now.min(*at);
        }
    }

    fn stop_tasks(&mut self) {
        self.phase = Phase::Stopping(self.now.plus(self.config.stop_timeout));
        for task in self.tasks.keys().cloned().collect::<Vec<_>>() {
            let active = self.tasks.get_mut(&task).unwrap();
            if active.end.is_some() {
                self.told(&task, true);
            } else if self.config.stops_tasks_on_shutdown {
                if !std::mem::replace(&mut active.stopping, true) {
                    self.acts.push(Act::Stop(task));
                }
            } else {
                self.let_go(&task);
            }
        }
    }

    /// Lets a task run on without the worker, if it can.
    fn let_go(&mut self, task: &str) {
        let can_go = !self.config.stops_tasks_on_shutdown && self.config.after_kill == AfterKill::Resumes;
        let goes = |task: &&Task| task.started && !task.stopping && task.end.is_none();
        if can_go && self.tasks.get(task).as_ref().is_some_and(goes) {
            let task_now = self.tasks.remove(task).unwrap();
            self.let_go.insert(task.into(), task_now);
        }
    }

    fn give_up(&mut self) {
        for task in self.tasks.keys().cloned().collect::<Vec<_>>() {
            let active = self.tasks.get_mut(&task).unwrap();
            if active.end.is_none() && !std::mem::replace(&mut active.stopping, true) {
                self.acts.push(Act::Stop(task.clone()));
            }
            self.finished(&task, Outcome::Stopped);
            self.told(&task, false);
        }
        self.cleaning.clear();
    }

    fn leave(&mut self) {
        self.phase = Phase::Leaving;
        if matches!(self.link, Link::Up { .. }) {
            self.link = Link::Closing(self.now.plus(seconds(2)));
            self.acts.extend([Act::Close, Act::Count(MetricEvent::Disconnected)]);
        } else {
            self.exit();
        }
    }

    fn exit(&mut self) {
        self.phase = Phase::Gone;
        self.acts.extend([Act::Drop, Act::Exit]);
    }

    fn due(&mut self) {
        let now = self.now;
        if matches!(self.phase, Phase::Draining(at) if now >= at) {
            self.stop_tasks();
        }
        if matches!(self.phase, Phase::Stopping(at) if now >= at) {
            self.give_up();
        }
        if matches!(self.phase, Phase::Reporting(at) if now >= at) {
            self.give_up();
        }
        let over = self.tasks.is_empty() && self.cleaning.is_empty();
        if over && matches!(self.phase, Phase::Draining(_) | Phase::Stopping(_)) {
            self.phase = Phase::Reporting(now.plus(seconds(10)));
        }
        if let Phase::Reporting(at) = self.phase
            && (over && self.kept.is_empty() || now >= at)
        {
            self.leave();
        }
        match self.link {
            _ if self.phase == Phase::Gone => {}
            Link::Down(at) if self.drawn.is_none() && now >= at => {
                self.link = Link::Dialing(now.plus(seconds(45)));
                self.acts.push(Act::Dial);
            }
            Link::Dialing(at) if now >= at => {
                self.acts.push(Act::Drop);
                self.down(ReconnectReason::DialFailed);
            }
            Link::Up { silent, write, good, .. } if now >= silent || write.is_some_and(|at| now >= at) => {
                self.acts.push(Act::Drop);
                self.disconnected(good);
            }
            Link::Up { silent, ping, lasts, .. } => {
                // Something was received when it had lasted.
                if silent >= lasts.plus(seconds(60)) {
                    self.good();
                }
                self.keepalive = now >= ping;
            }
            Link::Closing(at) if now >= at => self.exit(),
            _ => {}
        }
    }

    // What came.

    /// Holds `outputs` against what was foretold.
    pub fn compare(&mut self, outputs: &[Output], worker: &Worker) {
        let (ends, kept) = (self.kept.iter().filter(|kept| kept.is_end()).count(), worker.unproven_ends());
        law!("nothing is lost, doubled or out of order", kept == ends, "{kept} ends are kept, not {ends}");
        let mut acts = Vec::new();
        let mut pinged = false;
        for output in outputs {
            acts.push(match output {
                Output::Dial => Act::Dial,
                Output::Drop => Act::Drop,
                Output::Send(Frame::Text(text)) => {
                    law!("a Ping stands behind the messages that it proves", !pinged);
                    Act::Text(text.clone())
                }
                Output::Send(Frame::Ping(payload)) => {
                    self.pinged(*payload);
                    pinged = true;
                    continue;
                }
                Output::Close => Act::Close,
                Output::StartTask { run, spec } => {
                    if let Some(task) = self.tasks.get_mut(&spec.task_id) {
                        task.run = Some(*run);
                    }
                    Act::Start(spec.task_id.clone())
                }
                Output::StopTask { task_id, .. } => Act::Stop(task_id.clone()),
                Output::CancelDispatched { task_id, execution_id } => {
                    Act::CancelDispatched(task_id.clone(), execution_id.clone())
                }
                Output::Metric(event) => Act::Count(*event),
                Output::Notice(Notice::DialFailed { retry_in, .. } | Notice::Disconnected { retry_in, .. }) => {
                    self.waits(*retry_in);
                    continue;
                }
                Output::Notice(Notice::Connected { is_repeated, .. }) => {
                    law!("one line for a row of connections that bring nothing", *is_repeated == self.fruitless);
                    continue;
                }
                Output::Notice(Notice::ConnectionStays) => Act::Stays,
                Output::Notice(Notice::NotReady { .. }) => Act::Ready(false),
                Output::Notice(Notice::Ready) => Act::Ready(true),
                // Its law is in `watch`.
                Output::Settled { .. } | Output::Notice(_) => continue,
                Output::ResumeTask { .. } | Output::Persist { .. } => {
                    panic!("broken law: records only what it is asked to")
                }
                Output::Exit => Act::Exit,
            });
        }
        self.law_of_difference(&acts);
        law!("a Ping goes out every 30 s", pinged || !self.keepalive);
        law!("the wait before a dial is drawn anew each time", self.drawn.is_none());
        self.proof_is_under_way();
        law!("the next timer is the next thing due", worker.poll_timeout() == self.next(), "{:?}", self.next());
    }

    fn pinged(&mut self, payload: [u8; 8]) {
        self.pings.push((payload, self.sent));
        self.awaiting = true;
        if let Link::Up { ping, write, .. } = &mut self.link {
            write.get_or_insert(self.now.plus(seconds(10)));
            if self.keepalive {
                *ping = self.now.plus(seconds(30));
            }
        }
    }

    fn waits(&mut self, wait: Duration) {
        let drawn = self.drawn.take();
        let is_within = drawn.is_some_and(|(least, most)| wait >= least && wait <= most);
        let is_soon = drawn.is_some_and(|(least, _)| least.is_zero());
        law!("after a good connection the next dial is within 500 ms", is_within || !is_soon, "{wait:?}");
        law!("the wait before a dial is 50 to 100 % of its step", is_within, "{wait:?} of {drawn:?}");
        if let Link::Down(at) = &mut self.link {
            *at = self.now.plus(wait);
        }
    }

    /// While the server may lack an end, or anything at all on the way out, it owes an answer to a Ping; the next Ping
    /// follows that.
    fn proof_is_under_way(&self) {
        let all = self.phase != Phase::Running;
        let lacks = self.kept.iter().any(|kept| all || kept.is_end());
        law!("a Ping asks for the proof", self.awaiting || !lacks || !matches!(self.link, Link::Up { .. }));
    }

    fn next(&self) -> Option<Instant> {
        let link = match self.link {
            Link::Down(at) | Link::Dialing(at) | Link::Closing(at) => at,
            Link::Up { silent, ping, write, .. } => write.map_or(silent, |write| write.min(silent)).min(ping),
        };
        let start = self.starts().min().filter(|_| self.ready);
        let next = start.map_or(link, |start| start.min(link));
        match self.phase {
            Phase::Gone => None,
            Phase::Running | Phase::Leaving => Some(next),
            Phase::Draining(at) | Phase::Stopping(at) | Phase::Reporting(at) => Some(next.min(at)),
        }
    }

    /// Names the law that the first difference breaks.
    fn law_of_difference(&self, acts: &[Act]) {
        let Some(at) = (0..acts.len().max(self.acts.len())).find(|at| acts.get(*at) != self.acts.get(*at)) else {
            return;
        };
        let (came, foretold) = (acts.get(at), self.acts.get(at));
        let law = match foretold.or(came) {
            Some(Act::Count(_)) => "each counter equals what happened",
            Some(Act::Text(_)) => "nothing is lost, doubled or out of order",
            Some(Act::Ready(_)) => "what does not start in time makes the worker not ready",
            Some(Act::Start(_)) => "every task that fits is started",
            Some(Act::Stop(_) | Act::CancelDispatched(..)) => "what is cancelled, or running at the end, is stopped",
            _ => "the connection is dialled, dropped and closed when it is due",
        };
        panic!("broken law: {law}: {came:?} came, {foretold:?} was foretold; all that came: {acts:?}");
    }
}

fn fail(task: &str, message: &str, reason: FailureReason, exit_code: i32) -> String {
    let code = if exit_code == 0 { String::new() } else { format!(r#","exit_code":{exit_code}"#) };
    format!(
        r#"{{"type":"task_failed","data":{{"task_id":"{task}","message":"{message}","failure_reason":"{reason}"{code}}}}}"#
    )
}

fn failure(reason: FailureReason, message: &str) -> Failure {
    Failure { reason, exit_code: 0, message: message.into() }
}
