//! Jobs as an existing worker made them on a real cluster, and what is better than there.

use std::path::Path;

use oz_worker_contract::Configure;
use oz_worker_core::agent::{InstanceShape, Sidecar, TaskSpec};
use oz_worker_text::section::{Findings, Section};
use oz_worker_text::yaml;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::*;
use crate::names::hash;
use crate::preflight;

/// One recorded Job: what the task and the operator asked for, and what was made of it, without what the cluster adds by
/// itself.
#[derive(Deserialize)]
struct Recorded {
    name: String,
    #[serde(default)]
    task_id: String,
    execution_id: Option<String>,
    #[serde(default)]
    image: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Map<String, Value>,
    #[serde(default)]
    sidecars: Vec<(String, String, bool)>,
    vcpus: Option<u32>,
    memory_gb: Option<u32>,
    /// Whether the operator wanted nothing to be removed.
    #[serde(default)]
    keep: bool,
    config: Value,
    job: Value,
}

impl Recorded {
    fn spec(&self) -> TaskSpec {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let sidecars = self.sidecars.iter().cloned();
        TaskSpec {
            task_id: self.task_id.clone(),
            execution_id: self.execution_id.clone(),
            title: String::new(),
            harness: None,
            args: self.args.iter().map(|arg| arg.as_str().into()).collect(),
            env: self.env.iter().map(|(name, value)| (name.as_str(), text(value))).collect(),
            image: self.image.clone(),
            sidecars: sidecars
                .map(|(image, mount_path, read_write)| Sidecar { image, mount_path, read_write })
                .collect(),
            shape: InstanceShape { vcpus: self.vcpus, memory_gb: self.memory_gb },
            task: "{}".into(),
        }
    }
}

fn settings(config: &Value) -> KubernetesSettings {
    let text = config.to_string();
    let node = yaml::parse(&text).expect("JSON is YAML");
    let vocabularies = [KubernetesSettings::VOCABULARY];
    let findings = Findings::new(Path::new("c.yaml"), &text, &vocabularies);
    let section =
        Section::open(&findings, "backend.kubernetes".into(), "backend.kubernetes", &node).expect("a mapping");
    let settings = KubernetesSettings::read(&section, &section, node.at).expect("settings");
    assert_eq!(findings.into_lines(), Vec::<String>::new());
    settings
}

fn made(recorded: &Recorded) -> Value {
    let settings = settings(&recorded.config);
    let identity = Identity::new("w1", &recorded.task_id, recorded.execution_id.as_deref());
    let frame = Frame { settings: &settings, instance: "me", cleanup: !recorded.keep };
    description(frame, &identity, &identity.job_name(), &recorded.spec()).expect("a Job")
}

/// A Job without what means nothing and without what is compared elsewhere: the worker's own annotations and scripts, and the
/// order of the environment.
fn plain(value: Value, key: &str) -> Value {
    match value {
        Value::Object(map) => {
            let name = map.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            let mut plain_map = Map::new();
            for (key, value) in map {
                if matches!(key.as_str(), "apiVersion" | "kind" | "namespace") || key.starts_with("oz-agent-worker/") {
                    continue;
                }
                let is_script = key == "command" && (name == "task" || name.starts_with("copy-sidecar-"));
                let value = if is_script { json!(["<worker script>"]) } else { plain(value, &key) };
                let is_empty = value.as_object().is_some_and(Map::is_empty) || value == json!([]) || value == json!("");
                if !is_empty || matches!(key.as_str(), "emptyDir") {
                    plain_map.insert(key, value);
                }
            }
            plain_map.into()
        }
        Value::Array(items) => {
            let mut items: Vec<Value> = items.into_iter().map(|item| plain(item, key)).collect();
            if matches!(key, "env" | "volumes" | "volumeMounts") {
                // Not by the whole text: the order of its keys hangs on the features that serde_json was built with.
                let text =
                    |item: &Value, key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
                items.sort_by_key(|item| (text(item, "name"), text(item, "mountPath")));
            }
            items.into()
        }
        other => other,
    }
}

#[test]
fn a_job_is_as_it_was_recorded() {
    let rows: Vec<Recorded> = serde_json::from_str(include_str!("recorded_jobs.json")).expect("recordings");
    assert!(rows.len() > 30);
    for row in rows {
        assert_eq!(plain(made(&row), ""), plain(row.job.clone(), ""), "{}", row.name);
    }
}

#[test]
fn a_preflight_is_as_it_was_recorded() {
    let rows: Vec<Recorded> = serde_json::from_str(include_str!("recorded_preflights.json")).expect("recordings");
    for row in rows {
        let made = preflight::description(&settings(&row.config), "oz-preflight-60c5590f72eef292-<time>");
        assert_eq!(plain(made, ""), plain(row.job.clone(), ""), "{}", row.name);
    }
    assert!(
        preflight::name(&hash("w1"), std::time::Duration::from_secs(1)).starts_with("oz-preflight-60c5590f72eef292-")
    );
}

fn simple(config: Value) -> Recorded {
    Recorded {
        name: String::new(),
        task_id: "T1".into(),
        execution_id: Some("e1".into()),
        image: "image:1".into(),
        args: Vec::new(),
        env: Map::new(),
        sidecars: Vec::new(),
        vcpus: None,
        memory_gb: None,
        keep: false,
        config,
        job: Value::Null,
    }
}

fn at<'a>(job: &'a Value, path: &str) -> &'a Value {
    job.pointer(path).unwrap_or(&Value::Null)
}

#[test]
fn values_and_arguments_reach_the_agent_as_they_are() {
    let mut task = simple(json!({"setup_command": "echo $(date) $$"}));
    task.args = ["$(TASK_ID)", "p$$q", "$HOME"].map(str::to_owned).to_vec();
    task.env.insert("X".into(), "$(A) a$$b".into());
    let job = made(&task);
    assert_eq!(at(&job, "/spec/template/spec/containers/0/args"), &json!(["$$(TASK_ID)", "p$$$q", "$HOME"]));
    assert_eq!(at(&job, "/spec/template/spec/containers/0/env/0"), &json!({"name": "X", "value": "$$(A) a$$$b"}));
    assert_eq!(at(&job, "/spec/template/spec/initContainers/0/command/2"), &json!("echo $$(date) $$$"));
}

#[test]
fn annotations_hold_what_adoption_needs_and_nothing_of_the_operators_replaces_them() {
    let annotations = json!({INSTANCE: "other", "karpenter.sh/do-not-disrupt": "false"});
    let job = made(&simple(json!({"extra_annotations": annotations, "protect_from_eviction": true})));
    let expected = json!({
        "oz-agent-worker/task-id": "T1",
        "oz-agent-worker/execution-id": "e1",
        "oz-agent-worker/instance": "me",
        "karpenter.sh/do-not-disrupt": "false",
    });
    assert_eq!(at(&job, "/metadata/annotations"), &expected);
    let on_pod = at(&job, "/spec/template/metadata/annotations");
    assert_eq!(on_pod.get("karpenter.sh/do-not-disrupt"), Some(&json!("false")));
    assert_eq!(on_pod.get("cluster-autoscaler.kubernetes.io/safe-to-evict"), Some(&json!("false")));
}

#[test]
fn unknown_fields_of_the_template_are_sent_and_its_containers_and_mounts_keep_their_places() {
    let template = json!({
        "nodeSelectorr": {"a": "b"},
        "containers": [
            {"name": "task", "volumeMounts": [{"name": "x", "mountPath": "/workspace"}], "newField": 1},
            {"name": "proxy", "image": "proxy:1"},
        ],
        "initContainers": [{"name": "db", "restartPolicy": "Always"}, {"name": "setup", "image": "old"}],
    });
    let job = made(&simple(json!({"pod_template": template, "setup_command": "true"})));
    assert_eq!(at(&job, "/spec/template/spec/nodeSelectorr"), &json!({"a": "b"}));
    assert_eq!(at(&job, "/spec/template/spec/containers/0/newField"), &json!(1));
    assert_eq!(at(&job, "/spec/template/spec/containers/1/name"), &json!("proxy"));
    let mounts = json!([{"name": "workspace", "mountPath": "/workspace"}]);
    assert_eq!(at(&job, "/spec/template/spec/containers/0/volumeMounts"), &mounts);
    let init = at(&job, "/spec/template/spec/initContainers").as_array().cloned().unwrap_or_default();
    let names: Vec<_> = init.iter().filter_map(|container| container.get("name")?.as_str()).collect();
    assert_eq!(names, ["db", "setup"]);
}

#[test]
fn a_sidecar_that_cannot_be_mounted_is_refused() {
    for (sidecars, flaw) in [
        (vec![("", "/x")], SidecarFlaw::NoImage("\"/x\"".into())),
        (vec![("a", "")], SidecarFlaw::NoPath("\"a\"".into())),
        (vec![("a", "x")], SidecarFlaw::NoPath("\"a\"".into())),
        (vec![("a", "/workspace/")], SidecarFlaw::Workspace("\"/workspace/\"".into())),
        (vec![("a", "/x"), ("b", "/x/")], SidecarFlaw::Twice("\"/x/\"".into())),
    ] {
        let sidecar = |(image, path): &(&str, &str)| Sidecar {
            image: (*image).into(),
            mount_path: (*path).into(),
            read_write: false,
        };
        assert_eq!(check_sidecars(&sidecars.iter().map(sidecar).collect::<Vec<_>>()), Err(flaw));
    }
}
