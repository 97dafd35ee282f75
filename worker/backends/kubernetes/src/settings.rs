//! What backend `kubernetes` is told.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use oz_worker_contract::image::check_image;
use oz_worker_contract::untyped::Untyped;
use oz_worker_contract::{Configure, Facts};
use oz_worker_core::AfterKill;
use oz_worker_core::agent::AgentSettings;
use oz_worker_runtime::Files;
use oz_worker_text::duration;
use oz_worker_text::line::quoted;
use oz_worker_text::section::{Section, Vocabulary};
use oz_worker_text::yaml::{Position, Value};

use super::{quantity, template};

/// What a Job's seconds may be: a 32-bit integer in the Kubernetes API.
const MOST_SECONDS: u32 = i32::MAX.unsigned_abs();

#[derive(Debug, Clone, PartialEq)]
pub struct KubernetesSettings {
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
    /// Which context of the kubeconfig; else its current one.
    pub context: Option<String>,
    /// How long a registry may be out of reach before a task fails of it.
    pub image_pull_grace: Duration,
    /// How long a Pod that has a node may take until a container of it starts.
    pub pod_start_timeout: Duration,
    /// Whether autoscalers are asked to leave Pods where they are.
    pub protect_from_eviction: bool,
    /// Patterns of which a task's image must fit one; all images are allowed when there is none.
    pub allowed_images: Vec<String>,
}

impl Default for KubernetesSettings {
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
            active_deadline_seconds: None,
            ttl_seconds_after_finished: 86_400,
            workspace_size_limit: None,
            unschedulable_timeout: Duration::from_secs(30),
            pod_template: None,
            context: None,
            image_pull_grace: Duration::from_secs(60),
            pod_start_timeout: Duration::from_secs(15 * 60),
            protect_from_eviction: false,
            allowed_images: Vec::new(),
        }
    }
}

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

impl Configure for KubernetesSettings {
    const NAME: &'static str = "kubernetes";
    const VOCABULARY: &'static Vocabulary = &[
        (
            "backend.kubernetes",
            &[
                "namespace",
                "kubeconfig",
                "default_image",
                "image_pull_policy",
                "use_image_volumes",
                "preflight_image",
                "preflight_resources",
                "sidecar_image",
                "coding_cli_sidecars",
                "setup_command",
                "teardown_command",
                "extra_labels",
                "extra_annotations",
                "active_deadline_seconds",
                "ttl_seconds_after_finished",
                "workspace_size_limit",
                "unschedulable_timeout",
                "pod_template",
                "context",
                "image_pull_grace",
                "pod_start_timeout",
                "protect_from_eviction",
                "allowed_images",
            ],
        ),
        ("preflight_resources[]", &["requests", "limits", "claims"]),
    ];
    const STOPS_TASKS: bool = false;
    const AFTER_KILL: AfterKill = AfterKill::Resumes;

    fn unconfigured() -> Option<Self> {
        Some(Self::default())
    }

    fn read(section: &Section, _: &Section, _: Position) -> Option<Self> {
        let defaults = Self::default();
        let image = |key| section.checked(key, check_image);
        let length = |key, default| section.parsed(key, duration::parse).unwrap_or(default);
        Some(Self {
            namespace: section.text("namespace").unwrap_or(defaults.namespace),
            kubeconfig: section.text("kubeconfig").map(PathBuf::from),
            default_image: image("default_image"),
            image_pull_policy: section
                .parsed("image_pull_policy", PullPolicy::from_name)
                .unwrap_or(defaults.image_pull_policy),
            use_image_volumes: section.switch("use_image_volumes").unwrap_or(defaults.use_image_volumes),
            preflight_image: image("preflight_image").unwrap_or(defaults.preflight_image),
            preflight_resources: preflight_resources(section),
            sidecar_image: image("sidecar_image"),
            coding_cli_sidecars: section
                .free_section("coding_cli_sidecars")
                .map(|images| sidecars(&images))
                .unwrap_or_default(),
            setup_command: section.command("setup_command"),
            teardown_command: section.command("teardown_command"),
            extra_labels: section.words("extra_labels"),
            extra_annotations: section.words("extra_annotations"),
            active_deadline_seconds: section
                .whole("active_deadline_seconds", MOST_SECONDS)
                .filter(|seconds| *seconds > 0),
            ttl_seconds_after_finished: section
                .whole("ttl_seconds_after_finished", MOST_SECONDS)
                .unwrap_or(defaults.ttl_seconds_after_finished),
            workspace_size_limit: section.checked("workspace_size_limit", quantity::check),
            unschedulable_timeout: length("unschedulable_timeout", defaults.unschedulable_timeout),
            pod_template: pod_template(section),
            context: section.text("context"),
            image_pull_grace: length("image_pull_grace", defaults.image_pull_grace),
            pod_start_timeout: length("pod_start_timeout", defaults.pod_start_timeout),
            protect_from_eviction: section.switch("protect_from_eviction").unwrap_or_default(),
            allowed_images: section.texts("allowed_images", check_image),
        })
    }

    fn adjust(&self, agent: &mut AgentSettings) {
        agent.default_image.clone_from(&self.default_image);
        agent.sidecar_image.clone_from(&self.sidecar_image);
        agent.coding_cli_sidecars.clone_from(&self.coding_cli_sidecars);
    }

    fn check(&self, facts: &mut Facts, _: &impl Files, _: Option<&OsStr>) -> Result<(), String> {
        facts.add("namespace", &self.namespace);
        facts.maybe("kubeconfig", self.kubeconfig.as_ref().map(|path| path.display()));
        facts.maybe("context", self.context.as_ref());
        facts.maybe("default image", self.default_image.as_ref());
        facts.add("pull policy", self.image_pull_policy.name());
        facts.maybe("sidecar image", self.sidecar_image.as_ref());
        facts.add("preflight", &self.preflight_image);
        let deadline = self.active_deadline_seconds.map(|seconds| format!("{seconds} s"));
        facts.add("deadline", deadline.as_deref().unwrap_or("none"));
        self.allowed_images.iter().for_each(|pattern| facts.add("allowed image", pattern));
        facts.configured("setup command", self.setup_command.as_ref());
        facts.configured("teardown command", self.teardown_command.as_ref());
        facts.configured("pod template", self.pod_template.as_ref());
        Ok(())
    }
}

/// A Pod of which the worker can make its own.
fn pod_template(section: &Section) -> Option<Untyped> {
    let template = section.untyped("pod_template")?;
    if let Err(error) = template::check(&template)
        && let Some(node) = section.get("pod_template")
    {
        section.problem(node.at, "pod_template", error);
    }
    Some(Untyped(template))
}

/// Images by harness; a blank one is as good as absent.
fn sidecars(images: &Section) -> BTreeMap<String, String> {
    let image = |harness: &str| Some((harness.to_owned(), images.checked(harness, check_image)?));
    images.entries().iter().filter_map(|entry| image(&entry.key)).collect()
}

/// Checks the quantities of a container's resources, and hands them on as they are.
fn preflight_resources(section: &Section) -> Option<Untyped> {
    let key = "preflight_resources";
    let resources =
        section.open_item(format!("backend.kubernetes.{key}"), "preflight_resources[]", section.get(key)?)?;
    for kind in ["requests", "limits"] {
        let Some(node) = resources.get(kind) else { continue };
        let Value::Map(quantities) = &node.value else {
            resources.problem(node.at, kind, format_args!("a mapping is wanted here, not {}", node.kind()));
            continue;
        };
        for entry in quantities {
            let path = format!("{kind}.{}", entry.key);
            match entry.value.text(section.source()) {
                None => {
                    let kind = entry.value.kind();
                    resources.problem(entry.value.at, &path, format_args!("a quantity is wanted here, not {kind}"));
                }
                Some(text) => {
                    if let Err(error) = quantity::check(text.trim()) {
                        resources.problem(entry.value.at, &path, format_args!("{}: {error}", quoted(text)));
                    }
                }
            }
        }
    }
    section.untyped(key).map(Untyped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_the_file_names_are_the_agents() {
        let settings = KubernetesSettings {
            default_image: Some("d".into()),
            sidecar_image: Some("s".into()),
            coding_cli_sidecars: [("claude".to_owned(), "c".to_owned())].into(),
            ..KubernetesSettings::unconfigured().expect("it can do without a file")
        };
        let mut agent = AgentSettings::default();
        settings.adjust(&mut agent);
        assert_eq!((agent.default_image.as_deref(), agent.sidecar_image.as_deref()), (Some("d"), Some("s")));
        assert_eq!(agent.coding_cli_sidecars, settings.coding_cli_sidecars);
    }
}
