//! What may happen to a worker: steps that make sense in every state, so that any row of them is a test.

use oz_worker_core::metrics::FailureReason;
use oz_worker_core::{Failure, Outcome, TaskEnd};

/// What the operator decided, and the seed.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(fuzzing, derive(arbitrary::Arbitrary))]
pub struct Setup {
    pub limit: u8,
    pub drain_seconds: u8,
    pub stop_seconds: u8,
    pub stops_tasks: bool,
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
    Written,
    Ended {
        which: u8,
        how: Ended,
        cleanup_failed: bool,
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

/// The end of a task: a backend says `Stopped` only of a task that it was asked to stop.
pub fn end(how: Ended, cleanup_failed: bool, stopping: bool) -> TaskEnd {
    let failure = |reason, exit_code| Failure { reason, exit_code, message: "no".into() };
    let outcome = match how {
        Ended::Stopped if stopping => Outcome::Stopped,
        Ended::Completed | Ended::Stopped => Outcome::Completed,
        Ended::Dispatched => Outcome::Dispatched,
        Ended::Failed(code) => {
            let reasons = FailureReason::ALL;
            Outcome::Failed(failure(reasons[usize::from(code) % reasons.len()], i32::from(code)))
        }
    };
    let cleanup = if cleanup_failed { vec![failure(FailureReason::Cleanup, 1)] } else { Vec::new() };
    TaskEnd { outcome, cleanup }
}
