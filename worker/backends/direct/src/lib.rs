//! Backend `direct`: the agent as a process of this host, in a workspace of its own.

#![forbid(unsafe_code)]

pub mod dotenv;
mod ending;
mod environment;
mod settings;
mod steps;
mod workspaces;

use std::io;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::FutureExt;
use oz_worker_contract::machine::{self, ProcessOf, TreeOf};
use oz_worker_contract::{Common, Report, Stop, Task, failed};
use oz_worker_core::agent::TaskSpec;
use oz_worker_core::metrics::FailureReason;
use oz_worker_core::{Failure, Outcome};
use oz_worker_runtime::{Command, Environment, Exit, Files, Host, Lane, Machine};
use oz_worker_telemetry::{TaskStep, TaskTrace};
use tracing::warn;

use ending::Left;
pub use oz_worker_contract::program::ProgramError;
pub use settings::{DirectError, DirectSettings};
use steps::{Step, StepEnd, Steps};
pub use workspaces::{Cleaned, Origin, Workspace, WorkspaceError, Workspaces};

/// How many lines that setup wrote and that cannot be read are named one by one.
const MOST_LINES_TOLD: usize = 10;

pub struct DirectBackend<R: Host> {
    runtime: R,
    job: Arc<Job>,
}

/// What is the same for every task.
#[derive(Debug)]
pub struct Job {
    /// The agent's program.
    pub oz: PathBuf,
    /// Where each task gets a directory of its own: its workspace, or with `target_dir` a private one for its settings.
    pub workspaces: Workspaces,
    pub settings: DirectSettings,
    /// Whether workspaces are removed afterwards.
    pub cleanup: bool,
    /// From SIGTERM to SIGKILL.
    pub cancel_grace_period: Duration,
    /// The worker's own environment.
    pub host_env: Environment,
}

/// Where a task runs.
struct Place {
    /// The task's own directory: its workspace, or the private one beside a shared `target_dir`.
    own: Workspace,
    cwd: PathBuf,
}

impl Job {
    /// The job on a machine that can do it; what crashed workers left there is removed.
    ///
    /// # Errors
    /// What the machine lacks, in one line.
    fn prepare<R>(settings: DirectSettings, common: &Common<R>, files: &impl Files) -> Result<Self, String> {
        let path = common.host_env.get("PATH");
        let oz = settings.agent(files, path).map_err(|error| error.to_string())?;
        let temporary = std::env::temp_dir();
        let root = if settings.target_dir.is_some() { &temporary } else { &settings.workspace_root };
        let workspaces = Workspaces::new(root, common.owner.clone());
        if common.cleanup {
            clean(&workspaces, files);
        }
        Ok(Self {
            oz,
            workspaces,
            settings,
            cleanup: common.cleanup,
            cancel_grace_period: common.cancel_grace_period,
            host_env: common.host_env.clone(),
        })
    }

    fn place(&self, files: &impl Files, task_id: &str) -> Result<Place, String> {
        let own = match self.settings.target_dir {
            None => self.workspaces.create(files, task_id),
            Some(_) => self.workspaces.create_private(files),
        };
        let own = own.map_err(|error| error.to_string())?;
        let cwd = self.settings.target_dir.clone().unwrap_or_else(|| own.path().to_owned());
        Ok(Place { own, cwd })
    }

    fn script(&self, script: &str, spec: &TaskSpec, place: &Place) -> Command {
        environment::script(script, &self.host_env, spec, place)
    }

    fn agent(&self, from_setup: &Environment, spec: &TaskSpec, place: &Place) -> Command {
        environment::agent(&self.oz, &self.host_env, from_setup, spec, place)
    }
}

/// Removes what crashed workers left in the root, and says so.
fn clean(workspaces: &Workspaces, files: &impl Files) {
    let cleaned = workspaces.clean_leftovers(files);
    let root = workspaces.root();
    for name in cleaned.removed {
        warn!("removed {}, which a crashed worker with this id had left behind", root.join(name).display());
    }
    for (name, problem) in cleaned.failed {
        let shown = root.join(name);
        warn!("cannot remove {}, which a crashed worker with this id left behind: {problem}", shown.display());
    }
    if let Ok(false) = workspaces.supports_marks(files) {
        let root = root.display();
        warn!("the file system of {root} has no extended attributes: what a crash leaves there will not be cleaned up");
    }
}

impl<R: Host> DirectBackend<R> {
    /// The backend on a machine that can run it.
    ///
    /// # Errors
    /// What the machine lacks, in one line.
    pub async fn prepare(settings: DirectSettings, common: Arc<Common<R>>) -> Result<Self, String> {
        let runtime = common.runtime.clone();
        machine::adopt(&runtime, &common.owner).await;
        let prepared = move |machine: &R::Machine| Job::prepare(settings, &common, machine.files());
        // What a crash left may be large.
        let job = runtime.on(Lane::Remove, prepared).await?;
        Ok(Self::new(runtime, job))
    }

    /// The backend on a machine that is ready.
    pub fn new(runtime: R, job: Job) -> Self {
        Self { runtime, job: Arc::new(job) }
    }

    /// Runs a task to its end, or until it is asked to stop. Its report is told what became of it; what failed after that is
    /// given.
    pub async fn run(&self, task: Task) -> Vec<Failure> {
        let Task { spec, trace, stop, report, log } = task;
        if stop.is_asked() {
            report.finished(Outcome::Stopped);
            return Vec::new();
        }
        let spec = Arc::<TaskSpec>::from(spec);
        let begin = self.begin(&spec, &trace, &stop, &report);
        let Parts { place, tree, first } = match machine::begun(&self.runtime, begin, stop.asked()).await {
            Some(Ok(parts)) => parts,
            Some(Err(outcome)) => {
                report.finished(outcome);
                return Vec::new();
            }
            None => {
                report.finished(Outcome::Stopped);
                return Vec::new();
            }
        };
        let grace = self.job.cancel_grace_period;
        let (over, outputs) = (Vec::new(), Vec::new());
        let mut steps =
            Steps { runtime: &self.runtime, trace: &trace, log: &log, grace, stop: &stop, tree, over, outputs };
        // A bug of ours does not spare what the task started and made.
        let followed = AssertUnwindSafe(async {
            report.started();
            tell_foreign(&place, &spec.task_id, &trace);
            report.finished(self.follow(first, &spec, &place, &mut steps).await);
        });
        let followed = followed.catch_unwind().await;
        let mut failures = Vec::new();
        let torn_down = AssertUnwindSafe(async {
            if let Some(script) = &self.job.settings.teardown_command
                && !stop.is_abandoned()
            {
                failures.extend(tear_down(self.job.script(script, &spec, &place), &mut steps).await);
            }
        });
        let torn_down = torn_down.catch_unwind().await;
        let Steps { tree, over, outputs, .. } = steps;
        let left = Left { task_id: spec.task_id.clone(), trace: trace.clone(), place, tree, over, outputs };
        failures.extend(ending::end(&self.runtime, &self.job, left, &report).await);
        if let Err(panic) = followed.and(torn_down) {
            resume_unwind(panic);
        }
        failures
    }

    /// Makes the task's place and starts its first process there, all in one go: each way to a thread that may block
    /// costs more than the calls themselves.
    async fn begin(
        &self,
        spec: &Arc<TaskSpec>,
        trace: &TaskTrace,
        stop: &Stop,
        report: &Report,
    ) -> Result<Parts<R>, Outcome> {
        let (job, spec, stop) = (Arc::clone(&self.job), Arc::clone(spec), stop.clone());
        let (runtime, trace, report) = (self.runtime.clone(), trace.clone(), report.clone());
        let work = move |machine: &R::Machine| {
            if stop.is_asked() {
                return Err(Outcome::Stopped);
            }
            let files = machine.files();
            let place =
                job.place(files, &spec.task_id).map_err(|message| failed(FailureReason::WorkspaceSetup, message))?;
            let tree = Arc::new(machine.tree());
            let (command, ready) = match &job.settings.setup_command {
                Some(script) => (job.script(script, &spec, &place), environment::make_file(files, &place)),
                None => (job.agent(&Environment::default(), &spec, &place), Ok(())),
            };
            // Making the place may have taken long.
            let wanted = if stop.is_asked() { Err(io::ErrorKind::Interrupted.into()) } else { ready };
            let first = wanted.and_then(|()| machine.start(&command, Some(&tree)));
            if first.is_ok() {
                let is_setup = job.settings.setup_command.is_some();
                trace.step(if is_setup { &TaskStep::SettingUp } else { &TaskStep::Running { node: None } });
            }
            let parts = Some(Parts { place, tree, first });
            Ok(Begun { runtime, job, report, task_id: spec.task_id.clone(), parts })
        };
        self.runtime.on(Lane::Start, work).await.and_then(Begun::claim)
    }

    /// Follows the task to the end of its agent.
    async fn follow(
        &self,
        first: io::Result<ProcessOf<R>>,
        spec: &Arc<TaskSpec>,
        place: &Place,
        steps: &mut Steps<'_, R>,
    ) -> Outcome {
        let is_setup = self.job.settings.setup_command.is_some();
        let first = match first {
            Ok(process) => steps.follow(if is_setup { Step::Setup } else { Step::Agent }, process).await,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => StepEnd::Stopped,
            Err(error) => StepEnd::Error(error),
        };
        if !is_setup {
            return self.outcome(first);
        }
        match first {
            StepEnd::Exited(Exit::Code(0)) => {}
            StepEnd::Exited(exit) => return failed(FailureReason::SetupCommand, format!("the setup command {exit}")),
            StepEnd::Stopped => return Outcome::Stopped,
            StepEnd::Error(error) => {
                return failed(FailureReason::SetupCommand, format!("cannot run the setup command: {error}"));
            }
        }
        let path = environment::file(place);
        let known = environment::of_agent(&self.job.host_env, spec, place);
        let read = self.runtime.on(Lane::Start, move |machine| environment::read_file(machine.files(), &path, &known));
        let read = async { Some(read.await) };
        let stopped = async {
            steps.stop.asked().await;
            None
        };
        let from_setup = match stopped.or(read).await {
            Some(Ok(variables)) => {
                tell_unreadable(&variables.unreadable, &spec.task_id, steps.trace);
                variables.set
            }
            Some(Err(message)) => return failed(FailureReason::SetupCommand, message),
            None => return Outcome::Stopped,
        };
        let end = steps.run(Step::Agent, self.job.agent(&from_setup, spec, place)).await;
        self.outcome(end)
    }

    fn outcome(&self, agent: StepEnd) -> Outcome {
        match agent {
            StepEnd::Exited(Exit::Code(0)) => Outcome::Completed,
            StepEnd::Exited(exit) => Outcome::Failed(Failure {
                reason: FailureReason::AgentInvocation,
                exit_code: exit.code(),
                message: format!("the agent {exit}"),
            }),
            StepEnd::Stopped => Outcome::Stopped,
            StepEnd::Error(error) => {
                failed(FailureReason::AgentInvocation, format!("cannot run {}: {error}", self.job.oz.display()))
            }
        }
    }

    /// Gives back what was taken from the machine.
    pub async fn release(&self) {
        machine::release(&self.runtime).await;
    }
}

/// Says of a workspace that is not the worker's what that means.
fn tell_foreign(place: &Place, task_id: &str, trace: &TaskTrace) {
    if place.own.origin() == Origin::Foreign {
        let (path, trace_id) = (place.own.path().display(), trace.id());
        warn!(task_id, trace_id, "workspace {path} was there before: it is used, and will not be removed");
    }
}

/// Says which lines that setup wrote count for nothing; never what stands there.
fn tell_unreadable(lines: &[usize], task_id: &str, trace: &TaskTrace) {
    let trace_id = trace.id();
    for line in lines.iter().take(MOST_LINES_TOLD) {
        warn!(task_id, trace_id, "line {line} of what the setup command wrote is not NAME=VALUE: it is left out");
    }
    if let Some(more) = lines.len().checked_sub(MOST_LINES_TOLD).filter(|more| *more > 0) {
        warn!(task_id, trace_id, "{more} more lines of what the setup command wrote are left out");
    }
}

async fn tear_down<R: Host>(command: Command, steps: &mut Steps<'_, R>) -> Option<Failure> {
    let message = match steps.run(Step::Teardown, command).await {
        StepEnd::Exited(Exit::Code(0)) | StepEnd::Stopped => return None,
        StepEnd::Exited(exit) => format!("the teardown command {exit}"),
        StepEnd::Error(error) => format!("cannot run the teardown command: {error}"),
    };
    Some(Failure::new(FailureReason::TeardownCommand, message))
}

/// What a task has of this machine when it begins.
struct Parts<R: Host> {
    place: Place,
    tree: Arc<TreeOf<R>>,
    /// Its setup command, or its agent when there is none.
    first: io::Result<ProcessOf<R>>,
}

/// The same on its way to the task. When that was stopped meanwhile, all of it is ended and given back.
struct Begun<R: Host> {
    runtime: R,
    job: Arc<Job>,
    report: Report,
    task_id: String,
    parts: Option<Parts<R>>,
}

impl<R: Host> Begun<R> {
    fn claim(mut self) -> Result<Parts<R>, Outcome> {
        self.parts.take().ok_or(Outcome::Stopped)
    }
}

impl<R: Host> Drop for Begun<R> {
    fn drop(&mut self) {
        let Some(Parts { place, tree, first }) = self.parts.take() else { return };
        let over = first.into_iter().collect();
        let (runtime, job, report) = (self.runtime.clone(), Arc::clone(&self.job), self.report.clone());
        let left = Left {
            task_id: std::mem::take(&mut self.task_id),
            trace: TaskTrace::default(),
            place,
            tree,
            over,
            outputs: Vec::new(),
        };
        self.runtime.spawn(async move {
            if let Some(failure) = ending::end(&runtime, &job, left, &report).await {
                report.cleanup_failed(failure);
            }
        });
    }
}
