//! What a line of the worker's log means, and what it must never say.

use std::time::Duration;

use oz_worker_runtime::Lane;

use super::listener::Line;
use super::{Facts, LASTING};

/// `docs/protocol.md`: how long a task may wait to be begun before the worker takes no other, by a clock that is a little wrong.
const UNREADY: Duration = Duration::from_secs(11);

const SECOND: Duration = Duration::from_secs(1);
/// How the lines begin that tell of a message of the server.
const OF_MESSAGES: [&str; 6] = [
    "task claimed",
    "task rejected",
    "task was assigned again",
    "task cancelled by the user",
    "cannot cancel a task",
    "answered an assignment",
];

impl Facts {
    fn count(&mut self, series: &str) {
        *self.counted.entry(series.to_owned()).or_default() += 1;
    }

    fn failure(&mut self, phase: &str, line: &Line) {
        let reason = line.field("reason");
        self.count(&format!("oz_worker_task_failures_total{{phase={phase},reason={reason}}}"));
    }

    /// A task of an earlier worker is this one's; gives what must never happen.
    fn take_up(&mut self, task: &str, execution: &str) -> Option<String> {
        self.taken_up += 1;
        self.unheard.remove(execution);
        self.executions.insert(execution.to_owned());
        self.claimed.insert(task.to_owned(), execution.to_owned());
        let is_new = self.active.insert(task.to_owned());
        (!is_new).then(|| format!("{task} was taken up while it is active"))
    }

    /// What the line means; gives what must never happen.
    pub(super) fn hear(&mut self, line: &Line, now: Duration) -> Vec<String> {
        self.awaited.retain(|(beginning, came)| !(line.message.starts_with(beginning.as_str()) && came.close()));
        let mut wrong = Vec::new();
        let (task, message) = (line.field("task_id"), line.message.as_str());
        let ended = |result: &str| format!("oz_worker_tasks_completed_total{{result={result}}}");
        let reconnect = |reason: &str| format!("oz_worker_websocket_reconnects_total{{reason={reason}}}");
        if message.contains("internal error") || message.contains("panicked") {
            wrong.push(format!("the worker says: {message}"));
        }
        self.heard_message |= OF_MESSAGES.iter().any(|beginning| message.starts_with(beginning));
        match message {
            "task claimed" => {
                self.count("oz_worker_tasks_claimed_total");
                let execution = line.field("execution_id");
                self.note_claim(execution);
                if self.stopping {
                    wrong.push(format!("{execution} was claimed after the worker was asked to stop"));
                }
                if !self.executions.insert(execution.to_owned()) {
                    wrong.push(format!("{execution} was claimed as new a second time"));
                }
                if !self.active.insert(task.to_owned()) {
                    wrong.push(format!("{task} was claimed as new while it is active"));
                }
                if self.limit > 0 && self.active.len() > self.limit {
                    wrong.push(format!("{} tasks are active, and at most {} may be", self.active.len(), self.limit));
                }
                self.claimed.insert(task.to_owned(), execution.to_owned());
                let stuck = self.waiting.iter().find(|(_, since)| now.saturating_sub(**since) > UNREADY);
                if let Some((stuck, since)) = stuck {
                    wrong.push(format!("{task} was claimed although {stuck} waits to be begun since {since:?}"));
                }
                // An image may take its time, and is nothing of the machine's.
                if self.truths.is_none() {
                    self.waiting.insert(task.to_owned(), now);
                }
            }
            _ if message.starts_with("task taken up") => {
                wrong.extend(self.take_up(task, line.field("execution_id")));
            }
            "task succeeded" | "task cancelled" | "task dispatched" => {
                self.count(&ended(message.trim_start_matches("task ")));
                wrong.extend(self.judge_well(task, message));
                wrong.extend(self.end(task));
                if self.succeeded.remove(task) && message != "task succeeded" {
                    wrong.push(format!("the agent of {task} exited 0, and it says: {message}"));
                }
            }
            _ if message.starts_with("task failed: ") => {
                self.count(&ended("failed"));
                self.failure("backend", line);
                let (reason, exit_code) = (line.field("reason"), line.field("exit_code").parse().unwrap_or_default());
                if reason != "graceful_shutdown" {
                    wrong.extend(self.judge(task, reason, exit_code));
                }
                wrong.extend(self.end(task));
                if self.succeeded.remove(task) {
                    wrong.push(format!("the agent of {task} exited 0, and it says: {message}"));
                }
            }
            _ if message.starts_with("cleanup failed: ") => self.failure("cleanup", line),
            _ if message.starts_with("cancelling the dispatched task failed") => {
                self.count("oz_worker_task_failures_total{phase=cleanup,reason=cancel_command}");
            }
            _ if message.starts_with("leaving although the server may not have received") => {
                self.unheard.extend(self.claimed.get(task).cloned());
            }
            _ if message.starts_with("answered an assignment with task_failed") => {
                self.count("oz_worker_task_failures_total{phase=assignment,reason=unknown}");
            }
            _ if message.starts_with("dial failed") => {
                (self.waits_since, self.was_good) = (Some(now), Some(false));
                self.count(&reconnect("dial_failed"));
            }
            _ if message.starts_with("disconnected") => {
                let there = now.saturating_sub(self.connected_since);
                // What the worker takes for dead was alive until a minute ago, or until a write began to wait.
                let silent = if message.contains("nothing was received") { LASTING } else { Duration::ZERO };
                let lasted = there.saturating_sub(silent);
                // By a clock that is a little wrong.
                let is_sure = (lasted + SECOND < LASTING || lasted > LASTING + SECOND) && !message.contains("a write");
                let has_lasted = is_sure.then_some(lasted > LASTING);
                self.waits_since = Some(now);
                self.was_good = if self.heard_message { Some(true) } else { has_lasted };
                self.connected = false;
                self.count(&reconnect("remote_close"));
            }
            _ if message.starts_with("connected, and") => {}
            _ if message.starts_with("connected") => {
                (self.connected, self.connected_since, self.heard_message) = (true, now, false);
            }
            _ if message.starts_with("task cancelled by the user") => drop(self.asked_to_stop.insert(task.to_owned())),
            _ if message.starts_with("stopping") || message.starts_with("drain timed out") => {
                (self.stopping, self.all_asked_to_stop) = (true, true);
            }
            _ if message.starts_with("draining") => self.stopping = true,
            _ if message.contains("did not die of SIGKILL") => drop(self.immortal.insert(task.to_owned())),
            _ => {}
        }
        wrong
    }

    fn note_claim(&mut self, execution: &str) {
        self.ever_claimed.insert(execution.to_owned());
        if let Some(truths) = &self.truths {
            truths.claimed(execution);
        }
    }

    /// Law: the end that is told is that of the container, or of the Pod.
    fn judge(&self, task: &str, reason: &str, exit_code: i64) -> Option<String> {
        self.truths.as_ref()?.judge(self.claimed.get(task)?, reason, exit_code)
    }

    /// The same of an end that is no failure.
    fn judge_well(&self, task: &str, message: &str) -> Option<String> {
        match message {
            "task succeeded" => self.judge(task, "", 0),
            "task cancelled" => self.judge(task, "cancelled", 0),
            _ => None,
        }
    }

    fn end(&mut self, task: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        self.waiting.remove(task);
        self.asked_to_stop.remove(task);
        if !self.active.remove(task) {
            wrong.push(format!("{task} ended without being active"));
        }
        // A worker that leaves reports first and kills then.
        if !self.stopping && !self.immortal.contains(task) && !self.held_up.contains(&Lane::Finish) {
            let left = self.alive.iter().filter(|(_, owner)| *owner == task).map(|(number, _)| number);
            wrong.extend(left.map(|number| format!("process {number} of {task} is alive after the task's end")));
        }
        wrong
    }
}
