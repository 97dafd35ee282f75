//! The configuration file: every key it may have, what its value must be, and the defaults of the backends
//! (`docs/configuration.md`).

use std::io;
use std::path::Path;

use oz_worker_backends::BackendSettings;
use oz_worker_text::duration;
use oz_worker_text::section::{Findings, Section, Vocabulary, line};
use oz_worker_text::variable::{Variable, environment};
use oz_worker_text::yaml;

use super::worker_id::check_worker_id;

/// The keys that are no backend's, by the mapping they stand in.
const VOCABULARY: &Vocabulary = &[
    ("", &["worker_id", "cleanup", "max_concurrent_tasks", "idle_on_complete", "backend"]),
    ("backend", &BackendSettings::NAMES),
    ("environment[]", &["name", "value"]),
];

/// What a file says. Everything may be absent.
#[derive(Debug, Default)]
pub struct File {
    pub worker_id: Option<String>,
    pub cleanup: Option<bool>,
    pub max_concurrent_tasks: Option<u32>,
    /// `idle_on_complete`, as written.
    pub idle_on_complete: Option<String>,
    /// The one backend that is configured, with its defaults filled in.
    pub backend: Option<BackendSettings>,
    /// That backend's `environment`.
    pub environment: Vec<Variable>,
}

/// Reads a file with `read` and checks it.
///
/// # Errors
/// One line for every problem.
pub fn read(path: &Path, read: &dyn Fn(&Path) -> io::Result<Vec<u8>>) -> Result<File, Vec<String>> {
    let bytes = read(path).map_err(|error| vec![line(path, None, &format!("cannot be read: {error}"))])?;
    let source = String::from_utf8(bytes).map_err(|_| vec![line(path, None, "is not UTF-8 text")])?;
    parse(path, &source)
}

/// Checks the text of a file that was read from `path`.
///
/// # Errors
/// One line for every problem.
pub fn parse(path: &Path, source: &str) -> Result<File, Vec<String>> {
    let root = yaml::parse(source).map_err(|error| vec![line(path, error.at, &error.flaw.to_string())])?;
    let vocabularies: Vec<&Vocabulary> = [VOCABULARY].into_iter().chain(BackendSettings::VOCABULARIES).collect();
    let findings = Findings::new(path, source, &vocabularies);
    let file = Section::open(&findings, String::new(), "", &root).map(|section| file(&section)).unwrap_or_default();
    let lines = findings.into_lines();
    if lines.is_empty() { Ok(file) } else { Err(lines) }
}

fn file(root: &Section) -> File {
    let mut file = File {
        worker_id: root.checked("worker_id", check_worker_id),
        cleanup: root.switch("cleanup"),
        max_concurrent_tasks: root.whole("max_concurrent_tasks", u32::MAX),
        idle_on_complete: root.checked("idle_on_complete", |text| duration::parse(text).map(drop)),
        ..File::default()
    };
    let Some(backends) = root.section("backend") else { return file };
    let known = |key: &str| BackendSettings::NAMES.contains(&key);
    let mut named: Vec<&str> = Vec::new();
    for entry in backends.entries().iter().filter(|entry| known(&entry.key)) {
        if let Some(first) = named.first().filter(|first| **first != entry.key) {
            backends.problem(entry.at, &entry.key, format_args!("{first} is configured already; keep one backend"));
        }
        named.push(&entry.key);
        let Some(section) = backends.section(&entry.key) else { continue };
        file.backend = BackendSettings::read(&entry.key, &section, &backends, entry.at);
        file.environment = environment(&section);
    }
    file
}

#[cfg(test)]
mod tests;
