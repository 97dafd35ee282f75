//! What the worker is doing now and has done lately, as the endpoint tells it: kept from the notices of the run loop.
//!
//! Everything in here is bounded, whatever the server sends: the number of tasks, and the length of each text.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use oz_worker_core::Notice;
use oz_worker_core::metrics::TaskResult;
use oz_worker_text::duration::span;
use oz_worker_text::line::beginning;

use crate::identity::Identity;
use crate::pulse::{Pulse, Stuck};

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
    state: Mutex<Known>,
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
}

/// A task that ended.
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
pub(crate) struct Known {
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
        let state = Known {
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
    pub(crate) fn stuck(&self, now: Instant) -> Vec<Stuck> {
        let heartbeats = self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner);
        let heartbeats = heartbeats.iter().filter_map(Weak::upgrade).filter_map(|pulse| pulse.stuck(now));
        self.run_loop.stuck(now).into_iter().chain(heartbeats).collect()
    }

    /// Takes down what a person is told.
    pub(crate) fn note(&self, now: Instant, notice: &Notice) {
        self.lock().note(now, notice);
    }

    /// What is known now, with the first `running` tasks by name.
    pub(crate) fn state(&self, running: usize) -> Known {
        let state = self.lock();
        // The run loop may wait for this lock: no more is copied than is asked for.
        Known {
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

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// How long the connection has been there, or has not.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    fn runs(&mut self, now: Instant, task_id: &str, title: &str, active: usize) {
        self.active = active;
        if self.running.len() < MAX_RUNNING {
            let (task_id, title) = (bounded(task_id), bounded(title));
            self.running.push(RunningTask { task_id, title, since: now, is_cancelled: false });
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
            Notice::Resumed { task_id, active, .. } => self.runs(now, task_id, "", *active),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use oz_worker_core::metrics::{FailureReason, RejectReason};
    use oz_worker_core::{Cause, Failure};

    use super::*;

    fn status(max_concurrent_tasks: u32) -> Status {
        Status::new(Identity { max_concurrent_tasks, ..crate::resource::tests::identity() })
    }

    fn claimed(task_id: &str, title: &str, active: usize) -> Notice {
        Notice::Claimed { task_id: task_id.into(), execution_id: None, title: title.into(), active }
    }

    fn ended(task_id: &str, result: TaskResult, active: usize) -> Notice {
        let failure = (result == TaskResult::Failed).then(|| Failure {
            reason: FailureReason::AgentInvocation,
            exit_code: 3,
            message: "the agent exited\nwith code 3".into(),
        });
        Notice::Ended { task_id: task_id.into(), result, duration: Duration::from_secs(7), failure, active }
    }

    #[test]
    fn it_is_stuck_when_the_run_loop_or_an_executor_is_and_says_which() {
        let status = status(0);
        let now = Instant::now();
        status.note(now, &Notice::Connected { unproven_ends: 0 });
        let names = |seconds| {
            let stuck = status.stuck(now + Duration::from_secs(seconds));
            stuck.into_iter().map(|stuck| stuck.name).collect::<Vec<_>>()
        };
        status.alive(now, Duration::from_secs(60));
        let first = status.heartbeat("executor 1", now);
        let second = status.heartbeat("executor 2", now);
        second.beat(now, Duration::from_secs(30));
        assert_eq!(names(14), [""; 0]);
        assert_eq!(names(17), ["executor 1"]);
        assert_eq!(names(47), ["executor 1", "executor 2"]);
        assert_eq!(names(77), ["the run loop", "executor 1", "executor 2"]);
        let unready = status.unready(now + Duration::from_secs(17)).unwrap();
        assert!(unready.starts_with("executor 1 is stuck: it should have moved"), "{unready}");
        drop(first);
        assert_eq!(names(17), [""; 0], "what has ended is not late");
        assert_eq!(status.unready(now + Duration::from_secs(17)), None);
        drop(second);
        drop(status.heartbeat("executor 3", now));
        assert_eq!(status.heartbeats.lock().unwrap().len(), 1, "none is remembered for longer than it beats");
    }

    #[test]
    fn it_is_ready_while_connected_with_a_free_slot_and_says_why_it_is_not() {
        let status = status(2);
        let now = Instant::now();
        let reason = |notice: Option<Notice>| {
            notice.inspect(|notice| status.note(now, notice));
            status.alive(now, Duration::from_secs(60));
            status.unready(now + Duration::from_secs(63))
        };
        let first = reason(None).unwrap();
        assert!(
            first.starts_with("not connected for 1 min 3 s") && first.ends_with("the first dial has not ended yet")
        );
        let retry_in = Duration::from_secs(1);
        let cause = Cause::Outside("connection refused".into());
        let failed = reason(Some(Notice::DialFailed { cause, retry_in }));
        assert_eq!(failed.as_deref(), Some("not connected for 1 min 3 s: connection refused"));
        assert_eq!(reason(Some(Notice::Connected { unproven_ends: 0 })), None);
        assert_eq!(reason(Some(claimed("a", "", 1))), None);
        assert_eq!(reason(Some(claimed("b", "", 2))).as_deref(), Some("every slot is taken: 2 of 2"));
        let stuck = Notice::NotReady { task_id: "b".into() };
        assert_eq!(reason(Some(stuck)).as_deref(), Some("task b was claimed and does not start"));
        assert_eq!(reason(Some(Notice::Ready)).as_deref(), Some("every slot is taken: 2 of 2"));
        assert_eq!(reason(Some(ended("a", TaskResult::Succeeded, 1))), None);
        let cause = Cause::Outside("closed by the server".into());
        let lost = reason(Some(Notice::Disconnected { cause, retry_in }));
        assert_eq!(lost.as_deref(), Some("not connected for 1 min 3 s: closed by the server"));
        let draining = Notice::Draining { signal: "SIGTERM", active: 1, timeout: retry_in };
        assert_eq!(reason(Some(draining)).as_deref(), Some("draining: no new task is taken, 1 may finish"));
        let stopping = Notice::DrainTimedOut { active: 1 };
        assert_eq!(reason(Some(stopping)).as_deref(), Some("stopping: no new task is taken"));
        assert_eq!(status.state(0).counts.reconnects, 2);
    }

    #[test]
    fn a_worker_without_a_limit_is_always_able_to_take_a_task() {
        let status = status(0);
        let now = Instant::now();
        status.note(now, &Notice::Connected { unproven_ends: 0 });
        status.note(now, &claimed("a", "", 500));
        assert_eq!(status.unready(now), None);
    }

    #[test]
    fn a_task_goes_from_running_to_ended_with_its_title() {
        let status = status(0);
        let now = Instant::now();
        for (task_id, active) in [("a", 1), ("b", 2)] {
            status.note(now, &claimed(task_id, &format!("Title of {task_id}"), active));
        }
        status.note(now, &Notice::CancelRequested { task_id: "a".into() });
        let state = status.state(10);
        assert!(
            state.running.iter().map(|task| (task.task_id.as_str(), task.is_cancelled)).eq([("a", true), ("b", false)])
        );
        status.note(now, &ended("b", TaskResult::Failed, 1));
        status.note(now, &ended("a", TaskResult::Cancelled, 0));
        let state = status.state(10);
        assert_eq!((state.active, state.running.len(), state.counts.claimed), (0, 0, 2));
        assert_eq!(state.counts.ended, [0, 1, 1, 0]);
        let shown = state.ended.iter().map(|task| (task.title.as_str(), task.failure.as_deref()));
        assert!(shown.eq([("Title of a", None), ("Title of b", Some("the agent exited\\nwith code 3"))]));
    }

    #[test]
    fn whatever_the_server_sends_takes_little_memory() {
        let status = status(0);
        let now = Instant::now();
        let long = "ü".repeat(100_000);
        for active in 1..=MAX_RUNNING + 5 {
            status.note(now, &claimed(&format!("{active} {long}"), &long, active));
        }
        let state = status.state(7);
        assert_eq!((state.active, state.running.len()), (MAX_RUNNING + 5, 7));
        assert!(state.running.iter().all(|task| task.title.len() <= 2 * MAX_TEXT + "…".len()));
        for active in (0..MAX_RUNNING + 5).rev() {
            status.note(now, &ended(&format!("{} {long}", active + 1), TaskResult::Failed, active));
        }
        let title = String::new();
        let rejected =
            Notice::Rejected { task_id: long, title, reason: RejectReason::AtCapacity, active: 0, is_repeated: true };
        status.note(now, &rejected);
        let state = status.state(7);
        assert_eq!((state.active, state.running.len(), state.ended.len()), (0, 0, MAX_ENDED));
        assert_eq!(state.counts.rejected, 1);
    }
}
