//! What each backend is told; what the words mean is in `docs/backends.md`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The backend that runs the tasks, with everything it is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Backend {
    /// The agent as a process of this host.
    Direct(Direct),
    /// The operator's own runtime.
    Command(Command),
    /// A container per task.
    Docker(Docker),
    /// A Kubernetes Job per task.
    Kubernetes(Box<Kubernetes>),
}

impl Backend {
    /// Every backend's name, as `--backend` takes it.
    pub const NAMES: [&'static str; 4] = ["docker", "direct", "kubernetes", "command"];
    /// The backends that this version can run.
    pub const AVAILABLE: [&'static str; 2] = ["direct", "command"];

    /// The name, as in `--backend`, the file, and the metrics' resource attribute `worker.backend`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Direct(_) => "direct",
            Self::Command(_) => "command",
            Self::Docker(_) => "docker",
            Self::Kubernetes(_) => "kubernetes",
        }
    }

    /// The backend of that name with nothing configured. `None` for `command`, which cannot do without its command, and
    /// for a name that is none.
    pub fn unconfigured(name: &str) -> Option<Self> {
        match name {
            "direct" => Some(Self::Direct(Direct::default())),
            "docker" => Some(Self::Docker(Docker::default())),
            "kubernetes" => Some(Self::Kubernetes(Box::default())),
            _ => None,
        }
    }
}

/// Backend `direct`. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Direct {
    /// Where every task gets a directory of its own.
    pub workspace_root: PathBuf,
    /// Instead of that, one directory that all tasks share.
    pub target_dir: Option<PathBuf>,
    /// The agent's program, as a path or as a name on `PATH`; `oz` when absent.
    pub oz_path: Option<String>,
    /// For `/bin/sh -c` before the agent.
    pub setup_command: Option<String>,
    /// For `/bin/sh -c` after the agent.
    pub teardown_command: Option<String>,
}

impl Default for Direct {
    fn default() -> Self {
        Self {
            workspace_root: PathBuf::from("/var/lib/oz/workspaces"),
            target_dir: None,
            oz_path: None,
            setup_command: None,
            teardown_command: None,
        }
    }
}

/// Backend `command`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// For `/bin/sh -c`; hands a task to the operator's runtime.
    pub dispatch_command: String,
    /// For `/bin/sh -c`; cancels a dispatched task.
    pub cancel_command: Option<String>,
    /// How long `dispatch_command` may take; never zero.
    pub dispatch_timeout: Duration,
}

impl Command {
    /// `dispatch_timeout` when the file has none.
    pub const DISPATCH_TIMEOUT: Duration = Duration::from_secs(60);
}

/// Backend `docker`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Docker {
    /// The file's volumes, then those of `-v`: each `HOST:CONTAINER[:MODE]`.
    pub volumes: Vec<String>,
}

/// Backend `kubernetes`.
#[derive(Debug, Clone, PartialEq)]
pub struct Kubernetes {
    /// Where the Jobs are made.
    pub namespace: String,
    /// How to reach the cluster; else in-cluster, else the default rules.
    pub kubeconfig: Option<PathBuf>,
    /// For assignments that name no image.
    pub default_image: Option<String>,
    /// For every container the worker adds.
    pub image_pull_policy: PullPolicy,
    /// Sidecars as image volumes instead of copies.
    pub use_image_volumes: bool,
    /// What the preflight Job runs.
    pub preflight_image: String,
    /// The preflight container's resources, as Kubernetes writes them.
    pub preflight_resources: Option<Untyped>,
    /// Instead of the assignment's sidecar image.
    pub sidecar_image: Option<String>,
    /// Image of a harness's sidecar, by the harness's name.
    pub coding_cli_sidecars: BTreeMap<String, String>,
    /// Run by an init container.
    pub setup_command: Option<String>,
    /// Run by a preStop hook.
    pub teardown_command: Option<String>,
    /// On every Job and Pod.
    pub extra_labels: BTreeMap<String, String>,
    /// On every Job and Pod.
    pub extra_annotations: BTreeMap<String, String>,
    /// How long a Job may take, in seconds; `None` without limit (written as 0).
    pub active_deadline_seconds: Option<u32>,
    /// How long a finished Job is kept, in seconds.
    pub ttl_seconds_after_finished: u32,
    /// A quantity: the most a workspace may hold.
    pub workspace_size_limit: Option<String>,
    /// How long a Pod may wait for a node; zero waits for ever.
    pub unschedulable_timeout: Duration,
    /// The Pod that the worker's own fields are laid over.
    pub pod_template: Option<Untyped>,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            namespace: "default".to_owned(),
            kubeconfig: None,
            default_image: None,
            image_pull_policy: PullPolicy::IfNotPresent,
            use_image_volumes: false,
            preflight_image: "busybox:1.36".to_owned(),
            preflight_resources: None,
            sidecar_image: None,
            coding_cli_sidecars: BTreeMap::new(),
            setup_command: None,
            teardown_command: None,
            extra_labels: BTreeMap::new(),
            extra_annotations: BTreeMap::new(),
            active_deadline_seconds: Some(28_800),
            ttl_seconds_after_finished: 86_400,
            workspace_size_limit: None,
            unschedulable_timeout: Duration::from_secs(30),
            pod_template: None,
        }
    }
}

/// When Kubernetes pulls an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Before every start.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// Not at all.
    Never,
}

/// There is no such pull policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such pull policy; there are Always, IfNotPresent and Never")]
pub struct UnknownPullPolicy;

impl PullPolicy {
    /// The policy's name in the Kubernetes API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }

    /// The policy of that name.
    ///
    /// # Errors
    /// When there is none; the Kubernetes API tells upper from lower case.
    pub fn from_name(name: &str) -> Result<Self, UnknownPullPolicy> {
        [Self::Always, Self::IfNotPresent, Self::Never]
            .into_iter()
            .find(|policy| policy.name() == name)
            .ok_or(UnknownPullPolicy)
    }
}

/// JSON that is handed to Kubernetes as it came. It may hold secrets (a Pod's `env`), so `Debug` does not show it.
#[derive(Clone, PartialEq)]
pub struct Untyped(pub serde_json::Value);

impl fmt::Debug for Untyped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Untyped(not shown)")
    }
}
