//! What goes into the state machine and what comes out of it.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::agent::{AgentSettings, TaskSpec};
use crate::metrics::MetricEvent;
use crate::notice::Notice;
use crate::outcome::{Failure, Outcome};
use crate::record::Record;

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
    /// kubernetes). What then runs and can be [resumed](AfterKill::Resumes) by the next worker is not waited for either.
    pub stops_tasks_on_shutdown: bool,
    /// What becomes of a task that ran when the worker was killed.
    pub after_kill: AfterKill,
    /// Whether there is somebody to keep records. If not, [`Output::Persist`] is never given, and nothing waits for one.
    pub journal: bool,
    /// What tasks are started with.
    pub agent: AgentSettings,
}

/// What becomes of a task that ran when the worker was killed, once a new worker knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterKill {
    /// Nothing is left of it: it failed (direct).
    Fails,
    /// It may still be there, and the backend looks for it (docker, kubernetes).
    Resumes,
    /// It was being handed over: it is cancelled where it may have arrived, and failed (command). Each task is recorded as
    /// one that is being dispatched.
    IsCancelled,
}

/// Tells one run of a task from every other one in the life of a [`Worker`](super::Worker).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub(super) u64);

/// What happened.
// Not `Debug`: the text of a frame holds secrets.
#[derive(Clone)]
#[allow(missing_docs)]
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
    /// Bytes arrived that are no whole frame yet.
    Received,
    /// Of what was handed out and could not be written at once, the socket has taken some more.
    Taken,
    /// Every frame that was handed out is written.
    Written,
    /// The backend really runs a task: what it needs of this machine for it is there.
    TaskStarted { task_id: &'a str, run: RunId },
    /// A task is over. Nothing that happens afterwards changes how.
    TaskFinished { task_id: &'a str, run: RunId, outcome: Outcome },
    /// What follows a task is over too, or is waited for no longer: its slot is free.
    TaskEnded {
        task_id: &'a str,
        run: RunId,
        /// What of it failed, in order: teardown, removal of the workspace.
        cleanup: Vec<Failure>,
    },
    /// Something that follows a task, and went on beyond its [`TaskEnded`](Self::TaskEnded), failed.
    CleanupFailed { task_id: &'a str, failure: Failure },
    /// The cancel command of a dispatched task failed, for this reason in words.
    CancelFailed { task_id: &'a str, problem: String },
    /// The backend took up a task that an earlier process started, `age` ago, and whose worker is gone.
    Found { task_id: &'a str, execution_id: Option<&'a str>, age: Duration },
    /// The records up to this number are safe.
    Durable(u64),
    /// Somebody asks the worker to stop, with the signal of this name.
    Stop(&'static str),
}

/// What to do.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Output {
    /// Open a connection; answer with [`Input::Connected`] or [`Input::DialFailed`].
    Dial,
    /// Give up the connection or the dial at once, without an answer.
    Drop,
    /// Put this frame behind those already handed out; [`Input::Written`] once all are written.
    Send(Frame),
    /// Close the connection with code 1000 after what was handed out; answer with [`Input::Disconnected`].
    Close,
    /// Start a task; answer with [`Input::TaskStarted`], [`Input::TaskFinished`] and [`Input::TaskEnded`].
    StartTask {
        run: RunId,
        spec: Box<TaskSpec>,
    },
    /// Take up a task that an earlier process started, if it is still there; answer as for
    /// [`StartTask`](Self::StartTask).
    ResumeTask {
        run: RunId,
        task_id: String,
        execution_id: Option<String>,
    },
    /// Stop a task, also one that has not really started; [`Input::TaskFinished`] and [`Input::TaskEnded`] follow all the
    /// same.
    StopTask {
        task_id: String,
        run: RunId,
    },
    /// Run the cancel command for a task that was dispatched.
    CancelDispatched {
        task_id: String,
        execution_id: Option<String>,
    },
    /// How this execution ended is not told any more: the server is known to have heard it, or has moved on. What was
    /// kept of it so that a later worker could tell may go.
    Settled {
        task_id: String,
        execution_id: Option<String>,
    },
    /// Record this behind everything recorded before; answer with [`Input::Durable`] once it is safe, for one record or for
    /// a whole row.
    Persist {
        number: u64,
        record: Record,
    },
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
