//! Every backend, and which of them runs the tasks. Each is a crate of its own.
//!
//! [`contract`] says what a backend is. A further one is a crate, and one more variant of [`BackendSettings`] and of
//! [`Backend`] here.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use futures_lite::FutureExt;
use futures_lite::future::Boxed;
use oz_worker_core::agent::AgentSettings;
use oz_worker_core::metrics::FailureReason;
use oz_worker_core::{AfterKill, Failure};
use oz_worker_runtime::{Files, Host};
use oz_worker_text::section::{Section, Vocabulary};
use oz_worker_text::yaml::Position;

pub use {
    oz_worker_command as command, oz_worker_contract as contract, oz_worker_direct as direct,
    oz_worker_docker as docker, oz_worker_kubernetes as kubernetes,
};

use command::{CommandBackend, CommandSettings, Handed};
use contract::{Common, Configure, Earlier, Facts, Report, Resumed, Task};
use direct::{DirectBackend, DirectSettings};
use docker::{DockerBackend, DockerSettings};
use kubernetes::{KubernetesBackend, KubernetesSettings};

/// The backend that runs the tasks, with everything it is told.
#[derive(Debug, Clone, PartialEq)]
pub enum BackendSettings {
    /// A container per task.
    Docker(DockerSettings),
    /// The agent as a process of this host.
    Direct(DirectSettings),
    /// A Kubernetes Job per task.
    Kubernetes(Box<KubernetesSettings>),
    /// The operator's own runtime.
    Command(CommandSettings),
}

/// Does the same for the settings of whichever backend it is.
macro_rules! each {
    ($settings:expr, $own:ident => $what:expr) => {
        match $settings {
            BackendSettings::Docker($own) => $what,
            BackendSettings::Direct($own) => $what,
            BackendSettings::Kubernetes($own) => $what,
            BackendSettings::Command($own) => $what,
        }
    };
}

impl BackendSettings {
    /// Every backend's name, as `--backend` takes it.
    pub const NAMES: [&'static str; 4] =
        [DockerSettings::NAME, DirectSettings::NAME, KubernetesSettings::NAME, CommandSettings::NAME];
    /// The keys of every backend's mapping in the file.
    pub const VOCABULARIES: [&'static Vocabulary; 4] = [
        DockerSettings::VOCABULARY,
        DirectSettings::VOCABULARY,
        KubernetesSettings::VOCABULARY,
        CommandSettings::VOCABULARY,
    ];

    /// The name, as in `--backend`, the file, and the metrics' resource attribute `worker.backend`.
    pub fn name(&self) -> &'static str {
        each!(self, own => own.name())
    }

    /// The backend of that name with nothing configured. `None` for one that cannot do without, and for a name that is
    /// none.
    pub fn unconfigured(name: &str) -> Option<Self> {
        match name {
            DockerSettings::NAME => DockerSettings::unconfigured().map(Self::Docker),
            DirectSettings::NAME => DirectSettings::unconfigured().map(Self::Direct),
            KubernetesSettings::NAME => KubernetesSettings::unconfigured().map(Box::new).map(Self::Kubernetes),
            CommandSettings::NAME => CommandSettings::unconfigured().map(Self::Command),
            _ => None,
        }
    }

    /// Reads the mapping of the backend of that name, which stands in `parent` at `at`.
    pub fn read(name: &str, section: &Section, parent: &Section, at: Position) -> Option<Self> {
        match name {
            DockerSettings::NAME => DockerSettings::read(section, parent, at).map(Self::Docker),
            DirectSettings::NAME => DirectSettings::read(section, parent, at).map(Self::Direct),
            KubernetesSettings::NAME => {
                KubernetesSettings::read(section, parent, at).map(Box::new).map(Self::Kubernetes)
            }
            CommandSettings::NAME => CommandSettings::read(section, parent, at).map(Self::Command),
            _ => None,
        }
    }

    pub fn set_target_dir(&mut self, directory: PathBuf) -> bool {
        each!(self, own => own.set_target_dir(directory))
    }

    pub fn add_volumes(&mut self, volumes: &[String]) -> bool {
        each!(self, own => own.add_volumes(volumes))
    }

    pub fn adjust(&self, agent: &mut AgentSettings) {
        each!(self, own => own.adjust(agent));
    }

    pub fn stops_tasks(&self) -> bool {
        each!(self, own => own.stops_tasks())
    }

    pub fn after_kill(&self) -> AfterKill {
        each!(self, own => own.after_kill())
    }

    pub fn runs_here(&self) -> bool {
        each!(self, own => own.runs_here())
    }

    /// As [`Configure::check`].
    ///
    /// # Errors
    /// What this machine lacks, in one line.
    pub fn check(&self, facts: &mut Facts, files: &impl Files, path: Option<&OsStr>) -> Result<(), String> {
        each!(self, own => own.check(facts, files, path))
    }

    /// Does what must be done before the first task. It may talk to this machine, an engine or a cluster, and may be given
    /// up.
    ///
    /// # Errors
    /// What stands in the way, in one line.
    pub async fn prepare<R: Host>(self, common: Common<R>) -> Result<Backend<R>, String> {
        let common = Arc::new(common);
        match self {
            Self::Direct(settings) => DirectBackend::prepare(settings, common).await.map(Backend::Direct),
            Self::Command(settings) => CommandBackend::prepare(settings, common).await.map(Backend::Command),
            Self::Docker(settings) => DockerBackend::prepare(settings, common).await.map(Backend::Docker),
            Self::Kubernetes(settings) => KubernetesBackend::prepare(*settings, common).await.map(Backend::Kubernetes),
        }
    }
}

/// The backend of this worker, ready to run tasks.
pub enum Backend<R: Host> {
    /// A container per task.
    Docker(DockerBackend<R>),
    /// A Job per task.
    Kubernetes(KubernetesBackend<R>),
    /// The agent as a process of this host.
    Direct(DirectBackend<R>),
    /// The operator's own runtime.
    Command(CommandBackend<R>),
}

impl<R: Host> Backend<R> {
    /// Runs a task to its end, or until it is asked to stop. What became of it is told to the task's report; what failed
    /// after that is given.
    pub async fn run(&self, task: Task) -> Vec<Failure> {
        // Each on the heap, or every task would take as much as one of the backend that takes most.
        match self {
            Self::Docker(docker) => Box::pin(docker.run(task)).await,
            Self::Kubernetes(kubernetes) => Box::pin(kubernetes.run(task)).await,
            Self::Direct(direct) => Box::pin(direct.run(task)).await,
            Self::Command(command) => Box::pin(command.run(task)).await,
        }
    }

    /// The tasks that earlier workers started and that this one has taken up, from the oldest on. Each is to be
    /// [resumed](Self::resume).
    pub fn earlier(&self) -> Vec<Earlier> {
        match self {
            Self::Docker(docker) => docker.earlier(),
            Self::Kubernetes(kubernetes) => kubernetes.earlier(),
            Self::Direct(_) | Self::Command(_) => Vec::new(),
        }
    }

    /// Looks for tasks whose worker is gone by now, until there are no tasks any more, and tells of each that it has taken up:
    /// it is to be [resumed](Self::resume).
    pub async fn find(&self, found: impl Fn(Earlier) + Send) {
        if let Self::Kubernetes(kubernetes) = self {
            kubernetes.find(found).await;
        }
    }

    /// Lets go what was kept of a task for later workers: how it ended is not told any more. None: there is nothing.
    pub fn settle(&self, task_id: &str, execution_id: Option<&str>) -> Option<Boxed<()>> {
        match self {
            Self::Docker(docker) => docker.settle(task_id, execution_id).map(FutureExt::boxed),
            Self::Kubernetes(kubernetes) => kubernetes.settle(task_id, execution_id).map(FutureExt::boxed),
            Self::Direct(_) | Self::Command(_) => None,
        }
    }

    /// Takes up a task that an earlier worker started; otherwise as [`run`](Self::run).
    pub async fn resume(&self, resumed: Resumed) -> Vec<Failure> {
        match self {
            Self::Docker(docker) => Box::pin(docker.resume(resumed)).await,
            Self::Kubernetes(kubernetes) => Box::pin(kubernetes.resume(resumed)).await,
            Self::Direct(_) | Self::Command(_) => {
                nothing_left(&resumed.report);
                Vec::new()
            }
        }
    }

    /// Cancels a task that was dispatched.
    ///
    /// # Errors
    /// Why that failed, in words.
    pub async fn cancel_dispatched(&self, handed: &Handed<'_>) -> Result<(), String> {
        match self {
            Self::Docker(_) | Self::Kubernetes(_) | Self::Direct(_) => Ok(()),
            Self::Command(command) => command.cancel(handed).await,
        }
    }

    /// Gives back what was taken for the tasks. Called once, when all have ended.
    pub async fn release(&self) {
        match self {
            Self::Docker(docker) => docker.release().await,
            Self::Kubernetes(kubernetes) => kubernetes.release().await,
            Self::Direct(direct) => direct.release().await,
            Self::Command(command) => command.release().await,
        }
    }
}

/// Says of a task that was started by a worker that was killed that nothing of it can be taken up.
fn nothing_left(report: &Report) {
    let message = "the worker was killed, and nothing is left of the task";
    report.finished(contract::failed(FailureReason::Unknown, message.into()));
}
