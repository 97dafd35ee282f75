//! How a task ended, as its backend says it.

use alloc::string::String;

use crate::metrics::FailureReason;

/// How a task itself ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It ran and exited 0.
    Completed,
    /// It was handed to a remote runtime, which reports its end.
    Dispatched,
    /// For this reason.
    Failed(Failure),
    /// It was stopped because [`Output::StopTask`](crate::Output::StopTask) asked for it.
    Stopped,
}

/// What failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The reason, as metrics and messages name it.
    pub reason: FailureReason,
    /// The exit code of what failed, or 0 when there is none.
    pub exit_code: i32,
    /// What happened, in words.
    pub message: String,
}

impl Failure {
    /// A failure without an exit code.
    pub fn new(reason: FailureReason, message: impl Into<String>) -> Self {
        Self { reason, exit_code: 0, message: message.into() }
    }
}
