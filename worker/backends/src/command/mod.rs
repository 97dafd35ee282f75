//! Backend `command`: hands the task to the operator's own runtime.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use futures_lite::{AsyncWriteExt, FutureExt};
use oz_worker_core::agent::{Sidecar, TaskSpec};
use oz_worker_core::metrics::FailureReason;
use oz_worker_core::secret::{Secret, Variables};
use oz_worker_core::{Failure, Outcome, TaskEnd};
use oz_worker_telemetry::TaskTrace;
use serde::Serialize;
use serde_json::value::RawValue;

use super::step::{InWords, forward};
use super::{Stop, ended, failed};
use crate::runtime::{Command, Exit, Process, Runtime, Signal};
use crate::settings::duration;

/// How long `cancel_command` may take.
const CANCEL_LIMIT: Duration = Duration::from_secs(10);

/// Backend `command`.
pub struct CommandBackend<R: Runtime> {
    /// What runs it.
    pub runtime: R,
    /// For `/bin/sh -c`; hands a task over.
    pub dispatch_command: String,
    /// For `/bin/sh -c`; cancels a task that was handed over.
    pub cancel_command: Option<String>,
    /// How long `dispatch_command` may take.
    pub dispatch_timeout: Duration,
    /// `--server-root-url`.
    pub server_root_url: String,
    /// `--worker-id`.
    pub worker_id: String,
    /// The working directory of both commands.
    pub cwd: PathBuf,
    /// The environment of both commands: the worker's own, then the configured one.
    pub env: Vec<(OsString, OsString)>,
}

/// What `dispatch_command` reads from its standard input.
#[derive(Serialize)]
struct Payload<'a> {
    version: u32,
    run_id: &'a str,
    execution_id: &'a str,
    server_root_url: &'a str,
    worker_id: &'a str,
    docker_image: &'a str,
    base_args: Vec<&'a str>,
    #[serde(serialize_with = "as_object")]
    env: &'a Variables,
    sidecars: Vec<PayloadSidecar<'a>>,
    task: &'a RawValue,
}

#[derive(Serialize)]
struct PayloadSidecar<'a> {
    image: &'a str,
    mount_path: &'a str,
    read_write: bool,
}

impl<'a> From<&'a Sidecar> for PayloadSidecar<'a> {
    fn from(Sidecar { image, mount_path, read_write }: &'a Sidecar) -> Self {
        Self { image, mount_path, read_write: *read_write }
    }
}

fn as_object<S: serde::Serializer>(env: &Variables, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(env.iter().map(|(name, value)| (name, value.expose())))
}

/// Which task a command is about.
pub(super) struct Task<'a> {
    pub(super) id: &'a str,
    pub(super) execution_id: Option<&'a str>,
    pub(super) trace: &'a TaskTrace,
}

/// What a command is for.
enum Purpose {
    /// To hand a task over that is described by this JSON.
    Dispatch(Vec<u8>),
    Cancel,
}

/// How a command ended.
enum End {
    Exited(Exit),
    TimedOut,
    Stopped,
    Error(std::io::Error),
}

impl<R: Runtime> CommandBackend<R> {
    pub(super) async fn run(&self, spec: TaskSpec, trace: TaskTrace, stop: Stop) -> TaskEnd {
        if stop.is_asked() {
            return ended(Outcome::Stopped);
        }
        let payload = match self.payload(&spec) {
            Ok(payload) => payload,
            Err(error) => {
                let message = format!("cannot describe the task to the dispatch command: {error}");
                return ended(failed(FailureReason::DispatchCommand, message));
            }
        };
        let TaskSpec { task_id, execution_id, image, .. } = spec;
        let task = Task { id: &task_id, execution_id: execution_id.as_deref(), trace: &trace };
        let mut command = self.command(&self.dispatch_command, &task);
        command.env.push(("OZ_SERVER_ROOT_URL".into(), self.server_root_url.clone().into()));
        command.env.push(("OZ_DOCKER_IMAGE".into(), image.into()));
        let purpose = Purpose::Dispatch(payload);
        let end = self.execute(&task, command, purpose, self.dispatch_timeout, stop.asked()).await;
        ended(match end {
            End::Exited(Exit::Code(0)) => Outcome::Dispatched,
            End::Exited(exit) => {
                failed(FailureReason::DispatchCommand, format!("the dispatch command {}", InWords(exit)))
            }
            End::TimedOut => {
                let limit = duration::show(self.dispatch_timeout);
                failed(FailureReason::DispatchTimeout, format!("the dispatch command took longer than {limit}"))
            }
            End::Stopped if stop.is_abandoned() => Outcome::Stopped,
            // A dispatch that is stopped half-way may have handed the task over already.
            End::Stopped => {
                let cancelled = self.cancel(&task).await.map_err(|message| Failure {
                    reason: FailureReason::CancelCommand,
                    exit_code: 0,
                    message,
                });
                return TaskEnd { outcome: Outcome::Stopped, cleanup: cancelled.err().into_iter().collect() };
            }
            End::Error(error) => {
                failed(FailureReason::DispatchCommand, format!("cannot run the dispatch command: {error}"))
            }
        })
    }

    pub(super) async fn cancel(&self, task: &Task<'_>) -> Result<(), String> {
        let Some(script) = &self.cancel_command else { return Ok(()) };
        let command = self.command(script, task);
        match self.execute(task, command, Purpose::Cancel, CANCEL_LIMIT, std::future::pending()).await {
            End::Exited(Exit::Code(0)) | End::Stopped => Ok(()),
            End::Exited(exit) => Err(format!("the cancel command {}", InWords(exit))),
            End::TimedOut => Err("the cancel command took longer than 10s".into()),
            End::Error(error) => Err(format!("cannot run the cancel command: {error}")),
        }
    }

    fn payload(&self, spec: &TaskSpec) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Payload {
            version: 1,
            run_id: &spec.task_id,
            execution_id: spec.execution_id.as_deref().unwrap_or_default(),
            server_root_url: &self.server_root_url,
            worker_id: &self.worker_id,
            docker_image: &spec.image,
            base_args: spec.args.iter().map(Secret::expose).collect(),
            env: &spec.env,
            sidecars: spec.sidecars.iter().map(Into::into).collect(),
            task: serde_json::from_str(spec.task.expose())?,
        })
    }

    fn command(&self, script: &str, task: &Task<'_>) -> Command {
        let pair = |name: &str, value: &str| (OsString::from(name), OsStr::new(value).to_owned());
        let mut env = self.env.clone();
        env.extend([
            pair("OZ_RUN_ID", task.id),
            pair("OZ_EXECUTION_ID", task.execution_id.unwrap_or_default()),
            pair("OZ_WORKER_BACKEND", "command"),
        ]);
        env.extend(task.trace.variables().iter().map(|(name, value)| (name.into(), value.expose().into())));
        Command {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env,
            cwd: self.cwd.clone(),
            input: true,
        }
    }

    /// Runs a command for at most `limit`. What it leaves running in the background after it exited is the operator's
    /// runtime and is left alone; its output goes on being logged.
    async fn execute(
        &self,
        task: &Task<'_>,
        command: Command,
        purpose: Purpose,
        limit: Duration,
        stop: impl Future<Output = ()>,
    ) -> End {
        let mut process = match self.runtime.start(&command, None) {
            Ok(process) => process,
            Err(error) => return End::Error(error),
        };
        drop(command);
        let (input, pipe) = (process.input(), process.output());
        forward(&self.runtime, pipe, task.id, task.trace);
        match (purpose, input) {
            (Purpose::Dispatch(payload), Some(mut input)) => {
                task.trace.backend_started();
                // A command that does not read its input is no error; one that reads it slowly must not hold up its exit.
                self.runtime.spawn(async move {
                    let _ = input.write_all(&payload).await;
                });
            }
            (_, input) => drop(input),
        }
        let deadline = self.runtime.sleep_until(self.runtime.now().plus(limit));
        let exited = async {
            match process.wait().await {
                Ok(exit) => End::Exited(exit),
                Err(error) => End::Error(error),
            }
        };
        let timed_out = async {
            deadline.await;
            End::TimedOut
        };
        let stopped = async {
            stop.await;
            End::Stopped
        };
        let end = exited.or(timed_out).or(stopped).await;
        if matches!(end, End::TimedOut | End::Stopped) {
            process.signal_group(Signal::Kill);
            let _ = process.wait().await;
        }
        end
    }
}
