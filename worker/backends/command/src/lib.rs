//! Backend `command`: hands the task to the operator's own runtime.

#![forbid(unsafe_code)]

mod payload;
mod settings;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_lock::Semaphore;
use futures_lite::{AsyncWriteExt, FutureExt};
use oz_worker_contract::machine::{self, KILL_LIMIT, SHELL, Unclaimed};
use oz_worker_contract::output::{TaskLog, forward};
use oz_worker_contract::{Common, Configure, Report, Stop, Task, failed};
use oz_worker_core::metrics::FailureReason;
use oz_worker_core::{Failure, Outcome};
use oz_worker_runtime::{Command, Environment, Exit, Host, Lane, Machine, Pipes, Process, Signal};
use oz_worker_telemetry::{TaskStep, TaskTrace};
use oz_worker_text::duration;
use tracing::warn;

pub use settings::CommandSettings;

/// How long `cancel_command` may take.
const CANCEL_LIMIT: Duration = Duration::from_secs(10);
/// How many of them run at once: many cancellations are not as many processes.
const MOST_CANCELLING: usize = 8;

pub struct CommandBackend<R: Host> {
    common: Arc<Common<R>>,
    settings: CommandSettings,
    /// The environment of both commands: the worker's own, then the configured one.
    env: Environment,
    /// Whoever runs a cancel command has a place of it.
    cancelling: Semaphore,
}

/// A task that was handed over, to be cancelled.
pub struct Handed<'a> {
    pub task_id: &'a str,
    pub execution_id: Option<&'a str>,
    pub trace: &'a TaskTrace,
    /// Where the lines of what is done with it go.
    pub log: &'a Arc<dyn TaskLog>,
}

enum Purpose {
    /// To hand a task over that is described by this JSON; what becomes of it is told here.
    Dispatch(Vec<u8>, Report),
    Cancel,
}

enum End {
    Exited(Exit),
    TimedOut,
    Stopped,
    Error(io::Error),
}

impl<R: Host> CommandBackend<R> {
    /// The backend on a machine that can run it.
    ///
    /// # Errors
    /// What the machine lacks, in one line.
    pub async fn prepare(settings: CommandSettings, common: Arc<Common<R>>) -> Result<Self, String> {
        let check = |machine: &R::Machine| machine::check_shell(machine.files(), CommandSettings::NAME);
        common.runtime.on(Lane::Start, check).await.map_err(|error| error.to_string())?;
        machine::adopt(&common.runtime, &common.owner).await;
        Ok(Self::new(settings, common))
    }

    /// The backend on a machine that is ready.
    pub fn new(settings: CommandSettings, common: Arc<Common<R>>) -> Self {
        let mut env = common.host_env.clone();
        env.extend(common.environment.iter());
        Self { common, settings, env, cancelling: Semaphore::new(MOST_CANCELLING) }
    }

    /// Runs a task to its end, or until it is asked to stop. Its report is told what became of it; what failed after that is
    /// given.
    pub async fn run(&self, task: Task) -> Vec<Failure> {
        let Task { spec, trace, stop, report, log } = task;
        let mut cleanup = Vec::new();
        let outcome = if stop.is_asked() {
            Outcome::Stopped
        } else {
            match payload::payload(&spec, &self.common.server_root_url, &self.common.worker_id) {
                Err(_) => failed(FailureReason::DispatchCommand, "the task is not JSON".into()),
                Ok(payload) => {
                    let execution_id = spec.execution_id.as_deref();
                    let handed = Handed { task_id: &spec.task_id, execution_id, trace: &trace, log: &log };
                    let mut command = self.command(&self.settings.dispatch_command, &handed);
                    command.env.set("OZ_SERVER_ROOT_URL", &self.common.server_root_url);
                    command.env.set("OZ_DOCKER_IMAGE", &spec.image);
                    let purpose = Purpose::Dispatch(payload, report.clone());
                    let limit = self.settings.dispatch_timeout;
                    let end = self.execute(&handed, command, purpose, limit, Some(&stop)).await;
                    // A dispatch that was killed half-way may have handed the task over already.
                    if matches!(end, End::Stopped | End::TimedOut) {
                        let failure = |problem| Failure::new(FailureReason::CancelCommand, problem);
                        cleanup.extend(self.cancel(&handed).await.err().map(failure));
                    }
                    self.outcome(end)
                }
            }
        };
        report.finished(outcome);
        cleanup
    }

    fn outcome(&self, dispatch: End) -> Outcome {
        let message = match dispatch {
            End::Exited(Exit::Code(0)) => return Outcome::Dispatched,
            End::Stopped => return Outcome::Stopped,
            End::TimedOut => {
                let limit = duration::show(self.settings.dispatch_timeout);
                return failed(
                    FailureReason::DispatchTimeout,
                    format!("the dispatch command took longer than {limit}"),
                );
            }
            End::Exited(exit) => format!("the dispatch command {exit}"),
            End::Error(error) => format!("cannot run the dispatch command: {error}"),
        };
        failed(FailureReason::DispatchCommand, message)
    }

    /// Runs the operator's `cancel_command` for a task that was handed over; nothing when there is none.
    ///
    /// # Errors
    /// Why that failed, in words.
    pub async fn cancel(&self, handed: &Handed<'_>) -> Result<(), String> {
        let Some(script) = &self.settings.cancel_command else { return Ok(()) };
        let _place = self.cancelling.acquire().await;
        let command = self.command(script, handed);
        match self.execute(handed, command, Purpose::Cancel, CANCEL_LIMIT, None).await {
            End::Exited(Exit::Code(0)) | End::Stopped => Ok(()),
            End::Exited(exit) => Err(format!("the cancel command {exit}")),
            End::TimedOut => Err("the cancel command took longer than 10s".into()),
            End::Error(error) => Err(format!("cannot run the cancel command: {error}")),
        }
    }

    fn command(&self, script: &str, handed: &Handed<'_>) -> Command {
        let mut env = self.env.clone();
        env.set("OZ_RUN_ID", handed.task_id);
        env.set("OZ_EXECUTION_ID", handed.execution_id.unwrap_or_default());
        env.set("OZ_WORKER_BACKEND", "command");
        env.extend(handed.trace.variables().iter().map(|(name, value)| (name, value.expose())));
        Command {
            program: SHELL.into(),
            args: vec!["-c".into(), script.into()],
            env,
            // Where the worker runs, also when that was removed or cannot be entered a second time.
            cwd: None,
            input: true,
            output: Pipes::Merged,
        }
    }

    /// Runs a command for at most `limit`. What it leaves running in the background after it exited is the operator's
    /// runtime and is left alone; its output goes on being logged.
    async fn execute(
        &self,
        handed: &Handed<'_>,
        command: Command,
        purpose: Purpose,
        limit: Duration,
        stop: Option<&Stop>,
    ) -> End {
        let runtime = &self.common.runtime;
        let late = runtime.sleep_until(runtime.now().plus(limit));
        let timed_out = async {
            late.await;
            End::TimedOut
        };
        let stopped = async {
            match stop {
                Some(stop) => stop.asked().await,
                None => std::future::pending().await,
            }
            End::Stopped
        };
        let mut given_up = std::pin::pin!(timed_out.or(stopped));
        let mut early = None;
        let heard = stop.cloned();
        let is_wanted = move || heard.is_none_or(|stop| !stop.is_asked());
        let dispatched = matches!(purpose, Purpose::Dispatch(..)).then(|| handed.trace.clone());
        let runs = move || dispatched.iter().for_each(|trace| trace.step(&TaskStep::Dispatching));
        let start = machine::start(runtime, command, None, is_wanted, runs);
        let begun = machine::begun(runtime, start, async { early = Some((&mut given_up).await) }).await;
        let process = match (begun, early) {
            (Some(Err(error)), None) if error.kind() == io::ErrorKind::Interrupted => return End::Stopped,
            (Some(Err(error)), None) => return End::Error(error),
            (Some(Ok(process)), None) => process,
            (begun, Some(end)) => {
                // Not told before it is so: what was started all the same is killed first.
                if let Some(Ok(process)) = begun {
                    self.kill(handed, process).await;
                }
                return end;
            }
            (None, None) => return End::Stopped,
        };
        // Whatever goes wrong from here on, it does not go on alone.
        let mut unclaimed = Unclaimed::new(process);
        let Some(process) = unclaimed.process() else { return End::Stopped };
        let input = process.input();
        drop(forward(runtime, process.output(), Arc::clone(handed.log)));
        if let Purpose::Dispatch(payload, report) = purpose {
            report.started();
            if let Some(mut input) = input {
                // A command that does not read its input is no error; one that reads it slowly must not hold up its exit.
                runtime.spawn(async move {
                    let _ = input.write_all(&payload).await;
                });
            }
        }
        let exited = async {
            match process.wait().await {
                Ok(exit) => End::Exited(exit),
                Err(error) => End::Error(error),
            }
        };
        let end = exited.or(given_up).await;
        match unclaimed.claim() {
            Ok(process) if matches!(end, End::TimedOut | End::Stopped) => self.kill(handed, process).await,
            // What it left running is the operator's.
            _ => {}
        }
        end
    }

    /// Kills a process and its group. One that hangs in the kernel is left to it: its task is not.
    async fn kill(&self, handed: &Handed<'_>, mut process: impl Process) {
        process.signal_group(Signal::Kill);
        let runtime = &self.common.runtime;
        let dead = async {
            let _ = process.wait().await;
            true
        };
        let late = async {
            runtime.sleep_until(runtime.now().plus(KILL_LIMIT)).await;
            false
        };
        if !dead.or(late).await {
            let (task_id, trace_id) = (handed.task_id, handed.trace.id());
            warn!(task_id, trace_id, "a command did not die of SIGKILL within 5 s; going on without it");
        }
    }

    /// Gives back what was taken from the machine.
    pub async fn release(&self) {
        machine::release(&self.common.runtime).await;
    }
}
