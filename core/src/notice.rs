//! What to tell a person: the facts of the log's lines. The words are made where the log is written.

use alloc::string::String;
use core::fmt;
use core::time::Duration;

use crate::flaw::Flaw;
use crate::metrics::{RejectReason, TaskResult};
use crate::outcome::Failure;

/// Something a person may want to know. None of it carries a secret; titles and ids are untrusted text.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Notice {
    /// A connection is established.
    Connected {
        /// The number of ended tasks whose end is sent again on it.
        unproven_ends: usize,
        /// Whether the one before brought nothing. A person is told of it by [`ConnectionStays`](Self::ConnectionStays), when
        /// it does better.
        is_repeated: bool,
    },
    /// The connection brought a message, or has lasted a minute, and those before did not.
    ConnectionStays,
    DialFailed {
        cause: Cause,
        /// How long until the next one.
        retry_in: Duration,
    },
    /// An established connection ended.
    Disconnected {
        cause: Cause,
        /// How long until the next dial.
        retry_in: Duration,
    },
    BadFrame(BadFrame),
    /// An assignment names its task and cannot be understood otherwise.
    MalformedAssignment {
        task_id: String,
        /// The payload's size in bytes.
        size: usize,
        flaw: Flaw,
        /// Whether the task was answered as failed. It is not when it was rejected, or its run is known already.
        is_answered: bool,
    },
    /// A task took a slot.
    Claimed {
        task_id: String,
        execution_id: Option<String>,
        title: String,
        /// The number of tasks that hold a slot now.
        active: usize,
    },
    /// An assignment was declined.
    Rejected {
        task_id: String,
        /// Its title; empty when the assignment cannot be understood.
        title: String,
        reason: RejectReason,
        /// The number of tasks that hold a slot.
        active: usize,
        /// Whether it is one more of a row that is declined for lack of a slot. A person is told of the first only.
        is_repeated: bool,
    },
    /// A task was assigned that the worker has already; it was not started again.
    AssignedAgain {
        task_id: String,
    },
    /// The user cancelled a task.
    CancelRequested {
        task_id: String,
    },
    /// The user cancelled a task that has finished and is being cleaned up after; its result stands.
    CancelTooLate {
        task_id: String,
    },
    /// The user cancelled a task that the worker does not have.
    CancelUnknown {
        task_id: String,
    },
    /// The cancel command of a dispatched task failed.
    CancelFailed {
        task_id: String,
        problem: String,
    },
    /// A task that was claimed has not started for too long: until it has, or has ended, no other is claimed.
    NotReady {
        task_id: String,
    },
    /// Every task that had not started for too long has started, or has ended.
    Ready,
    /// A task that ran when the worker was killed goes on, and holds a slot again.
    Resumed {
        task_id: String,
        execution_id: Option<String>,
        /// The time since its claim.
        age: Duration,
        /// The number of tasks that hold a slot now.
        active: usize,
    },
    /// A task ran when the worker was killed; the server is told that it ended so.
    Interrupted {
        task_id: String,
        result: TaskResult,
    },
    /// A task ended too long ago for the server still to be told.
    TooOldToTell {
        task_id: String,
        /// How long ago.
        age: Duration,
    },
    /// The result of a task is told.
    Ended {
        task_id: String,
        result: TaskResult,
        /// Time since its claim.
        duration: Duration,
        failure: Option<Failure>,
        /// The number of tasks that hold a slot now.
        active: usize,
    },
    /// What follows a task failed; its result stands.
    CleanupFailed {
        task_id: String,
        failure: Failure,
    },
    /// The worker takes no new task and lets the running ones finish.
    Draining {
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
        signal: &'static str,
        /// The number of running tasks.
        active: usize,
    },
    /// The worker leaves although the server is not known to have the end of this task.
    LeavingUnproven {
        task_id: String,
    },
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The dial had no answer for so long.
    DialTimedOut(Duration),
    /// What was handed to the socket was not written for so long.
    WriteStalled(Duration),
    /// Nothing arrived for so long.
    Silent(Duration),
    /// What whoever owns the socket says.
    Outside(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DialTimedOut(limit) => write!(f, "not connected after {} s", limit.as_secs()),
            Self::WriteStalled(limit) => write!(f, "a write took longer than {} s", limit.as_secs()),
            Self::Silent(limit) => write!(f, "nothing was received for {} s", limit.as_secs()),
            Self::Outside(cause) => f.write_str(cause),
        }
    }
}

/// A frame that was ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadFrame {
    /// The message's type, when it names one.
    pub message_type: Option<String>,
    /// The payload's size in bytes.
    pub size: usize,
    /// Never shows any of the payload's values.
    pub problem: Problem,
}

/// What is wrong with a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// It is not text.
    Binary,
    /// The text is not a JSON object.
    NotJson,
    /// The protocol has no such message.
    UnknownType,
    /// A field of it.
    Malformed(Flaw),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Binary => "it is binary",
            Self::NotJson => "it is not a JSON object",
            Self::UnknownType => "its type is unknown",
            Self::Malformed(flaw) => return flaw.fmt(f),
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;
    use crate::flaw::FlawKind;

    #[test]
    fn each_cause_and_problem_has_its_words() {
        let limit = Duration::from_secs(45);
        assert_eq!(Cause::DialTimedOut(limit).to_string(), "not connected after 45 s");
        assert_eq!(Cause::WriteStalled(limit).to_string(), "a write took longer than 45 s");
        assert_eq!(Cause::Silent(limit).to_string(), "nothing was received for 45 s");
        assert_eq!(Cause::Outside("reset".into()).to_string(), "reset");
        let flaw = Flaw { field: "task".into(), kind: FlawKind::Missing };
        let problems = [Problem::Binary, Problem::NotJson, Problem::UnknownType, Problem::Malformed(flaw)];
        let words = ["it is binary", "it is not a JSON object", "its type is unknown", "task is missing"];
        assert_eq!(problems.map(|problem| problem.to_string()), words);
    }
}
