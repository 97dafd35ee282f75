//! What a backend is: how it is configured, what must be true before its first task, how it runs, cancels and ends one.
//!
//! A backend knows nothing about the connection, the metrics or capacity. It gets a [`Task`], says through its
//! [`Report`] what became of it, and reads as straight-line code.

#![forbid(unsafe_code)]

pub mod aside;
pub mod earlier;
pub mod ends;
pub mod helper;
pub mod image;
pub mod last_output;
pub mod machine;
pub mod output;
pub mod program;
pub mod query;
pub mod redaction;
pub mod reference;
pub mod turns;
pub mod untyped;

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_lock::OnceCell;
use futures_lite::FutureExt;
use oz_worker_core::agent::{AgentSettings, TaskSpec};
use oz_worker_core::metrics::FailureReason;
use oz_worker_core::{AfterKill, Failure, Outcome};
use oz_worker_runtime::{Environment, Files, Owner};
use oz_worker_telemetry::TaskTrace;
use oz_worker_text::section::{Section, Vocabulary};
use oz_worker_text::yaml::Position;

use output::TaskLog;

/// What the operator decided about one backend.
pub trait Configure: Sized {
    /// The backend's name, as `--backend`, the file and the metrics' resource attribute `worker.backend` have it.
    const NAME: &'static str;
    /// The keys of its mapping in the file, and those of the mappings in it.
    const VOCABULARY: &'static Vocabulary;
    /// Whether the worker's end stops its tasks, or leaves them alone where they are.
    const STOPS_TASKS: bool;
    /// What becomes of a task that ran when the worker was killed.
    const AFTER_KILL: AfterKill;
    /// Whether tasks are processes of this machine, which end with the worker however it ends.
    const RUNS_HERE: bool = false;

    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn stops_tasks(&self) -> bool {
        Self::STOPS_TASKS
    }

    fn after_kill(&self) -> AfterKill {
        Self::AFTER_KILL
    }

    fn runs_here(&self) -> bool {
        Self::RUNS_HERE
    }

    /// The settings when the file has none; `None` when it cannot do without.
    fn unconfigured() -> Option<Self>;

    /// Reads its mapping; `parent` is the one that it stands in, at `at`. What is wrong is among the findings afterwards.
    fn read(section: &Section, parent: &Section, at: Position) -> Option<Self>;

    /// Takes the directory of `--target-dir`. False: it has no use for one.
    fn set_target_dir(&mut self, _: PathBuf) -> bool {
        false
    }

    /// Takes the volumes of `-v`. False: it has no use for any.
    fn add_volumes(&mut self, _: &[String]) -> bool {
        false
    }

    /// Adds what of it decides about a task before a backend gets it.
    fn adjust(&self, _: &mut AgentSettings) {}

    /// Says what would run, for `--check`, and whether this machine, seen through `files` and with this `PATH`, can run
    /// it. Changes nothing, connects to nothing.
    ///
    /// # Errors
    /// What this machine lacks, in one line.
    fn check(&self, facts: &mut Facts, files: &impl Files, path: Option<&OsStr>) -> Result<(), String>;
}

/// What `--check` says about a backend: names and values.
#[derive(Debug, Default)]
pub struct Facts(pub Vec<(&'static str, String)>);

impl Facts {
    pub fn add(&mut self, name: &'static str, value: impl fmt::Display) {
        self.0.push((name, value.to_string()));
    }

    /// A fact that may be absent.
    pub fn maybe(&mut self, name: &'static str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    /// Something that may have a secret written into it.
    pub fn configured<T>(&mut self, name: &'static str, value: Option<&T>) {
        self.maybe(name, value.map(|_| "configured, not shown"));
    }
}

/// What every backend is told beside its own settings.
pub struct Common<R> {
    pub runtime: R,
    /// This worker, as the owner of what its tasks leave on this machine.
    pub owner: Owner,
    pub worker_id: String,
    pub server_root_url: String,
    /// Whether what a task leaves behind is removed.
    pub cleanup: bool,
    /// From SIGTERM to SIGKILL.
    pub cancel_grace_period: Duration,
    /// The operator's variables for tasks.
    pub environment: Environment,
    /// The worker's own environment.
    pub host_env: Environment,
}

/// A task, and the way back to whoever gave it.
pub struct Task {
    pub spec: Box<TaskSpec>,
    pub trace: TaskTrace,
    pub stop: Stop,
    pub report: Report,
    /// Where its lines go.
    pub log: Arc<dyn TaskLog>,
}

/// A task that an earlier process started and that is taken up, and the way back to whoever asks for that.
pub struct Resumed {
    pub task_id: String,
    pub execution_id: Option<String>,
    pub trace: TaskTrace,
    pub stop: Stop,
    pub report: Report,
    /// Where its lines go.
    pub log: Arc<dyn TaskLog>,
}

/// A task that an earlier process started and whose end nobody has told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    pub task_id: String,
    pub execution_id: Option<String>,
    /// When it was started, as the time since 1970.
    pub started: Duration,
}

impl Earlier {
    /// How long ago it was started, by this machine's clock.
    pub fn age(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(self.started)
    }
}

/// What becomes of a task before its backend is done with it.
#[derive(Debug)]
pub enum TaskEvent {
    /// It really runs: what it needs of this machine, its engine or its cluster was there.
    Started,
    /// The agent ended, or will not run. Nothing that follows changes this.
    Finished(Outcome),
    /// Clean-up that went on beside failed.
    CleanupFailed(Failure),
}

/// The way back. A clone is another handle to the same.
#[derive(Clone)]
pub struct Report(Arc<dyn Fn(TaskEvent) + Send + Sync>);

impl Report {
    /// A report to `hears`, which must not block.
    pub fn new(hears: impl Fn(TaskEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hears))
    }

    /// Tells of [`TaskEvent::Started`].
    pub fn started(&self) {
        (self.0)(TaskEvent::Started);
    }

    /// Tells of [`TaskEvent::Finished`].
    pub fn finished(&self, outcome: Outcome) {
        (self.0)(TaskEvent::Finished(outcome));
    }

    /// Tells of [`TaskEvent::CleanupFailed`].
    pub fn cleanup_failed(&self, failure: Failure) {
        (self.0)(TaskEvent::CleanupFailed(failure));
    }
}

/// Something that happens at most once, and that anybody can wait for. A clone is another handle to the same.
#[derive(Clone, Default)]
pub struct Latch(Arc<OnceCell<()>>);

impl Latch {
    /// Lets it happen. Nothing more comes of a second time.
    pub fn set(&self) {
        let _ = self.0.set_blocking(());
    }

    pub fn is_set(&self) -> bool {
        self.0.is_initialized()
    }

    /// Ends when it has happened.
    pub async fn wait(&self) {
        self.0.wait().await;
    }
}

/// The request to stop one task. A clone hears the same.
#[derive(Clone)]
pub struct Stop {
    task: Latch,
    worker: Latch,
}

impl Stop {
    /// Stops the task when `task` is set, and without any ceremony when `worker` is.
    pub const fn new(task: Latch, worker: Latch) -> Self {
        Self { task, worker }
    }

    /// Whether the task is to stop.
    pub fn is_asked(&self) -> bool {
        self.task.is_set() || self.is_abandoned()
    }

    /// Ends when the task is to stop.
    pub async fn asked(&self) {
        self.task.wait().or(self.worker.wait()).await;
    }

    /// Whether the worker leaves now: what still runs is to be killed, and nothing else done.
    pub fn is_abandoned(&self) -> bool {
        self.worker.is_set()
    }

    /// Ends when the worker leaves now.
    pub async fn abandoned(&self) {
        self.worker.wait().await;
    }
}

/// The outcome of a task that failed without an exit code.
pub fn failed(reason: FailureReason, message: String) -> Outcome {
    Outcome::Failed(Failure::new(reason, message))
}
