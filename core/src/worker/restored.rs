//! A worker that goes on where an earlier one was killed, or is gone.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::Worker;
use super::io::{AfterKill, Config, Output, RunId};
use super::phase::Phase;
use super::task::{StopCause, Task};
use crate::message::{KILLED, WorkerMessage};
use crate::metrics::{FailurePhase, FailureReason, MetricEvent, TaskResult};
use crate::notice::Notice;
use crate::outbox::Entry;
use crate::outcome::Failure;
use crate::past::{Past, Unended};
use crate::record::Record;
use crate::time::Instant;

/// How long after its end a task's end is still told. Messages carry no execution: a later one could end another run.
const TELL_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

impl Worker {
    /// A worker that goes on with what an earlier one has recorded: `records` in the order in which they were written, each
    /// with the time that has passed since. What is to be done at once comes from [`poll_output`](Self::poll_output) before
    /// anything is handed in.
    ///
    /// Every task that was claimed has an end: what ended is told in the old order, what ran ends as
    /// [`Config::after_kill`] says. No execution that was claimed is started again.
    pub fn restored(
        config: Config,
        seed: u64,
        now: Instant,
        records: impl IntoIterator<Item = (Duration, Record)>,
    ) -> Self {
        let mut worker = Self::new(config, seed);
        worker.go_on(now, Past::read(records));
        worker
    }

    fn go_on(&mut self, now: Instant, past: Past) {
        for (task_id, execution_id) in past.dispatched {
            self.dispatched.insert(&task_id, execution_id);
        }
        for told in past.told {
            self.outbox.remember(told);
        }
        let (ends, stale): (Vec<_>, _) = past.ends.into_iter().partition(|ended| ended.age <= TELL_LIMIT);
        for ended in stale {
            let (task_id, age) = (ended.end.task_id, ended.age);
            self.persist(|| Record::Forgotten { task_id: task_id.clone() });
            self.notice(Notice::TooOldToTell { task_id, age });
        }
        // Every claim before every end: which claims the server has heard of is not recorded.
        let ended = ends.iter().filter(|ended| ended.is_claimed).map(|ended| &ended.end);
        let ended = ended.map(|end| (&end.task_id, &end.execution_id));
        let unended = past.unended.iter().map(|task| (&task.task_id, &task.execution_id));
        for (task_id, execution_id) in ended.chain(unended) {
            self.post_claim(now, task_id, execution_id.as_deref());
        }
        for ended in ends {
            self.outbox.push(ended.end);
        }
        for task in past.unended {
            if self.config.after_kill == AfterKill::Resumes && !task.is_dispatching {
                let Unended { task_id, execution_id, age, is_cancelled, .. } = task;
                let run = self.resume(now, &task_id, execution_id, age);
                if is_cancelled {
                    self.ask_to_stop(&task_id, run, StopCause::User);
                }
            } else {
                self.interrupted(task);
            }
        }
    }

    /// A task of an earlier worker's was found after the start.
    pub(super) fn on_found(&mut self, now: Instant, task_id: &str, execution_id: Option<&str>, age: Duration) {
        // Who leaves takes up nothing: the next worker finds it.
        if self.phase != Phase::Running {
            return;
        }
        if let Some(task) = self.tasks.get(task_id) {
            // The server has assigned a later one.
            if task.execution_id.as_deref() != execution_id {
                self.settled(task_id.into(), execution_id.map(Into::into));
            }
            return;
        }
        self.persist(|| Record::Claimed { task_id: task_id.into(), execution_id: execution_id.map(Into::into) });
        self.post_claim(now, task_id, execution_id);
        self.resume(now, task_id, execution_id.map(Into::into), age);
    }

    /// Hands a task to the backend that may still be there. It holds a slot until the backend says what became of it.
    fn resume(&mut self, now: Instant, task_id: &str, execution_id: Option<String>, age: Duration) -> RunId {
        self.runs += 1;
        let run = RunId(self.runs);
        self.tasks.insert(task_id.into(), Task::resumed(now, run, execution_id.clone(), age));
        self.readiness.claimed(now, run);
        self.metric(MetricEvent::TaskResumed);
        let (task, execution) = (task_id.into(), execution_id.clone());
        self.outputs.push_back(Output::ResumeTask { run, task_id: task, execution_id: execution });
        let active = self.tasks.len();
        self.notice(Notice::Resumed { task_id: task_id.into(), execution_id, age, active });
        run
    }

    /// Ends a task of which nothing can be taken up.
    fn interrupted(&mut self, Unended { task_id, execution_id, is_cancelled, is_dispatching, .. }: Unended) {
        if is_dispatching {
            let (task_id, execution_id) = (task_id.clone(), execution_id.clone());
            self.outputs.push_back(Output::CancelDispatched { task_id, execution_id });
        }
        let (result, message) = if is_cancelled {
            (TaskResult::Cancelled, WorkerMessage::cancelled(&task_id))
        } else {
            let reason = FailureReason::Unknown;
            self.metric(MetricEvent::TaskFailure { phase: FailurePhase::Backend, reason });
            (TaskResult::Failed, WorkerMessage::failed(&task_id, &Failure::new(reason, KILLED)))
        };
        let message: String = message.encode();
        // Nothing waits for this record: without it, the next restart comes to the same.
        self.persist(|| Record::Finished {
            task_id: task_id.clone(),
            execution_id: execution_id.clone(),
            message: message.clone(),
        });
        self.outbox.push(Entry::end(task_id.clone(), execution_id, message));
        self.notice(Notice::Interrupted { task_id, result });
    }
}
