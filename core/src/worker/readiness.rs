//! Whether tasks that are claimed start: while one has not for too long, no other is claimed.

use alloc::collections::VecDeque;
use core::time::Duration;

use super::io::RunId;
use crate::time::Instant;

/// How long a task may take from its claim until it has started.
const START_LIMIT: Duration = Duration::from_secs(10);

/// What a look at the time found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// This task is late, the first that is.
    Late(RunId),
    /// No task is late any more.
    Ready,
}

/// The tasks that have not started yet, and whether one of them is late.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    /// Each with the moment from which it is late, in the order of their claims.
    waiting: VecDeque<(RunId, Instant)>,
    is_late: bool,
}

impl Readiness {
    pub(super) const fn is_ready(&self) -> bool {
        !self.is_late
    }

    /// A task is claimed and about to start.
    pub(super) fn claimed(&mut self, now: Instant, run: RunId) {
        self.waiting.push_back((run, now.plus(START_LIMIT)));
    }

    /// A task has started, or never will.
    pub(super) fn over(&mut self, run: RunId) {
        self.waiting.retain(|(waiting, _)| *waiting != run);
    }

    /// Looks at the time, and says when that changes whether the worker is ready.
    pub(super) fn check(&mut self, now: Instant) -> Option<Change> {
        let late = self.waiting.front().filter(|(_, late)| now >= *late).map(|(run, _)| *run);
        let was_late = core::mem::replace(&mut self.is_late, late.is_some());
        match late {
            Some(run) => (!was_late).then_some(Change::Late(run)),
            None => was_late.then_some(Change::Ready),
        }
    }

    /// When a task will be late, while none is.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.front().filter(|_| !self.is_late).map(|(_, late)| *late)
    }
}
