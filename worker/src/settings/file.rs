//! The configuration file: every key it may have, what its value must be, and the defaults of the backends
//! (`docs/configuration.md`).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::backend::{Backend, Command, Direct, Docker, Kubernetes, PullPolicy, Untyped};
use super::section::{Findings, Section, Vocabulary, line};
use super::specs::{Variable, check_image, check_volume, check_worker_id};
use super::suggest::quoted;
use super::yaml::{Node, Value};
use super::{duration, quantity, yaml};

/// Every key, by the mapping it stands in.
const VOCABULARY: &Vocabulary = &[
    ("", &["worker_id", "cleanup", "max_concurrent_tasks", "idle_on_complete", "backend"]),
    ("backend", &["docker", "direct", "kubernetes", "command"]),
    ("backend.docker", &["volumes", "environment"]),
    (
        "backend.direct",
        &["workspace_root", "target_dir", "oz_path", "setup_command", "teardown_command", "environment"],
    ),
    ("backend.command", &["dispatch_command", "cancel_command", "dispatch_timeout", "environment"]),
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
        ],
    ),
    ("environment[]", &["name", "value"]),
    ("preflight_resources[]", &["requests", "limits", "claims"]),
];

/// What a Job's seconds may be: a 32-bit integer in the Kubernetes API.
const MOST_SECONDS: u32 = i32::MAX.unsigned_abs();

/// What a file says. Everything may be absent.
#[derive(Debug, Default)]
pub struct File {
    /// `worker_id`.
    pub worker_id: Option<String>,
    /// `cleanup`.
    pub cleanup: Option<bool>,
    /// `max_concurrent_tasks`.
    pub max_concurrent_tasks: Option<u32>,
    /// `idle_on_complete`, as written.
    pub idle_on_complete: Option<String>,
    /// The one backend that is configured, with its defaults filled in.
    pub backend: Option<Backend>,
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
    let root = yaml::parse(source).map_err(|(at, text)| vec![line(path, at, &text)])?;
    let findings = Findings::new(path, source, VOCABULARY);
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
    let known = |key: &str| VOCABULARY.iter().any(|(name, keys)| *name == "backend" && keys.contains(&key));
    let mut named: Vec<&str> = Vec::new();
    for entry in backends.entries().iter().filter(|entry| known(&entry.key)) {
        if let Some(first) = named.first().filter(|first| **first != entry.key) {
            backends.problem(entry.at, &entry.key, format_args!("{first} is configured already; keep one backend"));
        }
        named.push(&entry.key);
        let Some(section) = backends.section(&entry.key) else { continue };
        file.backend = match entry.key.as_str() {
            "docker" => Some(Backend::Docker(docker(&section))),
            "direct" => Some(Backend::Direct(direct(&section))),
            "command" => command(&backends, entry.at, &section).map(Backend::Command),
            _ => Some(Backend::Kubernetes(Box::new(kubernetes(&section)))),
        };
        if entry.key != "kubernetes" {
            file.environment = environment(&section);
        }
    }
    file
}

fn docker(section: &Section) -> Docker {
    let mut volumes = Vec::new();
    for (path, item) in section.items("volumes") {
        match item.text(section.source()).map(|text| (text.trim(), check_volume(text.trim()))) {
            Some((text, Ok(()))) => volumes.push(text.to_owned()),
            Some((text, Err(error))) => section.item_problem(item, &path, format_args!("{}: {error}", quoted(text))),
            None => section.item_problem(item, &path, format_args!("text is wanted here, not {}", item.kind())),
        }
    }
    Docker { volumes }
}

fn direct(section: &Section) -> Direct {
    let defaults = Direct::default();
    Direct {
        workspace_root: section.text("workspace_root").map_or(defaults.workspace_root, PathBuf::from),
        target_dir: section.text("target_dir").map(PathBuf::from),
        oz_path: section.text("oz_path"),
        setup_command: section.command("setup_command"),
        teardown_command: section.command("teardown_command"),
    }
}

fn command(backends: &Section, at: yaml::Position, section: &Section) -> Option<Command> {
    let dispatch_command = section.command("dispatch_command");
    // One that is there but wrong has its own line already.
    if dispatch_command.is_none() && section.get("dispatch_command").is_none_or(|node| node.text("").is_some()) {
        backends.problem(at, "command", "dispatch_command is missing: the command that hands a task to your runtime");
    }
    let dispatch_timeout = section.parsed("dispatch_timeout", |text| match duration::parse(text) {
        Ok(Duration::ZERO) => Err("must be longer than 0, or no task could be dispatched".to_owned()),
        other => other.map_err(|error| error.to_string()),
    });
    Some(Command {
        dispatch_command: dispatch_command?,
        cancel_command: section.command("cancel_command"),
        dispatch_timeout: dispatch_timeout.unwrap_or(Command::DISPATCH_TIMEOUT),
    })
}

fn kubernetes(section: &Section) -> Kubernetes {
    let defaults = Kubernetes::default();
    let image = |key| section.checked(key, check_image);
    let present = |key| section.get(key).is_some();
    Kubernetes {
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
        active_deadline_seconds: if present("active_deadline_seconds") {
            section.whole("active_deadline_seconds", MOST_SECONDS).filter(|seconds| *seconds > 0)
        } else {
            defaults.active_deadline_seconds
        },
        ttl_seconds_after_finished: section
            .whole("ttl_seconds_after_finished", MOST_SECONDS)
            .unwrap_or(defaults.ttl_seconds_after_finished),
        workspace_size_limit: section.checked("workspace_size_limit", quantity::check),
        unschedulable_timeout: section
            .parsed("unschedulable_timeout", duration::parse)
            .unwrap_or(defaults.unschedulable_timeout),
        pod_template: section.untyped("pod_template").map(Untyped),
    }
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

fn environment(section: &Section) -> Vec<Variable> {
    let items = section.items("environment");
    items.into_iter().filter_map(|(path, item)| variable(section, path, item)).collect()
}

fn variable(section: &Section, path: String, item: &Node) -> Option<Variable> {
    if !matches!(item.value, Value::Map(_)) {
        let what = format_args!("write {{name: …, value: …}} here, not {}", item.kind());
        section.item_problem(item, &path, what);
        return None;
    }
    let entry = section.open_item(path, "environment[]", item)?;
    let Some(name) = entry.verbatim("name") else {
        if entry.get("name").is_none() {
            entry.problem(item.at, "name", "is missing: the name of the variable");
        }
        return None;
    };
    let value = match entry.get("value") {
        Some(_) => Some(entry.verbatim("value")?),
        None => None,
    };
    match Variable::new(name, value) {
        Ok(variable) => Some(variable),
        Err(error) => {
            entry.problem(entry.get("name")?.at, "name", error);
            None
        }
    }
}

#[cfg(test)]
mod tests;
