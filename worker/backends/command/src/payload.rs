//! What the dispatch command reads of a task: `docs/backends.md`, command. Pure.

use oz_worker_core::agent::{Sidecar, TaskSpec};
use oz_worker_core::secret::{Secret, Variables};
use serde::Serialize;
use serde_json::value::RawValue;

/// What `dispatch_command` reads from its standard input.
#[derive(Serialize)]
struct DispatchPayload<'a> {
    version: u32,
    run_id: &'a str,
    execution_id: &'a str,
    server_root_url: &'a str,
    worker_id: &'a str,
    docker_image: &'a str,
    base_args: Vec<&'a str>,
    #[serde(serialize_with = "as_object")]
    env: &'a Variables,
    sidecars: Vec<DispatchSidecar<'a>>,
    task: &'a RawValue,
}

#[derive(Serialize)]
struct DispatchSidecar<'a> {
    image: &'a str,
    mount_path: &'a str,
    read_write: bool,
}

impl<'a> From<&'a Sidecar> for DispatchSidecar<'a> {
    fn from(Sidecar { image, mount_path, read_write }: &'a Sidecar) -> Self {
        Self { image, mount_path, read_write: *read_write }
    }
}

fn as_object<S: serde::Serializer>(env: &Variables, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(env.iter().map(|(name, value)| (name, value.expose())))
}

/// The JSON that describes a task to the dispatch command.
///
/// # Errors
/// The task as it came is no JSON, which it is when it came in an assignment.
pub(super) fn payload(spec: &TaskSpec, server_root_url: &str, worker_id: &str) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&DispatchPayload {
        version: 1,
        run_id: &spec.task_id,
        execution_id: spec.execution_id.as_deref().unwrap_or_default(),
        server_root_url,
        worker_id,
        docker_image: &spec.image,
        base_args: spec.args.iter().map(Secret::expose).collect(),
        env: &spec.env,
        sidecars: spec.sidecars.iter().map(Into::into).collect(),
        task: serde_json::from_str(spec.task.expose())?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use oz_worker_core::agent::InstanceShape;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_command_reads_all_of_a_task_and_the_assignment_as_it_came() {
        let mut spec = TaskSpec {
            task_id: "T1".into(),
            execution_id: Some("e1".into()),
            title: "not told".into(),
            harness: None,
            args: vec!["agent".into(), "run".into()],
            env: [("A", "1"), ("B", "x y")].into_iter().collect(),
            image: "h/x:1".into(),
            sidecars: vec![Sidecar { image: "s".into(), mount_path: "/s".into(), read_write: true }],
            shape: InstanceShape::default(),
            task: r#"{"later": 1.0}"#.into(),
        };
        let read =
            |spec: &TaskSpec| serde_json::from_slice::<Value>(&payload(spec, "https://h", "w1").unwrap()).unwrap();
        let expected = json!({
            "version": 1, "run_id": "T1", "execution_id": "e1", "server_root_url": "https://h", "worker_id": "w1",
            "docker_image": "h/x:1", "base_args": ["agent", "run"], "env": {"A": "1", "B": "x y"},
            "sidecars": [{"image": "s", "mount_path": "/s", "read_write": true}], "task": {"later": 1.0},
        });
        assert_eq!(read(&spec), expected);
        spec.execution_id = None;
        assert_eq!(read(&spec).get("execution_id"), Some(&json!("")));
        spec.task = "canary".into();
        assert!(payload(&spec, "https://h", "w1").is_err());
    }
}
