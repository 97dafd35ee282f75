//! What may happen to a worker: steps that make sense in every state, so that any row of them is a test.

use oz_worker_core::metrics::FailureReason;
use oz_worker_core::{AfterKill, Failure, Outcome};

/// What the operator decided, and the seed.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(fuzzing, derive(arbitrary::Arbitrary))]
pub struct Setup {
    pub limit: u8,
    pub drain_seconds: u8,
    pub stop_seconds: u8,
    pub stops_tasks: bool,
    pub after_kill: u8,
    pub seed: u64,
}

/// One thing that happens, so many milliseconds after the one before.
#[derive(Debug, Clone)]
#[cfg_attr(fuzzing, derive(arbitrary::Arbitrary))]
pub struct Step {
    pub after_ms: u32,
    pub what: What,
}

/// What happens. Numbers choose among what there is.
#[derive(Debug, Clone)]
#[cfg_attr(fuzzing, derive(arbitrary::Arbitrary))]
pub enum What {
    /// The worker's own timer, exactly then.
    Timer,
    /// A timer that is early or late.
    Nothing,
    Connected,
    DialFailed,
    Disconnected,
    Assign {
        task: u8,
        execution: u8,
    },
    /// An assignment that names its task and nothing else that can be understood.
    Malformed {
        task: u8,
        execution: u8,
    },
    Cancel {
        task: u8,
    },
    /// A frame that is no message.
    Junk,
    Binary,
    Ping,
    Pong(Pong),
    /// Bytes that are no whole frame.
    Received,
    /// The socket takes more of what waits.
    Taken,
    Written,
    Started {
        which: u8,
    },
    Finished {
        which: u8,
        how: Ended,
    },
    Ended {
        which: u8,
        cleanup_failed: bool,
    },
    CleanupFailed {
        task: u8,
    },
    /// The records are safe, but for the last few.
    Safe {
        back: u8,
    },
    CancelFailed {
        task: u8,
    },
    Stop,
}

/// Which Pong arrives.
#[derive(Debug, Clone)]
#[cfg_attr(fuzzing, derive(arbitrary::Arbitrary))]
pub enum Pong {
    /// The answer to a Ping of this connection, counted from the newest.
    Sent(u8),
    /// One with a small number in it that perhaps no Ping had.
    Serial(u8),
    Other(Vec<u8>),
}

/// How a task ends.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(fuzzing, derive(arbitrary::Arbitrary))]
pub enum Ended {
    Completed,
    Dispatched,
    Failed(u8),
    /// As if it had been asked to stop; completed when it was not.
    Stopped,
}

/// So few tasks and executions that steps often meet.
const TASKS: u8 = 4;
const EXECUTIONS: u8 = 3;
/// The assignment of a task that no step names.
pub const UNUSED: &str = r#"{"type":"task_assignment","data":{"task_id":"unused","task":{}}}"#;

pub fn task_id(task: u8) -> String {
    format!("T{}", task % TASKS)
}

/// The id of an execution; the first is none.
pub fn execution_id(execution: u8) -> Option<String> {
    let execution = execution % EXECUTIONS;
    (execution > 0).then(|| format!("e{execution}"))
}

pub fn assignment(task: u8, execution: u8) -> String {
    message("task_assignment", task, execution, r#","task":{"title":"t"}"#)
}

pub fn malformed(task: u8, execution: u8) -> String {
    message("task_assignment", task, execution, r#","task":"t""#)
}

pub fn cancellation(task: u8) -> String {
    message("task_cancellation", task, 0, "")
}

fn message(kind: &str, task: u8, execution: u8, rest: &str) -> String {
    let execution = execution_id(execution).map(|id| format!(r#","execution_id":"{id}""#)).unwrap_or_default();
    format!(r#"{{"type":"{kind}","data":{{"task_id":"{}"{execution}{rest}}}}}"#, task_id(task))
}

/// How a task ended: a backend says `Stopped` only of a task that it was asked to stop.
pub fn outcome(how: Ended, stopping: bool) -> Outcome {
    match how {
        Ended::Stopped if stopping => Outcome::Stopped,
        Ended::Completed | Ended::Stopped => Outcome::Completed,
        Ended::Dispatched => Outcome::Dispatched,
        Ended::Failed(code) => {
            let reasons = FailureReason::ALL;
            Outcome::Failed(failure(reasons[usize::from(code) % reasons.len()], i32::from(code)))
        }
    }
}

pub fn failure(reason: FailureReason, exit_code: i32) -> Failure {
    Failure { reason, exit_code, message: "no".into() }
}

pub fn after_kill(number: u8) -> AfterKill {
    [AfterKill::Fails, AfterKill::Resumes, AfterKill::IsCancelled][usize::from(number % 3)]
}
