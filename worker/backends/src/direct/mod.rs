//! Backend `direct`: the agent as a process of this host, in a workspace of its own.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oz_worker_core::agent::TaskSpec;
use oz_worker_core::metrics::FailureReason;
use oz_worker_core::{Failure, Outcome, TaskEnd};
use oz_worker_telemetry::TaskTrace;

use super::step::{InWords, Step, StepEnd, Steps};
use super::{Stop, ended, failed};
use crate::host::{Origin, Workspace, Workspaces};
use crate::runtime::{Command, Exit, Files, Runtime};

/// What the agent gets from the worker's own environment.
const PASSED_ON: [&str; 3] = ["HOME", "TMPDIR", "PATH"];
/// The largest file of variables that a setup command may write.
const LARGEST_ENVIRONMENT_FILE: u64 = 1 << 20;

/// Backend `direct`.
pub struct DirectBackend<R: Runtime> {
    /// What runs it.
    pub runtime: R,
    /// The agent's program.
    pub oz: PathBuf,
    /// Where each task gets a directory of its own: its workspace, or with `target_dir` a private one for its settings.
    pub workspaces: Workspaces<R::Files>,
    /// The one directory in which all tasks run, when the operator chose one.
    pub target_dir: Option<PathBuf>,
    /// For `/bin/sh -c` before the agent.
    pub setup_command: Option<String>,
    /// For `/bin/sh -c` after the agent.
    pub teardown_command: Option<String>,
    /// Whether workspaces are removed afterwards.
    pub cleanup: bool,
    /// From SIGTERM to SIGKILL.
    pub cancel_grace_period: Duration,
    /// The worker's own environment.
    pub host_env: Vec<(OsString, OsString)>,
}

/// Where a task runs.
struct Place<F> {
    /// The task's own directory: its workspace, or the private one beside a shared `target_dir`.
    own: Workspace<F>,
    /// The working directory.
    cwd: PathBuf,
}

type Env = Vec<(OsString, OsString)>;

impl<R: Runtime> DirectBackend<R> {
    pub(super) async fn run(&self, spec: TaskSpec, trace: TaskTrace, stop: Stop) -> TaskEnd {
        if stop.is_asked() {
            return ended(Outcome::Stopped);
        }
        let place = match self.place(&spec.task_id, &trace) {
            Ok(place) => place,
            Err(message) => return ended(failed(FailureReason::WorkspaceSetup, message)),
        };
        let mut steps = Steps::new(&self.runtime, &spec.task_id, trace, self.cancel_grace_period, &stop);
        let teardown = self.teardown_command.as_ref().map(|script| self.script(script, &place, &spec));

        let outcome = self.set_up_and_run(spec, &place, &mut steps, &stop).await;

        let mut cleanup = Vec::new();
        if let Some(command) = teardown
            && !stop.is_abandoned()
            && let Err(failure) = tear_down(command, &mut steps).await
        {
            cleanup.push(failure);
        }
        steps.clear().await;
        if let Err(failure) = self.remove(place).await {
            cleanup.push(failure);
        }
        TaskEnd { outcome, cleanup }
    }

    fn place(&self, task_id: &str, trace: &TaskTrace) -> Result<Place<R::Files>, String> {
        let own = match self.target_dir {
            None => self.workspaces.create(task_id),
            Some(_) => self.workspaces.create_private(),
        };
        let own = own.map_err(|error| error.to_string())?;
        if own.origin() == Origin::Foreign {
            let (path, trace_id) = (own.path().display(), trace.id());
            tracing::warn!(task_id, trace_id, "workspace {path} was there before: it is used, and will not be removed");
        }
        let cwd = self.target_dir.clone().unwrap_or_else(|| own.path().to_owned());
        Ok(Place { own, cwd })
    }

    async fn set_up_and_run(
        &self,
        spec: TaskSpec,
        place: &Place<R::Files>,
        steps: &mut Steps<'_, R>,
        stop: &Stop,
    ) -> Outcome {
        let mut from_setup = Env::new();
        if let Some(script) = &self.setup_command {
            let command = self.script(script, place, &spec);
            match steps.run(Step::Setup, command).await {
                StepEnd::Exited(Exit::Code(0)) => {}
                StepEnd::Exited(exit) => {
                    let message = format!("the setup command {}", InWords(exit));
                    return failed(FailureReason::SetupCommand, message);
                }
                StepEnd::Stopped => return Outcome::Stopped,
                StepEnd::Error(error) => {
                    return failed(FailureReason::SetupCommand, format!("cannot run the setup command: {error}"));
                }
            }
            match read_environment_file(&self.runtime.files(), &environment_file(place)) {
                Ok(env) => from_setup = env,
                Err(message) => return failed(FailureReason::SetupCommand, message),
            }
        }
        if stop.is_asked() {
            return Outcome::Stopped;
        }
        let command = self.agent(spec, from_setup, place);
        match steps.run(Step::Agent, command).await {
            StepEnd::Exited(Exit::Code(0)) => Outcome::Completed,
            StepEnd::Exited(exit) => Outcome::Failed(Failure {
                reason: FailureReason::AgentInvocation,
                exit_code: exit.code(),
                message: format!("the agent {}", InWords(exit)),
            }),
            StepEnd::Stopped => Outcome::Stopped,
            StepEnd::Error(error) => {
                failed(FailureReason::AgentInvocation, format!("cannot run {}: {error}", self.oz.display()))
            }
        }
    }

    /// The agent, with nothing of the worker's environment but what it needs to find itself.
    fn agent(&self, spec: TaskSpec, from_setup: Env, place: &Place<R::Files>) -> Command {
        let host = self.host_env.iter().filter(|(name, _)| PASSED_ON.iter().any(|passed| name == passed)).cloned();
        let own = own_variables(place, spec.harness.as_deref());
        let task = spec.env.iter().map(|(name, value)| (name.into(), value.expose().into()));
        Command {
            program: self.oz.clone(),
            args: spec.args.iter().map(|arg| arg.expose().into()).collect(),
            env: host.chain(task).chain(from_setup).chain(own).collect(),
            cwd: place.cwd.clone(),
            input: false,
        }
    }

    /// A setup or teardown command: the operator's own, so it gets the worker's environment.
    fn script(&self, script: &str, place: &Place<R::Files>, spec: &TaskSpec) -> Command {
        let pair = |name: &str, value: &OsStr| (OsString::from(name), value.to_owned());
        let mut env = self.host_env.clone();
        env.extend(spec.env.iter().map(|(name, value)| (name.into(), value.expose().into())));
        env.extend(own_variables(place, spec.harness.as_deref()));
        env.extend([
            pair("OZ_WORKSPACE_ROOT", place.cwd.as_os_str()),
            pair("OZ_WORKER_BACKEND", OsStr::new("direct")),
            pair("OZ_RUN_ID", OsStr::new(&spec.task_id)),
            pair("OZ_ENVIRONMENT_FILE", environment_file(place).as_os_str()),
        ]);
        Command {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env,
            cwd: place.cwd.clone(),
            input: false,
        }
    }

    async fn remove(&self, place: Place<R::Files>) -> Result<(), Failure> {
        let path = place.own.path().to_owned();
        // The private directory beside a shared one holds nothing that anybody would want to look at.
        let removed = if !self.cleanup && self.target_dir.is_none() {
            place.own.keep()
        } else if place.own.remove_if_empty() {
            // Empty, as most are: no need to ask another thread.
            Ok(())
        } else {
            self.runtime.unblock(move || place.own.remove()).await
        };
        removed.map_err(|error| Failure {
            reason: FailureReason::Cleanup,
            exit_code: 0,
            message: format!("cannot remove {}: {error}", path.display()),
        })
    }
}

async fn tear_down<R: Runtime>(command: Command, steps: &mut Steps<'_, R>) -> Result<(), Failure> {
    let message = match steps.run(Step::Teardown, command).await {
        StepEnd::Exited(Exit::Code(0)) | StepEnd::Stopped => return Ok(()),
        StepEnd::Exited(exit) => format!("the teardown command {}", InWords(exit)),
        StepEnd::Error(error) => format!("cannot run the teardown command: {error}"),
    };
    Err(Failure { reason: FailureReason::TeardownCommand, exit_code: 0, message })
}

/// The variables that keep what a task does away from the operator's own settings; nothing overrides them.
fn own_variables<F: Files>(place: &Place<F>, harness: Option<&str>) -> Env {
    let own = place.own.path();
    let mut env: Env = vec![("GIT_CONFIG_GLOBAL".into(), own.join(".gitconfig").into())];
    match harness {
        Some("claude") => env.push(("CLAUDE_CONFIG_DIR".into(), own.join(".claude").into())),
        Some("codex") => env.push(("CODEX_HOME".into(), own.join(".codex").into())),
        _ => {}
    }
    env
}

fn environment_file<F: Files>(place: &Place<F>) -> PathBuf {
    place.own.path().join(".oz-env")
}

/// The variables that a setup command wrote; none when it wrote no file.
fn read_environment_file(files: &impl Files, path: &Path) -> Result<Env, String> {
    let shown = path.display();
    let unreadable = |error: &dyn Display| format!("cannot read {shown}, which the setup command wrote: {error}");
    let bytes = files.read(path, LARGEST_ENVIRONMENT_FILE).map_err(|error| unreadable(&error))?.unwrap_or_default();
    let entries =
        dotenvy::Iter::new(bytes.as_slice()).map(|entry| entry.map(|(name, value)| (name.into(), value.into())));
    entries.collect::<Result<Env, _>>().map_err(|error| match error {
        // The line itself may hold a secret.
        dotenvy::Error::LineParse(..) => format!("a line of {shown}, which the setup command wrote, is not NAME=VALUE"),
        other => unreadable(&other),
    })
}
