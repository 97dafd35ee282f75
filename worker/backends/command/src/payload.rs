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
