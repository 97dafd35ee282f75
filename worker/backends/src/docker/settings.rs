//! What backend `docker` is told.

use std::ffi::OsStr;

use oz_worker_core::AfterKill;
use oz_worker_runtime::Files;
use oz_worker_text::line::quoted;
use oz_worker_text::section::{Section, Vocabulary};
use oz_worker_text::yaml::Position;

use crate::contract::{Configure, Facts};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DockerSettings {
    /// The file's volumes, then those of `-v`: each `HOST:CONTAINER[:MODE]`.
    pub volumes: Vec<String>,
}

impl Configure for DockerSettings {
    const NAME: &'static str = "docker";
    const VOCABULARY: &'static Vocabulary = &[("backend.docker", &["volumes", "environment"])];
    const STOPS_TASKS: bool = true;
    const AFTER_KILL: AfterKill = AfterKill::Resumes;

    fn unconfigured() -> Option<Self> {
        Some(Self::default())
    }

    fn read(section: &Section, _: &Section, _: Position) -> Option<Self> {
        let mut volumes = Vec::new();
        for (path, item) in section.items("volumes") {
            match item.text(section.source()).map(|text| (text.trim(), check_volume(text.trim()))) {
                Some((text, Ok(()))) => volumes.push(text.to_owned()),
                Some((text, Err(error))) => {
                    section.item_problem(item, &path, format_args!("{}: {error}", quoted(text)));
                }
                None => section.item_problem(item, &path, format_args!("text is wanted here, not {}", item.kind())),
            }
        }
        Some(Self { volumes })
    }

    fn add_volumes(&mut self, volumes: &[String]) -> bool {
        self.volumes.extend(volumes.iter().map(|spec| spec.trim().to_owned()));
        true
    }

    fn check(&self, facts: &mut Facts, _: &impl Files, _: Option<&OsStr>) -> Result<(), String> {
        self.volumes.iter().for_each(|volume| facts.add("volume", volume));
        Ok(())
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
    fn checks_the_form_of_a_volume() {
        for good in ["/a:/b", "name:/b", "/a:/b:ro", "./x:/b:rw,z"] {
            assert_eq!(check_volume(good), Ok(()), "{good}");
        }
        for bad in ["", "/a", ":/b", "/a:", "/a:b", "/a:/b:", "/a:/b:ro:x", " :/b"] {
            assert_eq!(check_volume(bad), Err(VolumeError), "{bad}");
        }
    }
}
