//! What the worker is doing now and has done lately, as the endpoint tells it: kept from the notices of the run loop.
//!
//! Everything in here is bounded, whatever the server sends: the number of tasks, and the length of each text.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use oz_worker_core::Notice;
use oz_worker_core::metrics::TaskResult;
use oz_worker_text::duration::span;
use oz_worker_text::line::beginning;

use crate::identity::Identity;
use crate::pulse::{Overdue, Pulse};
use crate::step::TaskStep;

/// The most running tasks that are known by name.
const MAX_RUNNING: usize = 1000;
/// The ended tasks that are remembered.
const MAX_ENDED: usize = 20;
/// The longest text that is kept of anything, in characters.
const MAX_TEXT: usize = 160;

/// The status of one worker. Written by the run loop, read by the endpoint's thread.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) identity: Identity,
    started: Instant,
    run_loop: Pulse,
    /// Those of the executors, as long as they are promised.
    heartbeats: Mutex<Vec<Weak<Pulse>>>,
    state: Mutex<StatusView>,
}

/// Whether there is an established connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Connectivity {
    Connected,
    /// Not, and what the last dial or the connection ended with; nothing before the first dial has ended.
    Disconnected(Option<String>),
}

/// How far the worker is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    Draining,
    Stopping,
}

/// How many of each there have been since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) claimed: u64,
    pub(crate) rejected: u64,
    pub(crate) reconnects: u64,
    /// By [`TaskResult`].
    pub(crate) ended: [u64; TaskResult::ALL.len()],
}

/// A task that holds a slot.
#[derive(Debug, Clone)]
pub(crate) struct RunningTask {
    pub(crate) task_id: String,
    pub(crate) title: String,
    pub(crate) since: Instant,
    /// Whether the user has cancelled it.
    pub(crate) is_cancelled: bool,
    /// Which step it is in, in words; empty while nobody has said so.
    pub(crate) step: String,
}

#[derive(Debug, Clone)]
pub(crate) struct EndedTask {
    pub(crate) task_id: String,
    pub(crate) title: String,
    pub(crate) result: TaskResult,
    pub(crate) duration: Duration,
    /// What failed, in words.
    pub(crate) failure: Option<String>,
    pub(crate) at: Instant,
}

/// All that is known at one moment.
#[derive(Debug, Clone)]
pub(crate) struct StatusView {
    pub(crate) link: Connectivity,
    /// Since when [`link`](Self::link) is what it is.
    pub(crate) since: Instant,
    pub(crate) leaving: Option<Leaving>,
    /// A task that was claimed and has not started for too long, when there is one.
    pub(crate) unstarted: Option<String>,
    /// The number of tasks that hold a slot.
    pub(crate) active: usize,
    /// The tasks that hold a slot, the oldest first, as far as they are known by name.
    pub(crate) running: Vec<RunningTask>,
    /// The tasks that ended last, the latest first.
    pub(crate) ended: VecDeque<EndedTask>,
    pub(crate) counts: Counts,
}

impl Status {
    /// Of a worker that has just been started.
    pub(crate) fn new(identity: Identity) -> Self {
        let started = Instant::now();
        let state = StatusView {
            link: Connectivity::Disconnected(None),
            since: started,
            leaving: None,
            unstarted: None,
            active: 0,
            running: Vec::new(),
            ended: VecDeque::new(),
            counts: Counts::default(),
        };
        let run_loop = Pulse::new("the run loop", started);
        Self { identity, started, run_loop, heartbeats: Mutex::default(), state: Mutex::new(state) }
    }

    /// How long the worker has been up.
    pub(crate) fn uptime(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    /// The run loop lives, and will say so again within `wait`.
    pub(crate) fn alive(&self, now: Instant, wait: Duration) {
        self.run_loop.beat(now, wait);
    }

    /// From now on what has this name must move too, until the heartbeat is dropped.
    pub(crate) fn heartbeat(&self, name: &'static str, now: Instant) -> Arc<Pulse> {
        let pulse = Arc::new(Pulse::new(name, now));
        let mut heartbeats = self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner);
        heartbeats.retain(|pulse| pulse.strong_count() > 0);
        heartbeats.push(Arc::downgrade(&pulse));
        pulse
    }

    /// Everything that should have moved on; nothing, usually.
    pub(crate) fn stuck(&self, now: Instant) -> Vec<Overdue> {
        let heartbeats = self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner);
        let heartbeats = heartbeats.iter().filter_map(Weak::upgrade).filter_map(|pulse| pulse.stuck(now));
        self.run_loop.stuck(now).into_iter().chain(heartbeats).collect()
    }

    /// Takes down what a person is told.
    pub(crate) fn note(&self, now: Instant, notice: &Notice) {
        self.lock().note(now, notice);
    }

    /// The task is in this step now.
    pub(crate) fn step(&self, task_id: &str, step: &TaskStep) {
        let (task_id, words) = (bounded(task_id), bounded(&step.to_string()));
        if let Some(task) = self.lock().running.iter_mut().find(|task| task.task_id == task_id) {
            task.step = words;
        }
    }

    /// What is known now, with the first `running` tasks by name.
    pub(crate) fn state(&self, running: usize) -> StatusView {
        let state = self.lock();
        // The run loop may wait for this lock: no more is copied than is asked for.
        StatusView {
            link: state.link.clone(),
            unstarted: state.unstarted.clone(),
            running: state.running.iter().take(running).cloned().collect(),
            ended: state.ended.clone(),
            ..*state
        }
    }

    /// Why no task can be taken now, in words; nothing when one can.
    pub(crate) fn unready(&self, now: Instant) -> Option<String> {
        if let Some(stuck) = self.stuck(now).first() {
            return Some(stuck.to_string());
        }
        let state = self.lock();
        let active = state.active;
        let limit = self.identity.max_concurrent_tasks as usize;
        match (&state.leaving, &state.link, &state.unstarted) {
            (Some(Leaving::Draining), ..) => Some(format!("draining: no new task is taken, {active} may finish")),
            (Some(Leaving::Stopping), ..) => Some("stopping: no new task is taken".to_owned()),
            (None, Connectivity::Disconnected(cause), _) => {
                let since = span(state.age(now));
                let cause = cause.as_deref().unwrap_or("the first dial has not ended yet");
                Some(format!("not connected for {since}: {cause}"))
            }
            (None, Connectivity::Connected, Some(task)) => Some(format!("task {task} was claimed and does not start")),
            (None, Connectivity::Connected, None) if limit > 0 && active >= limit => {
                Some(format!("every slot is taken: {active} of {limit}"))
            }
            (None, Connectivity::Connected, None) => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, StatusView> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StatusView {
    /// How long the connection has been there, or has not.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    fn runs(&mut self, now: Instant, task_id: &str, title: &str, active: usize) {
        self.active = active;
        if self.running.len() < MAX_RUNNING {
            let (task_id, title) = (bounded(task_id), bounded(title));
            let step = String::new();
            self.running.push(RunningTask { task_id, title, since: now, is_cancelled: false, step });
        }
    }

    fn note(&mut self, now: Instant, notice: &Notice) {
        match notice {
            Notice::Connected { .. } => {
                self.link = Connectivity::Connected;
                self.since = now;
            }
            Notice::DialFailed { cause, .. } => {
                self.counts.reconnects += 1;
                self.link = Connectivity::Disconnected(Some(bounded(&cause.to_string())));
            }
            Notice::Disconnected { cause, .. } => {
                self.counts.reconnects += 1;
                self.link = Connectivity::Disconnected(Some(bounded(&cause.to_string())));
                self.since = now;
            }
            Notice::Claimed { task_id, title, active, .. } => {
                self.counts.claimed += 1;
                self.runs(now, task_id, title, *active);
            }
            Notice::Resumed { task_id, age, active, .. } => {
                self.runs(now.checked_sub(*age).unwrap_or(now), task_id, "", *active);
            }
            Notice::NotReady { task_id } => self.unstarted = Some(bounded(task_id)),
            Notice::Ready => self.unstarted = None,
            Notice::Rejected { .. } => self.counts.rejected += 1,
            Notice::CancelRequested { task_id } => {
                let task_id = bounded(task_id);
                if let Some(task) = self.running.iter_mut().find(|task| task.task_id == task_id) {
                    task.is_cancelled = true;
                }
            }
            Notice::Ended { task_id, result, duration, failure, active } => {
                let task_id = bounded(task_id);
                let known = self.running.iter().position(|task| task.task_id == task_id);
                let title = known.map(|index| self.running.remove(index).title).unwrap_or_default();
                let failure = failure.as_ref().map(|failure| bounded(&failure.message));
                self.active = *active;
                if let Some(count) = self.counts.ended.get_mut(*result as usize) {
                    *count += 1;
                }
                self.ended.truncate(MAX_ENDED - 1);
                self.ended.push_front(EndedTask {
                    task_id,
                    title,
                    result: *result,
                    duration: *duration,
                    failure,
                    at: now,
                });
            }
            Notice::Draining { .. } => self.leaving = Some(Leaving::Draining),
            Notice::DrainTimedOut { .. } | Notice::Stopping { .. } => self.leaving = Some(Leaving::Stopping),
            Notice::BadFrame(_)
            | Notice::ConnectionStays
            | Notice::MalformedAssignment { .. }
            | Notice::AssignedAgain { .. }
            | Notice::CancelTooLate { .. }
            | Notice::CancelUnknown { .. }
            | Notice::Interrupted { .. }
            | Notice::TooOldToTell { .. }
            | Notice::CancelFailed { .. }
            | Notice::CleanupFailed { .. }
            | Notice::LeavingUnproven { .. } => {}
        }
    }
}

fn bounded(text: &str) -> String {
    beginning(text, MAX_TEXT)
}
