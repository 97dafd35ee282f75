//! The laws, watched from outside: what was handed in, what came out, and what a server would know of it.

use std::collections::{BTreeMap, BTreeSet};

use oz_worker_core::metrics::MetricEvent;
use oz_worker_core::time::Instant;
use oz_worker_core::{Frame, Input, Output, RunId, Worker};

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
pub struct Watch {
    limit: usize,
    link: Link,
    signalled: bool,
    unwritten: bool,
    /// All runs there ever were, and those of them that hold a slot.
    runs: Vec<(String, RunId)>,
    active: BTreeMap<String, RunId>,
    stopping: BTreeSet<RunId>,
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
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            link: Link::Down,
            signalled: false,
            unwritten: false,
            runs: Vec::new(),
            active: BTreeMap::new(),
            stopping: BTreeSet::new(),
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
            (Input::TaskEnded { task_id, run, end }, _) if self.active.get(*task_id) == Some(run) => {
                self.active.remove(*task_id);
                let tasks = match end.outcome {
                    oz_worker_core::Outcome::Dispatched => &mut self.handed_over,
                    _ => &mut self.owing,
                };
                tasks.insert((*task_id).to_owned());
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
                law!("stops only what runs", self.active.get(task_id) == Some(run), "{task_id}");
                law!("stops a task once", self.stopping.insert(*run), "{task_id}");
            }
            Output::CancelDispatched { task_id, .. } => {
                let known = self.runs.iter().any(|(known, _)| known == task_id);
                law!("cancels only what was dispatched", known && !self.active.contains_key(task_id), "{task_id}");
            }
            Output::Metric(event) => self.counted(*event),
            Output::Notice(_) => {}
            Output::Exit => self.link = Link::Gone,
        }
    }

    fn started(&mut self, task_id: &str, run: RunId) {
        let claim = format!(r#"{{"type":"task_claimed","data":{{"task_id":"{task_id}","worker_id":"w"}}}}"#);
        law!("a task is claimed before it starts", self.sent.last() == Some(&claim), "{task_id}");
        law!("after a signal nothing is claimed", !self.signalled, "{task_id}");
        law!("no task runs twice", self.runs.iter().all(|(_, known)| *known != run), "{task_id}");
        law!("no task runs twice", self.active.insert(task_id.to_owned(), run).is_none(), "{task_id}");
        self.runs.push((task_id.to_owned(), run));
        self.owing.remove(task_id);
        law!("never more at once than the limit", self.limit == 0 || self.active.len() <= self.limit);
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
        if self.signalled && worker.active_tasks() == 0 {
            // Its patience is over: it reports what still runs, and ends it with its exit.
            self.owing.extend(std::mem::take(&mut self.active).into_keys());
        }
        law!("a slot is free as soon as its task has ended", worker.active_tasks() == self.active.len());
        law!("active = claimed - completed", worker.active_tasks() as u64 == self.claimed - self.completed);
        law!("connected is 1 exactly while there is a connection", self.connected == i64::from(self.link == Link::Up));
        law!("connected is 1 exactly while there is a connection", worker.is_connected() == (self.link == Link::Up));
        let next = worker.poll_timeout();
        law!("the next timer lies in the future", next.is_none_or(|next| next > now), "{next:?} at {now:?}");
        law!("there is a timer until the exit", next.is_none() == (self.link == Link::Gone));
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

    pub fn first_active(&self) -> Option<(String, RunId)> {
        self.active.iter().next().map(|(task_id, run)| (task_id.clone(), *run))
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
