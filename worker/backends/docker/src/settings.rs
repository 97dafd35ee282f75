//! What backend `docker` is told.

use std::collections::BTreeMap;
use std::ffi::OsStr;
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
use oz_worker_text::yaml::Position;

use super::{container, endpoint};

/// What the labels by which the worker knows its containers begin with: nobody else sets one.
const OWN_LABELS: &str = "oz-agent-worker";

#[derive(Debug, Clone, Default, PartialEq)]
pub struct DockerSettings {
    /// The file's volumes, then those of `-v`: each `HOST:CONTAINER[:MODE]`.
    pub volumes: Vec<String>,
    /// For assignments that name no image.
    pub default_image: Option<String>,
    /// Instead of the assignment's sidecar image.
    pub sidecar_image: Option<String>,
    pub pull_policy: PullWhen,
    /// Laid under what the worker sets of the engine's `HostConfig`.
    pub container_options: Option<Untyped>,
    /// On every task's container.
    pub extra_labels: BTreeMap<String, String>,
    /// The patterns of the images that tasks may have; any when there is none.
    pub allowed_images: Vec<String>,
    /// How long a sidecar's volume is kept that no task uses; for ever when there is none.
    pub sidecar_volume_ttl: Option<Duration>,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PullWhen {
    /// Before every task.
    #[default]
    Always,
    /// When the engine does not have it.
    IfNotPresent,
    Never,
}

/// There is no such pull policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such pull policy; there are always, if-not-present and never")]
pub struct UnknownPullWhen;

impl PullWhen {
    /// As the file has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::IfNotPresent => "if-not-present",
            Self::Never => "never",
        }
    }

    /// The policy of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn from_name(name: &str) -> Result<Self, UnknownPullWhen> {
        let all = [Self::Always, Self::IfNotPresent, Self::Never];
        all.into_iter().find(|policy| policy.name() == name).ok_or(UnknownPullWhen)
    }
}

impl Configure for DockerSettings {
    const NAME: &'static str = "docker";
    const VOCABULARY: &'static Vocabulary = &[(
        "backend.docker",
        &[
            "volumes",
            "environment",
            "default_image",
            "sidecar_image",
            "pull_policy",
            "container_options",
            "extra_labels",
            "allowed_images",
            "sidecar_volume_ttl",
        ],
    )];
    const STOPS_TASKS: bool = true;
    const AFTER_KILL: AfterKill = AfterKill::Resumes;

    fn unconfigured() -> Option<Self> {
        Some(Self::default())
    }

    fn read(section: &Section, _: &Section, _: Position) -> Option<Self> {
        let image = |key| section.checked(key, check_image);
        let extra_labels = section.words("extra_labels");
        if let Some(name) = extra_labels.keys().find(|name| name.starts_with(OWN_LABELS))
            && let Some(node) = section.get("extra_labels")
        {
            let what = format_args!("{}: labels that begin with {OWN_LABELS} are the worker's own", quoted(name));
            section.problem(node.at, "extra_labels", what);
        }
        Some(Self {
            volumes: section.texts("volumes", check_volume),
            default_image: image("default_image"),
            sidecar_image: image("sidecar_image"),
            pull_policy: section.parsed("pull_policy", PullWhen::from_name).unwrap_or_default(),
            container_options: section.untyped("container_options").map(Untyped),
            extra_labels,
            allowed_images: section.texts("allowed_images", check_image),
            sidecar_volume_ttl: section
                .parsed("sidecar_volume_ttl", duration::parse)
                .filter(|ttl| *ttl > Duration::ZERO),
        })
    }

    fn add_volumes(&mut self, volumes: &[String]) -> bool {
        self.volumes.extend(volumes.iter().map(|spec| spec.trim().to_owned()));
        true
    }

    fn adjust(&self, agent: &mut AgentSettings) {
        agent.default_image.clone_from(&self.default_image);
        agent.sidecar_image.clone_from(&self.sidecar_image);
    }

    fn check(&self, facts: &mut Facts, files: &impl Files, _: Option<&OsStr>) -> Result<(), String> {
        let engine = endpoint::find(&|name| std::env::var(name).ok(), files).map_err(|error| error.to_string())?;
        facts.add("engine", engine);
        facts.maybe("default image", self.default_image.as_ref());
        facts.maybe("sidecar image", self.sidecar_image.as_ref());
        facts.add("pull policy", self.pull_policy.name());
        self.volumes.iter().for_each(|volume| facts.add("volume", volume));
        self.allowed_images.iter().for_each(|pattern| facts.add("allowed image", pattern));
        facts.configured("container options", self.container_options.as_ref());
        for key in self.conflicts() {
            facts.add("but", format_args!("{key} of container_options has no effect: the worker sets it"));
        }
        facts.maybe("sidecar volume ttl", self.sidecar_volume_ttl.map(duration::show));
        Ok(())
    }
}

impl DockerSettings {
    /// What of `container_options` has no effect.
    pub fn conflicts(&self) -> Vec<&'static str> {
        self.container_options.as_ref().map(|options| container::conflicts(&options.0)).unwrap_or_default()
    }
}

/// Why a text is not a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a volume; write HOST:CONTAINER or HOST:CONTAINER:MODE, CONTAINER being an absolute path")]
pub struct VolumeError;

/// Checks the form `HOST:CONTAINER[:MODE]`. What the three mean is for the container engine to say.
///
/// # Errors
/// When the text has another form.
pub fn check_volume(spec: &str) -> Result<(), VolumeError> {
    let parts: Vec<&str> = spec.split(':').collect();
    match parts.as_slice() {
        [host, container] | [host, container, _] if !host.trim().is_empty() && container.starts_with('/') => {
            if parts.iter().any(|part| part.trim().is_empty()) { Err(VolumeError) } else { Ok(()) }
        }
        _ => Err(VolumeError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_the_file_names_are_the_agents() {
        let settings = DockerSettings {
            default_image: Some("d".into()),
            sidecar_image: Some("s".into()),
            ..DockerSettings::default()
        };
        let mut agent = AgentSettings::default();
        settings.adjust(&mut agent);
        assert_eq!((agent.default_image.as_deref(), agent.sidecar_image.as_deref()), (Some("d"), Some("s")));
    }

    #[test]
    fn checks_the_form_of_a_volume() {
        for good in ["/a:/b", "name:/b", "/a:/b:ro", "./x:/b:rw,z"] {
            assert_eq!(check_volume(good), Ok(()), "{good}");
        }
        for bad in ["", "/a", ":/b", "/a:", "/a:b", "/a:/b:", "/a:/b:ro:x", " :/b"] {
            assert_eq!(check_volume(bad), Err(VolumeError), "{bad}");
        }
    }
}
