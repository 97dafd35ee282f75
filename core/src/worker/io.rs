//! What goes into the state machine and what comes out of it.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::agent::{AgentSettings, TaskSpec};
use crate::metrics::{FailureReason, MetricEvent};
use crate::notice::Notice;

/// What the operator decided.
#[derive(Debug, Clone)]
pub struct Config {
    /// The worker's id, part of every claim.
    pub worker_id: String,
    /// How many tasks may hold a slot at once; 0 means any number.
    pub max_concurrent_tasks: u32,
    /// How long running tasks may go on after the first request to stop.
    pub drain_timeout: Duration,
    /// How long tasks may take to stop when the worker leaves; those that have not by then are reported as failed all
    /// the same.
    pub stop_timeout: Duration,
    /// Whether the worker's end stops its tasks (direct, docker), or leaves what it handed over alone (command,
    /// kubernetes).
    pub stops_tasks_on_shutdown: bool,
    /// What tasks are started with.
    pub agent: AgentSettings,
}

/// Tells one run of a task from every other one in the life of a [`Worker`](super::Worker).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub(super) u64);

/// What happened.
#[derive(Debug, Clone)]
pub enum Input<'a> {
    /// Nothing but time passed: [`Worker::poll_timeout`](super::Worker::poll_timeout) may have come.
    Timeout,
    /// The dial succeeded; the connection is established.
    Connected,
    /// The dial failed, for this reason in words.
    DialFailed(String),
    /// The established connection ended, for this reason in words.
    Disconnected(String),
    /// A text frame arrived.
    Text(&'a str),
    /// A binary frame of this many bytes arrived.
    Binary(usize),
    /// A Ping arrived. The WebSocket layer answers it.
    Ping,
    /// A Pong with this payload arrived.
    Pong(&'a [u8]),
    /// Every frame that was handed out is written.
    Written,
    /// The backend is done with a task.
    TaskEnded {
        /// Which task.
        task_id: &'a str,
        /// Which run of it.
        run: RunId,
        /// How it ended.
        end: TaskEnd,
    },
    /// The cancel command of a dispatched task failed, for this reason in words.
    CancelFailed {
        /// Which task.
        task_id: &'a str,
        /// Why.
        problem: String,
    },
    /// Somebody asks the worker to stop, with the signal of this name.
    Stop(&'static str),
}

/// What to do.
#[derive(Debug, Clone)]
pub enum Output {
    /// Open a connection; answer with [`Input::Connected`] or [`Input::DialFailed`].
    Dial,
    /// Give up the connection or the dial at once, without an answer.
    Drop,
    /// Put this frame behind those already handed out; [`Input::Written`] once all are written.
    Send(Frame),
    /// Close the connection with code 1000 after what was handed out; answer with [`Input::Disconnected`].
    Close,
    /// Start a task; answer with [`Input::TaskEnded`].
    StartTask {
        /// Which run this is.
        run: RunId,
        /// What to run.
        spec: Box<TaskSpec>,
    },
    /// Stop a task, also one that has not really started; [`Input::TaskEnded`] follows all the same.
    StopTask {
        /// Which task.
        task_id: String,
        /// Which run of it.
        run: RunId,
    },
    /// Run the cancel command for a task that was dispatched.
    CancelDispatched {
        /// Which task.
        task_id: String,
        /// Which execution of it.
        execution_id: Option<String>,
    },
    /// Count this.
    Metric(MetricEvent),
    /// Tell a person this.
    Notice(Notice),
    /// The worker is done: end every task that still runs, flush the telemetry, exit with 0. Nothing comes after it.
    Exit,
}

/// A frame to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A message.
    Text(String),
    /// A Ping with this payload.
    Ping([u8; 8]),
}

/// How a backend is done with a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskEnd {
    /// How the task itself ended.
    pub outcome: Outcome,
    /// What failed after that, in order: teardown, removal of the workspace. Never changes the result.
    pub cleanup: Vec<Failure>,
}

/// How a task itself ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It ran and exited 0.
    Completed,
    /// It was handed to a remote runtime, which reports its end.
    Dispatched,
    /// It failed.
    Failed(Failure),
    /// It was stopped because [`Output::StopTask`] asked for it.
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
