//! The way out: draining, stopping tasks, reporting them, leaving. `docs/protocol.md`, Shutdown.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::connection::Connection;
use super::io::{Outcome, Output, RunId, TaskEnd};
use super::{StopCause, Worker};
use crate::metrics::MetricEvent;
use crate::notice::Notice;
use crate::time::Instant;

/// How long the reports of stopped tasks may take to be acknowledged before the worker leaves.
const REPORT_LIMIT: Duration = Duration::from_secs(10);
/// How long the closing handshake may take at the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// How far the worker is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
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

    pub(super) fn stop_tasks(&mut self, now: Instant) {
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
    pub(super) fn give_up_tasks(&mut self, now: Instant) {
        let left: Vec<(String, RunId)> = self.tasks.iter().map(|(id, task)| (id.clone(), task.run)).collect();
        for (task_id, run) in left {
            let end = TaskEnd { outcome: Outcome::Stopped, cleanup: Vec::new() };
            self.on_task_ended(now, &task_id, run, end);
        }
    }

    pub(super) fn check_phase(&mut self, now: Instant) {
        if let Phase::Draining(until) = self.phase
            && now >= until
        {
            self.notice(Notice::DrainTimedOut { active: self.tasks.len() });
            self.stop_tasks(now);
        }
        if let Phase::Stopping(until) = self.phase
            && now >= until
        {
            self.give_up_tasks(now);
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

    pub(super) fn leave(&mut self, now: Instant) {
        self.phase = Phase::Leaving;
        for end in self.outbox.messages().filter(|message| message.is_end()) {
            let unproven = Notice::LeavingUnproven { task_id: end.task_id().to_owned() };
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
