//! Records and what waits for them: nothing is done before the record that it depends on is safe.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;

use super::io::{Output, RunId};
use crate::agent::TaskSpec;
use crate::record::Record;

/// What depends on a record.
#[derive(Debug)]
pub(super) enum Step {
    /// Claim the task and start it.
    Start {
        run: RunId,
        spec: Box<TaskSpec>,
    },
    /// Stop the task, as the user wants.
    Stop {
        task_id: String,
        run: RunId,
    },
    Tell {
        task_id: String,
        run: RunId,
    },
}

/// Numbers the records, and keeps what waits for them.
#[derive(Debug)]
pub(super) struct Journal {
    is_on: bool,
    /// The number of the newest record.
    newest: u64,
    /// What waits, each for the record of this number, oldest first.
    waiting: VecDeque<(u64, Step)>,
}

impl Journal {
    pub(super) const fn new(is_on: bool) -> Self {
        Self { is_on, newest: 0, waiting: VecDeque::new() }
    }

    /// One more record, when there are any.
    pub(super) fn append(&mut self, record: impl FnOnce() -> Record) -> Option<Output> {
        self.is_on.then(|| {
            self.newest += 1;
            Output::Persist { number: self.newest, record: record() }
        })
    }

    /// Takes a step that waits for everything recorded so far. Without records it comes back at once.
    pub(super) fn hold(&mut self, step: Step) -> Option<Step> {
        if !self.is_on {
            return Some(step);
        }
        self.waiting.push_back((self.newest, step));
        None
    }

    /// The next step that waits for nothing beyond the record of this number.
    pub(super) fn release(&mut self, safe: u64) -> Option<Step> {
        if self.waiting.front().is_none_or(|(number, _)| *number > safe) {
            return None;
        }
        self.waiting.pop_front().map(|(_, step)| step)
    }
}
