//! Jobs, Pods and events as the API server sends them, as far as anything here depends on them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny};

use super::names::TOLD;

/// A list, as far as it goes.
#[derive(Deserialize)]
pub struct Items<T> {
    #[serde(default = "Vec::new")]
    pub items: Vec<T>,
}

/// Who an object is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    /// Moments are RFC 3339 in UTC to the second: of two, the earlier text is the earlier moment.
    pub creation_timestamp: Option<String>,
    /// When it is to be gone at the latest, once somebody deleted it.
    pub deletion_timestamp: Option<String>,
    pub deletion_grace_period_seconds: Option<u32>,
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
}

/// An object that can be watched.
pub trait Watched: DeserializeOwned {
    fn metadata(&self) -> &Metadata;

    /// The UID of the Job that it is, or is of.
    fn job(&self) -> Option<&str>;
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    #[serde(deserialize_with = "or_default")]
    pub reason: String,
    #[serde(deserialize_with = "or_default")]
    pub message: String,
    pub last_transition_time: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Job {
    pub metadata: Metadata,
    pub spec: JobSpec,
    pub status: JobStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct JobSpec {
    pub suspend: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobStatus {
    #[serde(deserialize_with = "or_default")]
    pub conditions: Vec<Condition>,
    /// From when its deadline counts.
    pub start_time: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Pod {
    pub metadata: Metadata,
    pub spec: PodSpec,
    pub status: PodStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// The node that it was given to.
    pub node_name: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub init_containers: Vec<InitContainer>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InitContainer {
    pub name: String,
    /// `Always` for one that runs beside the others (a native sidecar).
    pub restart_policy: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    #[serde(deserialize_with = "or_default")]
    pub phase: String,
    #[serde(deserialize_with = "or_default")]
    pub reason: String,
    #[serde(deserialize_with = "or_default")]
    pub message: String,
    /// The node that is being made free for it.
    pub nominated_node_name: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub conditions: Vec<Condition>,
    #[serde(deserialize_with = "or_default")]
    pub container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "or_default")]
    pub init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub image: String,
    #[serde(deserialize_with = "or_default")]
    pub state: ContainerState,
    #[serde(deserialize_with = "or_default")]
    pub last_state: ContainerState,
}

/// At most one of the three is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    pub waiting: Option<Waiting>,
    #[serde(deserialize_with = "is_there")]
    pub running: bool,
    pub terminated: Option<Terminated>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Waiting {
    #[serde(deserialize_with = "or_default")]
    pub reason: String,
    #[serde(deserialize_with = "or_default")]
    pub message: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Terminated {
    pub exit_code: i32,
    #[serde(deserialize_with = "or_default")]
    pub reason: String,
    #[serde(deserialize_with = "or_default")]
    pub message: String,
    pub finished_at: Option<String>,
}

/// What a component of the cluster said about an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Event {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub reason: String,
    #[serde(deserialize_with = "or_default")]
    pub message: String,
    pub last_timestamp: Option<String>,
    pub event_time: Option<String>,
}

impl Event {
    pub fn is_warning(&self) -> bool {
        self.kind == "Warning"
    }

    /// When it was said last.
    pub fn moment(&self) -> &str {
        self.last_timestamp.as_deref().or(self.event_time.as_deref()).unwrap_or_default()
    }
}

impl Job {
    /// The condition of this kind, when it holds.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        holding(&self.status.conditions, kind)
    }

    /// The annotation of this name; empty when there is none.
    pub fn annotation(&self, name: &str) -> &str {
        self.metadata.annotations.get(name).map(String::as_str).unwrap_or_default()
    }

    pub fn is_finished(&self) -> bool {
        self.condition("Complete").or_else(|| self.condition("Failed")).is_some()
    }

    /// Whether the server is known to have heard how its task ended.
    pub fn is_told(&self) -> bool {
        !self.annotation(TOLD).is_empty()
    }

    pub fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }
}

impl Pod {
    /// The condition of this kind, when it holds.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        holding(&self.status.conditions, kind)
    }

    pub fn container(&self, name: &str) -> Option<&ContainerStatus> {
        self.status.container_statuses.iter().find(|container| container.name == name)
    }

    /// Whether an init container runs beside the others.
    pub fn is_native_sidecar(&self, name: &str) -> bool {
        let mut all = self.spec.init_containers.iter();
        all.any(|container| container.name == name && container.restart_policy.as_deref() == Some("Always"))
    }
}

impl Watched for Job {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn job(&self) -> Option<&str> {
        Some(&self.metadata.uid)
    }
}

impl Watched for Pod {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn job(&self) -> Option<&str> {
        // The second is what clusters before 1.27 have.
        let label = |name: &str| self.metadata.labels.get(name).map(String::as_str);
        label("batch.kubernetes.io/controller-uid").or_else(|| label("controller-uid"))
    }
}

fn holding<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.kind == kind && condition.status == "True")
}

/// Null is as good as nothing.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

fn is_there<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    Option::<IgnoredAny>::deserialize(from).map(|value| value.is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read<T: DeserializeOwned>(object: Value) -> T {
        serde_json::from_value(object).expect("an object")
    }

    #[test]
    fn whose_an_object_is_says_the_uid_of_its_job() {
        let job: Job = read(json!({"metadata": {"uid": "j"}}));
        assert_eq!((job.metadata().uid.as_str(), job.job()), ("j", Some("j")));
        for (labels, of) in [
            (json!({"batch.kubernetes.io/controller-uid": "new", "controller-uid": "old"}), Some("new")),
            (json!({"controller-uid": "old"}), Some("old")),
            (json!({"app": "x"}), None),
            (Value::Null, None),
        ] {
            let pod: Pod = read(json!({"metadata": {"uid": "p", "labels": labels}}));
            assert_eq!((pod.metadata().uid.as_str(), pod.job()), ("p", of), "{labels}");
        }
    }

    #[test]
    fn an_event_warns_or_not_and_has_a_moment_in_either_form() {
        let at = |last: Option<&str>, time: Option<&str>| {
            let event: Event = read(json!({"type": "Normal", "lastTimestamp": last, "eventTime": time}));
            assert!(!event.is_warning());
            event.moment().to_owned()
        };
        assert_eq!([at(Some("1"), Some("2")), at(None, Some("2")), at(None, None)], ["1", "2", ""]);
        assert!(read::<Event>(json!({"type": "Warning", "reason": null})).is_warning());
    }

    #[test]
    fn a_job_is_told_suspended_or_finished_only_when_it_says_so() {
        let job: Job = read(json!({
            "metadata": {"annotations": {TOLD: "2026-01-01T00:00:00Z"}},
            "spec": {"suspend": true},
            "status": {"conditions": [{"type": "Failed", "status": "True"}]}
        }));
        assert!(job.is_told() && job.is_suspended() && job.is_finished());
        let job: Job = read(json!({
            "metadata": {"annotations": {TOLD: ""}},
            "spec": {"suspend": false},
            "status": {"conditions": [{"type": "Failed", "status": "False"}, {"type": "Suspended", "status": "True"}]}
        }));
        assert!(!job.is_told() && !job.is_suspended() && !job.is_finished());
    }

    #[test]
    fn a_container_runs_when_its_state_says_since_when() {
        let runs = |state| read::<ContainerState>(state).running;
        assert!(runs(json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}})));
        assert!(runs(json!({"running": {}})));
        assert!(!runs(json!({"running": null, "waiting": {"reason": "x"}})));
        assert!(!runs(json!({})));
    }

    #[test]
    fn a_native_sidecar_is_an_init_container_that_always_restarts() {
        let pod: Pod = read(json!({"spec": {"initContainers": [
            {"name": "proxy", "restartPolicy": "Always"}, {"name": "setup"}, {"name": "other", "restartPolicy": "Never"}
        ]}}));
        let are = ["proxy", "setup", "other", "task"].map(|name| pod.is_native_sidecar(name));
        assert_eq!(are, [true, false, false, false]);
    }
}
