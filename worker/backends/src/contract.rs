//! What running a task means: one backend per worker, one call per task. `docs/backends.md`.
//!
//! A backend knows nothing about the connection, the metrics or capacity. It reads as straight-line code over
//! [`Runtime`]: make the workspace, run setup, run the agent, tear down.

mod command;
mod direct;
mod output;
mod step;

use async_channel::Receiver;
use futures_lite::FutureExt;
use oz_worker_core::agent::TaskSpec;
use oz_worker_core::metrics::FailureReason;
use oz_worker_core::{Failure, Outcome, TaskEnd};
use oz_worker_telemetry::TaskTrace;

pub use command::CommandBackend;
use command::Task;
pub use direct::DirectBackend;

use crate::runtime::Runtime;

/// The backend of this worker.
pub enum Backend<R: Runtime> {
    /// The agent as a process of this host.
    Direct(DirectBackend<R>),
    /// The operator's own runtime.
    Command(CommandBackend<R>),
}

impl<R: Runtime> Backend<R> {
    /// Runs a task to its end, or until `stop` asks for less. `trace` is the task's own.
    pub async fn run(&self, spec: TaskSpec, trace: TaskTrace, stop: Stop) -> TaskEnd {
        match self {
            Self::Direct(direct) => direct.run(spec, trace, stop).await,
            Self::Command(command) => command.run(spec, trace, stop).await,
        }
    }

    /// Cancels a task that was dispatched. `trace` is that of the cancellation.
    ///
    /// # Errors
    /// Why that failed, in words.
    pub async fn cancel_dispatched(
        &self,
        task_id: &str,
        execution_id: Option<&str>,
        trace: &TaskTrace,
    ) -> Result<(), String> {
        match self {
            Self::Direct(_) => Ok(()),
            Self::Command(command) => command.cancel(&Task { id: task_id, execution_id, trace }).await,
        }
    }
}

/// The request to stop one task. Both channels carry nothing: closing them is the message.
pub struct Stop {
    task: Receiver<()>,
    worker: Receiver<()>,
}

impl Stop {
    /// Stops the task when `task` is closed, and without any ceremony when `worker` is.
    pub const fn new(task: Receiver<()>, worker: Receiver<()>) -> Self {
        Self { task, worker }
    }

    /// Whether the task is to stop.
    fn is_asked(&self) -> bool {
        self.task.is_closed() || self.is_abandoned()
    }

    /// Ends when the task is to stop.
    async fn asked(&self) {
        let _ = self.task.recv().or(self.worker.recv()).await;
    }

    /// Whether the worker leaves now: what still runs is to be killed, and nothing else done.
    fn is_abandoned(&self) -> bool {
        self.worker.is_closed()
    }

    /// Ends when the worker leaves now.
    async fn abandoned(&self) {
        let _ = self.worker.recv().await;
    }
}

fn failed(reason: FailureReason, message: String) -> Outcome {
    Outcome::Failed(Failure { reason, exit_code: 0, message })
}

const fn ended(outcome: Outcome) -> TaskEnd {
    TaskEnd { outcome, cleanup: Vec::new() }
}
