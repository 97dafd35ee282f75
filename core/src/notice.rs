//! What to tell a person: the facts of the log's lines. The words are made where the log is written.

use alloc::string::String;
use core::time::Duration;

use crate::metrics::{RejectReason, TaskResult};
use crate::worker::Failure;

/// Something a person may want to know. None of it carries a secret; titles and ids are untrusted text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A connection is established.
    Connected {
        /// The number of ended tasks whose end is sent again on it.
        unproven_ends: usize,
    },
    /// A dial failed.
    DialFailed {
        /// Why.
        cause: String,
        /// How long until the next one.
        retry_in: Duration,
    },
    /// An established connection ended.
    Disconnected {
        /// Why.
        cause: String,
        /// How long until the next dial.
        retry_in: Duration,
    },
    /// A frame was ignored.
    BadFrame(BadFrame),
    /// An assignment names its task and cannot be understood otherwise.
    MalformedAssignment {
        /// Which task.
        task_id: String,
        /// The payload's size in bytes.
        size: usize,
        /// What is wrong with it; never any of the payload's values.
        problem: String,
        /// Whether the task was answered as failed. It is not when it is active, or was rejected, or its end is on its way.
        is_answered: bool,
    },
    /// A task took a slot.
    Claimed {
        /// Which task.
        task_id: String,
        /// Which execution of it.
        execution_id: Option<String>,
        /// Its title.
        title: String,
        /// The number of tasks that hold a slot now.
        active: usize,
    },
    /// An assignment was declined.
    Rejected {
        /// Which task.
        task_id: String,
        /// Its title; empty when the assignment cannot be understood.
        title: String,
        /// Why.
        reason: RejectReason,
        /// The number of tasks that hold a slot.
        active: usize,
        /// Whether it is one more of a row that is declined for lack of a slot. A person is told of the first only.
        is_repeated: bool,
    },
    /// A task was assigned that the worker has already; it was not started again.
    AssignedAgain {
        /// Which task.
        task_id: String,
    },
    /// The user cancelled a task.
    CancelRequested {
        /// Which task.
        task_id: String,
    },
    /// The user cancelled a task that the worker does not have.
    CancelUnknown {
        /// Which task.
        task_id: String,
    },
    /// The cancel command of a dispatched task failed.
    CancelFailed {
        /// Which task.
        task_id: String,
        /// Why.
        problem: String,
    },
    /// A task's slot is free.
    Ended {
        /// Which task.
        task_id: String,
        /// How it ended.
        result: TaskResult,
        /// Time since its claim.
        duration: Duration,
        /// What failed, when it failed.
        failure: Option<Failure>,
        /// The number of tasks that hold a slot now.
        active: usize,
    },
    /// What follows a task failed; its result stands.
    CleanupFailed {
        /// Which task.
        task_id: String,
        /// What failed.
        failure: Failure,
    },
    /// The worker takes no new task and lets the running ones finish.
    Draining {
        /// The signal that asked for it.
        signal: &'static str,
        /// The number of running tasks.
        active: usize,
        /// How long they may take.
        timeout: Duration,
    },
    /// The drain's time is over; the tasks still running are stopped.
    DrainTimedOut {
        /// Their number.
        active: usize,
    },
    /// The worker takes no new task and is about to leave.
    Stopping {
        /// The signal that asked for it.
        signal: &'static str,
        /// The number of running tasks.
        active: usize,
    },
    /// The worker leaves although the server is not known to have the end of this task.
    LeavingUnproven {
        /// Which task.
        task_id: String,
    },
}

/// A frame that was ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadFrame {
    /// The message's type, when it names one.
    pub message_type: Option<String>,
    /// The payload's size in bytes.
    pub size: usize,
    /// What is wrong with it; never any of the payload's values.
    pub problem: String,
}
