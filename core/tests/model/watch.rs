//! The laws, watched from outside: what was handed in, what came out, and what a server would know of it.

use std::collections::{BTreeMap, BTreeSet};

use oz_worker_core::metrics::{MetricEvent, TaskResult};
use oz_worker_core::record::Record;
use oz_worker_core::time::Instant;
use oz_worker_core::{AfterKill, Config, Frame, Input, Notice, Output, RunId, Worker};

use super::law;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    Dialing,
    Up,
    Closing,
    Gone,
}

/// Everything that can be seen from outside.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub struct Watch {
    limit: usize,
    /// Whether a worker that leaves lets go what has started and nobody stops: the next one takes it up.
    lets_go: bool,
    link: Link,
    signalled: bool,
    unwritten: bool,
    /// All runs there ever were, and those of them that hold a slot.
    runs: Vec<(String, RunId)>,
    active: BTreeMap<String, RunId>,
    stopping: BTreeSet<RunId>,
    /// The runs that have started, those that have finished, and those that were cleaned up after too.
    started: BTreeSet<RunId>,
    finished: BTreeSet<RunId>,
    ended: BTreeSet<RunId>,
    /// The records, how many of them are safe, and whether there are any: an end may wait for its record then.
    pub records: Vec<Record>,
    pub safe: usize,
    journal: bool,
    /// The runs that the worker leaves alone on its way out, and those of them that it stops after all.
    let_go: BTreeMap<String, RunId>,
    taken_back: BTreeSet<RunId>,
    /// The tasks whose last run owes the server an end.
    owing: BTreeSet<String>,
    /// The tasks of which a run was handed over. An old one that is assigned again is claimed again and has no end.
    handed_over: BTreeSet<String>,
    /// This connection's messages, and its Pings with the number of messages before them.
    sent: Vec<String>,
    pings: Vec<([u8; 8], usize)>,
    proven: usize,
    answered: bool,
    /// What the server has for certain: a connection that is cut takes everything with it that is not proven.
    delivered: Vec<String>,
    claimed: u64,
    completed: u64,
    connected: i64,
}

impl Watch {
    pub fn new(config: &Config, journal: bool) -> Self {
        Self {
            limit: config.max_concurrent_tasks as usize,
            lets_go: !config.stops_tasks_on_shutdown && config.after_kill == AfterKill::Resumes,
            link: Link::Down,
            signalled: false,
            unwritten: false,
            runs: Vec::new(),
            active: BTreeMap::new(),
            stopping: BTreeSet::new(),
            started: BTreeSet::new(),
            finished: BTreeSet::new(),
            ended: BTreeSet::new(),
            records: Vec::new(),
            safe: 0,
            journal,
            let_go: BTreeMap::new(),
            taken_back: BTreeSet::new(),
            owing: BTreeSet::new(),
            handed_over: BTreeSet::new(),
            sent: Vec::new(),
            pings: Vec::new(),
            proven: 0,
            answered: true,
            delivered: Vec::new(),
            claimed: 0,
            completed: 0,
            connected: 0,
        }
    }

    pub fn before(&mut self, input: &Input<'_>) {
        match (input, self.link) {
            (Input::Connected, Link::Dialing) => self.link = Link::Up,
            (Input::DialFailed(_), Link::Dialing) => self.link = Link::Down,
            (Input::Disconnected(_), Link::Up | Link::Closing) => self.cut(),
            (Input::Written, _) => self.unwritten = false,
            (Input::Pong(payload), Link::Up) => {
                if let Some((_, before)) = self.pings.iter().find(|(sent, _)| sent == payload) {
                    self.proven = self.proven.max(*before);
                }
                self.answered |= self.pings.last().is_some_and(|(sent, _)| sent == payload);
            }
            (Input::TaskStarted { run, .. }, _) => drop(self.started.insert(*run)),
            (Input::TaskFinished { run, .. }, _) => drop(self.finished.insert(*run)),
            (Input::TaskEnded { run, .. }, _) => {
                self.finished.insert(*run);
                self.ended.insert(*run);
            }
            (Input::Durable(number), _) => {
                self.safe = self.safe.max(usize::try_from(*number).unwrap().min(self.records.len()));
            }
            (Input::Stop(_), _) => self.signalled = true,
            _ => {}
        }
    }

    pub fn output(&mut self, output: &Output) {
        law!("nothing comes after the exit", self.link != Link::Gone, "{output:?}");
        match output {
            Output::Dial => {
                law!("dials only without a connection", self.link == Link::Down);
                self.link = Link::Dialing;
            }
            Output::Drop => self.cut(),
            Output::Send(frame) => {
                law!("sends only on a connection", self.link == Link::Up, "{frame:?}");
                self.unwritten = true;
                match frame {
                    Frame::Text(text) => self.sent.push(text.clone()),
                    Frame::Ping(payload) => {
                        self.pings.push((*payload, self.sent.len()));
                        self.answered = false;
                    }
                }
            }
            Output::Close => {
                law!("closes only a connection", self.link == Link::Up);
                self.link = Link::Closing;
            }
            Output::StartTask { run, spec } => self.started(&spec.task_id, *run),
            Output::StopTask { task_id, run } => {
                self.take_back(task_id);
                law!("stops only what runs", self.active.get(task_id) == Some(run), "{task_id}");
                law!("stops only what has not finished", !self.finished.contains(run), "{task_id}");
                law!("stops a task once", self.stopping.insert(*run), "{task_id}");
            }
            Output::CancelDispatched { task_id, .. } => {
                let known = self.runs.iter().any(|(known, _)| known == task_id);
                law!("cancels only what was dispatched", known && !self.active.contains_key(task_id), "{task_id}");
            }
            Output::Metric(event) => self.counted(*event),
            Output::Persist { number, record } => {
                law!("records are numbered in their order", *number == self.records.len() as u64 + 1 && self.journal);
                self.records.push(record.clone());
            }
            Output::ResumeTask { task_id, .. } => law!("takes up nothing that it started itself", false, "{task_id}"),
            Output::Settled { task_id, .. } => {
                law!("what holds a slot is not settled", !self.active.contains_key(task_id), "{task_id}");
            }
            Output::Notice(Notice::Ended { task_id, result, .. }) => self.told(task_id, *result),
            Output::Notice(Notice::CancelRequested { task_id }) => self.take_back(task_id),
            Output::Notice(_) => {}
            Output::Exit => self.link = Link::Gone,
        }
    }

    fn started(&mut self, task_id: &str, run: RunId) {
        let claim = format!(r#"{{"type":"task_claimed","data":{{"task_id":"{task_id}","worker_id":"w"}}}}"#);
        // One whose record took its time is claimed on the next connection, or although a signal came meanwhile.
        let is_claimed = self.sent.last() == Some(&claim) || self.journal && self.link != Link::Up;
        law!("a task is claimed before it starts", is_claimed, "{task_id}");
        law!("after a signal nothing is claimed", !self.signalled || self.journal, "{task_id}");
        let is_it = |record: &Record| matches!(record, Record::Claimed { task_id: id, .. } if id == task_id);
        let is_safe = self.records.iter().rposition(is_it).is_some_and(|place| place < self.safe);
        law!("a claim is safe before its task starts", is_safe || !self.journal, "{task_id}");
        law!("no task runs twice", self.runs.iter().all(|(_, known)| *known != run), "{task_id}");
        law!("no task runs twice", self.active.insert(task_id.to_owned(), run).is_none(), "{task_id}");
        self.runs.push((task_id.to_owned(), run));
        self.owing.remove(task_id);
        law!("never more at once than the limit", self.limit == 0 || self.active.len() <= self.limit);
    }

    fn told(&mut self, task_id: &str, result: TaskResult) {
        let run = self.active.remove(task_id);
        // A task that is given up while its claim waits for the record has not been started.
        law!("a task ends once", run.is_some() || self.journal && self.signalled, "{task_id}");
        let is_over = run.is_some_and(|run| self.ended.contains(&run));
        law!("a slot is held until nothing of its task is left", is_over || self.signalled, "{task_id}");
        let tasks = if result == TaskResult::Dispatched { &mut self.handed_over } else { &mut self.owing };
        tasks.insert(task_id.to_owned());
    }

    fn counted(&mut self, event: MetricEvent) {
        match event {
            MetricEvent::TaskClaimed => self.claimed += 1,
            MetricEvent::TaskCompleted { .. } => self.completed += 1,
            MetricEvent::Connected => self.connected += 1,
            MetricEvent::Disconnected => self.connected -= 1,
            _ => {}
        }
    }

    pub fn after(&mut self, worker: &Worker, now: Instant) {
        if self.lets_go && self.signalled && (worker.active_tasks() as u64) < self.claimed - self.completed {
            self.let_go();
        }
        let waits = self.active.values().any(|run| self.ended.contains(run)) && !self.journal;
        let active = worker.active_tasks();
        // What waits for the record of its claim holds a slot and has not been started.
        let has_slots = active == self.active.len() || self.journal && active >= self.active.len();
        law!("a slot is free as soon as its task has ended", has_slots && !waits, "{:?}", self.active);
        law!("active = claimed - completed", worker.active_tasks() as u64 == self.claimed - self.completed);
        law!("connected is 1 exactly while there is a connection", self.connected == i64::from(self.link == Link::Up));
        law!("connected is 1 exactly while there is a connection", worker.is_connected() == (self.link == Link::Up));
        let next = worker.poll_timeout();
        law!("the next timer lies in the future", next.is_none_or(|next| next > now), "{next:?} at {now:?}");
        law!("there is a timer until the exit", next.is_none() == (self.link == Link::Gone));
    }

    /// The worker leaves alone what runs: nothing is owed for it, and it is counted by whoever takes it up.
    fn let_go(&mut self) {
        let (started, finished, stopping) = (&self.started, &self.finished, &self.stopping);
        let goes_on = |run: &RunId| {
            let is_wanted = !stopping.contains(run) && !self.taken_back.contains(run);
            started.contains(run) && !finished.contains(run) && is_wanted
        };
        let gone: Vec<String> =
            self.active.iter().filter(|(_, run)| goes_on(run)).map(|(task_id, _)| task_id.clone()).collect();
        for task_id in gone {
            self.let_go.extend(self.active.remove_entry(&task_id));
            self.owing.remove(&task_id);
            self.claimed -= 1;
        }
    }

    /// A user cancels what the worker had let go: it is its own again.
    fn take_back(&mut self, task_id: &str) {
        if let Some(run) = self.let_go.remove(task_id) {
            law!("stops only what has not finished", !self.finished.contains(&run), "{task_id}");
            self.active.insert(task_id.to_owned(), run);
            self.taken_back.insert(run);
            self.claimed += 1;
        }
    }

    /// The connection is over.
    fn cut(&mut self) {
        self.sent.truncate(self.proven);
        self.delivered.append(&mut self.sent);
        self.pings.clear();
        (self.proven, self.answered, self.unwritten) = (0, true, false);
        self.link = Link::Down;
    }

    pub fn pings(&self) -> Vec<[u8; 8]> {
        self.pings.iter().map(|(payload, _)| *payload).collect()
    }

    pub fn unanswered_ping(&self) -> Option<[u8; 8]> {
        self.pings.last().filter(|_| !self.answered).map(|(payload, _)| *payload)
    }

    pub fn runs(&self) -> &[(String, RunId)] {
        &self.runs
    }

    /// A run that has not ended, and whether it has finished.
    pub fn unended(&self) -> Option<(String, RunId, bool)> {
        let unended = self.runs.iter().find(|(_, run)| !self.ended.contains(run));
        unended.map(|(task_id, run)| (task_id.clone(), *run, self.finished.contains(run)))
    }

    /// The number of records that are not safe.
    pub fn unsafe_records(&self) -> usize {
        self.records.len().saturating_sub(self.safe)
    }

    pub fn is_stopping(&self, run: RunId) -> bool {
        self.stopping.contains(&run)
    }

    pub fn is_dialing(&self) -> bool {
        self.link == Link::Dialing
    }

    pub fn is_connected(&self) -> bool {
        self.link == Link::Up
    }

    pub fn is_closing(&self) -> bool {
        self.link == Link::Closing
    }

    pub fn is_unwritten(&self) -> bool {
        self.link == Link::Up && self.unwritten
    }

    pub fn may_claim(&self) -> bool {
        self.link == Link::Up && !self.signalled
    }

    /// Whether nothing runs and the server has every end, after its claim, unless the worker left before it could report.
    pub fn is_settled(&self) -> bool {
        let has: Vec<&String> = self.delivered.iter().chain(&self.sent).collect();
        let about = |task_id: &str| format!(r#""task_id":"{task_id}""#);
        for task_id in &self.owing {
            let mine = || has.iter().filter(|text| text.contains(&about(task_id)) && !text.contains("task_rejected"));
            let was_handed_over = self.handed_over.contains(task_id);
            let end = mine().rev().find(|text| is_end(text) || !was_handed_over).is_some_and(|text| is_end(text));
            law!("every claimed task ends at the server", end || self.link == Link::Gone, "{task_id}: {has:?}");
            let first = mine().find(|text| !text.contains("could not be understood"));
            law!("a claim comes before its end", first.is_none_or(|text| !is_end(text)), "{task_id}: {has:?}");
        }
        self.active.is_empty() && matches!(self.link, Link::Up | Link::Gone)
    }
}

fn is_end(text: &str) -> bool {
    text.contains("task_completed") || text.contains("task_failed")
}
