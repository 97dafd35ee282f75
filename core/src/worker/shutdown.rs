//! The way out: draining, stopping tasks, reporting them, leaving. `docs/protocol.md`, Shutdown.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::Worker;
use super::io::{AfterKill, Output, RunId};
use super::phase::Phase;
use super::session::Connection;
use super::task::{StopCause, Task};
use crate::metrics::MetricEvent;
use crate::notice::Notice;
use crate::outcome::Outcome;
use crate::time::Instant;

/// How long the reports of stopped tasks may take to be acknowledged before the worker leaves.
const REPORT_LIMIT: Duration = Duration::from_secs(10);
/// How long the closing handshake may take at the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

impl Worker {
    pub(super) fn on_stop(&mut self, now: Instant, signal: &'static str) {
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

    /// Whether the worker leaves, and does not wait for what follows a task before it tells its end.
    pub(super) const fn is_leaving(&self) -> bool {
        !matches!(self.phase, Phase::Running | Phase::Draining(_))
    }

    pub(super) fn stop_tasks(&mut self, now: Instant) {
        self.phase = Phase::Stopping(now.plus(self.config.stop_timeout));
        for (task_id, run) in self.runs() {
            if self.config.stops_tasks_on_shutdown {
                self.ask_to_stop(&task_id, run, StopCause::Shutdown);
            }
            if !self.let_go(&task_id, run) {
                self.tell_if_due(now, &task_id);
            }
        }
    }

    /// Leaves a task alone that runs on without this worker and that the next one takes up: nothing is to be told. Gives
    /// whether it is such a one.
    pub(super) fn let_go(&mut self, task_id: &str, run: RunId) -> bool {
        let can_go = !self.config.stops_tasks_on_shutdown && self.config.after_kill == AfterKill::Resumes;
        let goes = can_go && self.is_leaving() && self.task(task_id, run).is_some_and(|task| task.goes_on());
        if goes && let Some(task) = self.tasks.remove(task_id) {
            self.let_go.insert(task_id.into(), task);
            self.row = None;
        }
        goes
    }

    /// A task that was let go is this worker's again, which is still there to stop it, unless it has finished: how it ended the
    /// next worker tells. Gives whether it has.
    pub(super) fn take_back(&mut self, task_id: &str) -> bool {
        let has_finished = self.let_go.get(task_id).is_some_and(Task::is_finished);
        if !has_finished && let Some(task) = self.let_go.remove(task_id) {
            self.tasks.insert(task_id.into(), task);
            self.row = None;
        }
        has_finished
    }

    /// Reports every task that has not stopped in time as stopped: [`Output::Exit`] will end it. One that nobody has asked to
    /// stop is asked now, so that nothing of it begins after that. Nothing that follows a task is waited for any longer, and
    /// no record of an end.
    pub(super) fn give_up_tasks(&mut self, now: Instant) {
        for (task_id, run) in self.runs() {
            self.ask_to_stop(&task_id, run, StopCause::Shutdown);
            self.on_task_finished(now, &task_id, run, Outcome::Stopped);
            self.tell(now, &task_id);
        }
        self.cleaning.clear();
    }

    fn runs(&self) -> Vec<(String, RunId)> {
        self.tasks.iter().map(|(task_id, task)| (task_id.clone(), task.run)).collect()
    }

    pub(super) fn check_phase(&mut self, now: Instant) {
        if let Phase::Draining(until) = self.phase
            && now >= until
        {
            self.notice(Notice::DrainTimedOut { active: self.tasks.len() });
            self.stop_tasks(now);
        }
        // While it reports there is one only if it was let go and cancelled then.
        if let Phase::Stopping(until) | Phase::Reporting(until) = self.phase
            && now >= until
        {
            self.give_up_tasks(now);
        }
        let is_over = self.tasks.is_empty() && self.cleaning.is_empty();
        if is_over && matches!(self.phase, Phase::Draining(_) | Phase::Stopping(_)) {
            self.phase = Phase::Reporting(now.plus(REPORT_LIMIT));
        }
        if let Phase::Reporting(until) = self.phase
            && (is_over && self.outbox.is_empty() || now >= until)
        {
            self.leave(now);
        }
    }

    pub(super) fn leave(&mut self, now: Instant) {
        self.phase = Phase::Leaving;
        for end in self.outbox.messages().filter(|message| message.is_end) {
            let unproven = Notice::LeavingUnproven { task_id: end.task_id.clone() };
            self.outputs.push_back(Output::Notice(unproven));
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

    pub(super) fn exit(&mut self) {
        self.phase = Phase::Gone;
        self.outputs.push_back(Output::Drop);
        self.outputs.push_back(Output::Exit);
    }
}
