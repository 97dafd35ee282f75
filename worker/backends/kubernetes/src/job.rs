//! The description of a task's Job, as `POST …/jobs` takes it.

use oz_worker_core::agent::{InstanceShape, Sidecar, TaskSpec};
use serde_json::{Map, Value, json};

use super::names::{EXECUTION_ID, INSTANCE, Identity, TASK_ID};
use super::scripts::{self, escaped};
use super::settings::KubernetesSettings;
use super::template::{self, lay, take_list, take_map, take_task};

/// Where the agent runs, on a volume of its own.
const WORKSPACE: &str = "/workspace";
/// The name of the init container that runs the setup command.
pub const SETUP: &str = "setup";
/// What keeps the usual autoscalers from moving a Pod.
const NO_EVICTION: [(&str, &str); 2] =
    [("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"), ("karpenter.sh/do-not-disrupt", "true")];

/// Why a task's sidecars cannot be part of a Pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SidecarFlaw {
    #[error("the sidecar for {0} names no image")]
    NoImage(String),
    #[error("sidecar {0} names no absolute path to be mounted at")]
    NoPath(String),
    #[error("{0} is where the workspace is; no sidecar can be mounted there")]
    Workspace(String),
    #[error("two sidecars are to be mounted at {0}")]
    Twice(String),
}

/// What is the same for every Job of a worker.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    pub settings: &'a KubernetesSettings,
    /// The process that makes the Job.
    pub instance: &'a str,
    /// Whether what a task leaves behind is removed.
    pub cleanup: bool,
}

/// The Job of a task, of this name.
///
/// # Errors
/// [`SidecarFlaw`].
pub fn description(
    frame: Frame<'_>,
    identity: &Identity<'_>,
    name: &str,
    spec: &TaskSpec,
) -> Result<Value, SidecarFlaw> {
    check_sidecars(&spec.sidecars)?;
    let settings = frame.settings;
    let annotations = json!({
        TASK_ID: identity.task_id(),
        // None of its own is no execution, though the names are made as if it were the task's id.
        EXECUTION_ID: spec.execution_id.as_deref().unwrap_or_default(),
        INSTANCE: frame.instance,
    });
    let mut on_job = operators_annotations(settings);
    if let Value::Object(own) = annotations {
        on_job.extend(own);
    }
    let mut on_pod = Map::new();
    if settings.protect_from_eviction {
        on_pod.extend(NO_EVICTION.map(|(name, value)| (name.to_owned(), value.into())));
    }
    on_pod.extend(operators_annotations(settings));

    let mut labels = operators_labels(settings);
    labels.extend(identity.labels().map(|(name, value)| (name.to_owned(), value.into())));
    let mut job = Map::from_iter([
        ("backoffLimit".to_owned(), 0.into()),
        (
            "template".to_owned(),
            json!({"metadata": {"labels": labels, "annotations": on_pod}, "spec": pod(settings, spec)}),
        ),
    ]);
    if let Some(seconds) = settings.active_deadline_seconds {
        job.insert("activeDeadlineSeconds".into(), seconds.into());
    }
    if frame.cleanup {
        job.insert("ttlSecondsAfterFinished".into(), settings.ttl_seconds_after_finished.into());
    }
    Ok(whole(settings, name, json!({"labels": labels, "annotations": on_job}), &job))
}

/// A Job in the worker's namespace.
pub fn whole(settings: &KubernetesSettings, name: &str, mut metadata: Value, spec: &Map<String, Value>) -> Value {
    if let Value::Object(metadata) = &mut metadata {
        metadata.insert("name".into(), name.into());
        metadata.insert("namespace".into(), settings.namespace.as_str().into());
    }
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec})
}

/// The labels that the operator wants on everything.
pub fn operators_labels(settings: &KubernetesSettings) -> Map<String, Value> {
    settings.extra_labels.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect()
}

/// The annotations that the operator wants on everything.
pub fn operators_annotations(settings: &KubernetesSettings) -> Map<String, Value> {
    settings.extra_annotations.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect()
}

fn check_sidecars(sidecars: &[Sidecar]) -> Result<(), SidecarFlaw> {
    for (index, Sidecar { image, mount_path, .. }) in sidecars.iter().enumerate() {
        let place = || oz_worker_text::line::quoted(mount_path);
        let is_same = |other: &Sidecar| tidy(&other.mount_path) == tidy(mount_path);
        if image.is_empty() {
            return Err(SidecarFlaw::NoImage(place()));
        } else if !mount_path.starts_with('/') {
            return Err(SidecarFlaw::NoPath(oz_worker_text::line::quoted(image)));
        } else if tidy(mount_path) == WORKSPACE {
            return Err(SidecarFlaw::Workspace(place()));
        } else if sidecars.iter().take(index).any(is_same) {
            return Err(SidecarFlaw::Twice(place()));
        }
    }
    Ok(())
}

fn tidy(path: &str) -> &str {
    path.trim_end_matches('/')
}

fn pod(settings: &KubernetesSettings, spec: &TaskSpec) -> Value {
    let mut pod = template::begin(settings.pod_template.as_ref().map(|template| &template.0));
    let mut volumes = take_list(&mut pod, "volumes");
    let limit = settings.workspace_size_limit.as_ref();
    let workspace = limit.map_or_else(|| json!({}), |limit| json!({"sizeLimit": limit}));
    lay(&mut volumes, [json!({"name": "workspace", "emptyDir": workspace})], "name");
    let mut mounts = vec![json!({"name": "workspace", "mountPath": WORKSPACE})];
    let mut copies = Vec::new();
    for (index, sidecar) in spec.sidecars.iter().enumerate() {
        let (volume, mount) = sidecar_volume(settings, index, sidecar);
        if !settings.use_image_volumes {
            copies.push(copy(settings, index, sidecar));
        }
        lay(&mut volumes, [volume], "name");
        mounts.push(mount);
    }
    let environment = environment(spec);

    let mut setup = Vec::new();
    if let Some(command) = &settings.setup_command {
        setup.push(json!({
            "name": SETUP,
            "image": spec.image,
            "imagePullPolicy": settings.image_pull_policy.name(),
            "command": ["/bin/sh", "-c", escaped(command)],
            "workingDir": WORKSPACE,
            "env": environment,
            "volumeMounts": mounts,
        }));
    }
    let mut init = copies;
    let own: Vec<&str> = init.iter().chain(&setup).filter_map(|container| container.get("name")?.as_str()).collect();
    let is_own =
        |container: &Value| container.get("name").and_then(Value::as_str).is_some_and(|name| own.contains(&name));
    let others: Vec<Value> =
        take_list(&mut pod, "initContainers").into_iter().filter(|container| !is_own(container)).collect();
    // The operator's native sidecars are there when setup runs.
    init.extend(others);
    init.extend(setup);

    let mut containers = take_list(&mut pod, "containers");
    let (place, template) = take_task(&mut containers);
    containers.insert(place, task(settings, spec, template, environment, mounts));
    pod.insert("restartPolicy".into(), "Never".into());
    pod.insert("containers".into(), containers.into());
    pod.insert("volumes".into(), volumes.into());
    if !init.is_empty() {
        pod.insert("initContainers".into(), init.into());
    }
    pod.into()
}

/// A sidecar's files as a volume, and its mount.
fn sidecar_volume(settings: &KubernetesSettings, index: usize, sidecar: &Sidecar) -> (Value, Value) {
    let policy = settings.image_pull_policy.name();
    let (name, volume) = if settings.use_image_volumes {
        let name = format!("sidecar-{index}-image");
        (name.clone(), json!({"name": name, "image": {"reference": sidecar.image, "pullPolicy": policy}}))
    } else {
        let name = format!("sidecar-{index}-data");
        (name.clone(), json!({"name": name, "emptyDir": {}}))
    };
    let mut mount = json!({"name": name, "mountPath": sidecar.mount_path});
    // The cluster mounts an image for reading only, whatever is asked for.
    if (settings.use_image_volumes || !sidecar.read_write)
        && let Value::Object(mount) = &mut mount
    {
        mount.insert("readOnly".into(), true.into());
    }
    (volume, mount)
}

/// The init container that copies a sidecar's files.
fn copy(settings: &KubernetesSettings, index: usize, sidecar: &Sidecar) -> Value {
    json!({
        "name": format!("copy-sidecar-{index}"),
        "image": sidecar.image,
        "imagePullPolicy": settings.image_pull_policy.name(),
        "command": ["/bin/sh", "-c", escaped(scripts::COPY)],
        "securityContext": {"runAsUser": 0, "runAsGroup": 0},
        "volumeMounts": [{"name": format!("sidecar-{index}-data"), "mountPath": scripts::TARGET}],
    })
}

/// The task's environment, and what the backend adds to it last.
fn environment(spec: &TaskSpec) -> Vec<Value> {
    let own = [
        ("OZ_ENVIRONMENT_FILE", "/workspace/.oz-env"),
        ("OZ_WORKSPACE_ROOT", WORKSPACE),
        ("OZ_WORKER_BACKEND", "kubernetes"),
        ("OZ_RUN_ID", spec.task_id.as_str()),
    ];
    let tasks = spec.env.iter().filter(|(name, _)| own.iter().all(|(known, _)| known != name));
    let tasks = tasks.map(|(name, value)| (name, value.expose()));
    tasks.chain(own).map(|(name, value)| json!({"name": name, "value": escaped(value)})).collect()
}

/// The container `task`, laid over the template's.
fn task(
    settings: &KubernetesSettings,
    spec: &TaskSpec,
    mut task: Map<String, Value>,
    environment: Vec<Value>,
    mounts: Vec<Value>,
) -> Value {
    let mut env = take_list(&mut task, "env");
    lay(&mut env, environment, "name");
    let mut all_mounts = take_list(&mut task, "volumeMounts");
    lay(&mut all_mounts, mounts, "mountPath");
    let mut resources = take_map(&mut task, "resources");
    ask(spec.shape, &mut resources);
    let teardown = settings.teardown_command.as_deref();
    if let Some(command) = teardown {
        let mut lifecycle = take_map(&mut task, "lifecycle");
        // Kubernetes replaces nothing in a hook.
        lifecycle.insert("preStop".into(), json!({"exec": {"command": ["/bin/sh", "-c", command]}}));
        task.insert("lifecycle".into(), lifecycle.into());
    }
    let args = spec.args.iter().map(|argument| Value::from(escaped(argument.expose())));
    task.insert("image".into(), spec.image.as_str().into());
    if task.get("imagePullPolicy").is_none_or(Value::is_null) {
        task.insert("imagePullPolicy".into(), settings.image_pull_policy.name().into());
    }
    // The last word is the name that the shell gives itself; the arguments follow it.
    task.insert("command".into(), json!(["/bin/sh", "-c", escaped(&scripts::task(teardown)), "sh"]));
    task.insert("args".into(), args.collect());
    task.insert("workingDir".into(), WORKSPACE.into());
    task.insert("env".into(), env.into());
    task.insert("volumeMounts".into(), all_mounts.into());
    if !resources.is_empty() {
        task.insert("resources".into(), resources.into());
    }
    task.into()
}

/// What a task asks of its machine, over the template's requests and limits.
fn ask(shape: InstanceShape, resources: &mut Map<String, Value>) {
    let asked = [
        shape.vcpus.map(|cpus| ("cpu", cpus.to_string())),
        shape.memory_gb.map(|gibibytes| ("memory", format!("{gibibytes}Gi"))),
    ];
    for (name, quantity) in asked.into_iter().flatten() {
        for kind in ["requests", "limits"] {
            let mut quantities = take_map(resources, kind);
            quantities.insert(name.into(), quantity.as_str().into());
            resources.insert(kind.into(), quantities.into());
        }
    }
}

#[cfg(test)]
mod tests;
