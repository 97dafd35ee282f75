//! The description of a task's container, as `POST /containers/create` takes it.

use oz_worker_core::agent::{InstanceShape, TaskSpec};
use serde_json::{Map, Value, json};

use super::labels::{self, Owned};

/// What is started in every container, from the sidecar with the agent.
const ENTRYPOINT: &str = "/agent/entrypoint.sh";
/// Where it is started.
const WORKING_DIR: &str = "/workspace";

/// The parts of the engine's `HostConfig` that are the worker's to set, or that would take a container away from it.
const OURS: [&str; 7] = ["Binds", "Mounts", "NanoCpus", "Memory", "MemorySwap", "AutoRemove", "RestartPolicy"];

/// A volume with a sidecar's files, at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub volume: String,
    /// Of the image whose files it holds.
    pub digest: String,
    pub target: String,
    pub read_write: bool,
}

/// What the operator adds to every container.
#[derive(Debug, Default)]
pub struct Additions<'a> {
    /// `HOST:CONTAINER[:MODE]`.
    pub volumes: &'a [String],
    /// Laid under what the worker sets of `HostConfig`.
    pub options: Option<&'a Value>,
    pub labels: &'a [(String, String)],
    /// Whether sidecars are mounted as `volumes` are. Podman 4.3 leaves `NoCopy` of the other form alone.
    pub as_binds: bool,
}

/// What of `container_options` has no effect, since the worker sets it.
pub fn conflicts(options: &Value) -> Vec<&'static str> {
    OURS.into_iter().filter(|key| options.get(key).is_some()).collect()
}

/// The container of a task.
pub fn description(spec: &TaskSpec, mounts: &[Mount], additions: &Additions<'_>, owned: &Owned<'_>) -> Value {
    let mut host = match additions.options {
        Some(Value::Object(options)) => options.clone(),
        _ => Map::new(),
    };
    for key in OURS {
        host.remove(key);
    }
    // A bind cannot name such a path.
    let is_bind = |mount: &&Mount| additions.as_binds && !mount.target.contains(':');
    let (as_binds, mounts): (Vec<&Mount>, Vec<&Mount>) = mounts.iter().partition(is_bind);
    let binds: Vec<String> = additions.volumes.iter().cloned().chain(as_binds.into_iter().map(bind)).collect();
    if !binds.is_empty() {
        host.insert("Binds".into(), json!(binds));
    }
    if !mounts.is_empty() {
        host.insert("Mounts".into(), mounts.into_iter().map(mount).collect());
    }
    limits(spec.shape, &mut host);

    let mut labels: Map<String, Value> =
        additions.labels.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    labels.extend(labels::of_task(owned, &spec.task_id, spec.execution_id.as_deref()));
    let arguments = spec.args.iter().map(|argument| Value::from(argument.expose()));
    let environment = spec.env.iter().map(|(name, value)| Value::from(format!("{name}={}", value.expose())));
    json!({
        "Image": spec.image,
        "Cmd": std::iter::once(Value::from(ENTRYPOINT)).chain(arguments).collect::<Value>(),
        "Env": environment.collect::<Value>(),
        "WorkingDir": WORKING_DIR,
        "Labels": labels,
        "HostConfig": host,
    })
}

fn mount(mount: &Mount) -> Value {
    json!({
        "Type": "volume",
        "Source": mount.volume,
        "Target": mount.target,
        "ReadOnly": !mount.read_write,
        // An empty sidecar stays empty over a path that the image fills. One that was removed meanwhile is made by the engine:
        // it is empty then, and must be known as one that may be thrown away.
        "VolumeOptions": {"NoCopy": true, "Labels": {labels::SIDECAR: mount.digest}},
    })
}

fn bind(mount: &Mount) -> String {
    let mode = if mount.read_write { "nocopy" } else { "ro,nocopy" };
    format!("{}:{}:{mode}", mount.volume, mount.target)
}

/// CPUs, and memory with swap in it: a task never gets more by swapping.
fn limits(shape: InstanceShape, host: &mut Map<String, Value>) {
    if let Some(vcpus) = shape.vcpus {
        host.insert("NanoCpus".into(), json!(u64::from(vcpus) * 1_000_000_000));
    }
    if let Some(memory) = shape.memory_gb {
        // An engine counts in an i64.
        let bytes = i64::from(memory).saturating_mul(1 << 30);
        host.insert("Memory".into(), json!(bytes));
        host.insert("MemorySwap".into(), json!(bytes));
    }
}

/// The container that fills a volume: it is never started. `covered` are the places where its image, that of the sidecar,
/// wants volumes that nobody asked for: they get none.
pub fn filler<'a>(
    image: &str,
    volume: &str,
    digest: &str,
    covered: impl Iterator<Item = &'a str>,
    owned: &Owned<'_>,
) -> Value {
    let (volume_name, target) = (volume.to_owned(), labels::FILLED_AT.to_owned());
    let target = Mount { volume: volume_name, digest: digest.to_owned(), target, read_write: true };
    let covered: Map<String, Value> = covered.map(|path| (path.to_owned(), "".into())).collect();
    let host = json!({"Mounts": [mount(&target)], "NetworkMode": "none", "Tmpfs": covered});
    unstarted(image, &host, &labels::of_filler(owned, volume, digest))
}

/// The container whose files are read to fill a volume: it is never started either.
pub fn source(image: &str, owned: &Owned<'_>) -> Value {
    unstarted(image, &json!({"NetworkMode": "none"}), &labels::of_worker(owned))
}

fn unstarted(image: &str, host: &Value, labels: &Map<String, Value>) -> Value {
    json!({
        "Image": image,
        // An image needs a command to be made a container of.
        "Cmd": ["-"],
        "Entrypoint": [],
        "Labels": labels,
        "HostConfig": host,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn spec() -> TaskSpec {
        TaskSpec {
            task_id: "T1".into(),
            execution_id: Some("e1".into()),
            title: String::new(),
            harness: None,
            args: vec!["agent".into(), "l1\nl2".into()],
            env: [("A", "x=y z"), ("EMPTY", "")].into_iter().collect(),
            image: "h/x:1".into(),
            sidecars: Vec::new(),
            shape: InstanceShape { vcpus: Some(2), memory_gb: Some(1) },
            task: "{}".into(),
        }
    }

    const OWNED: Owned<'static> = Owned { worker_id: "w1", instance: "0123456789abcdef.1.2" };

    #[test]
    fn a_container_has_all_that_decides_what_runs() {
        let mounts = [Mount { volume: "v".into(), digest: "d".into(), target: "/agent".into(), read_write: false }];
        let volumes = ["/a:/b:ro".to_owned()];
        let labels = [("team".into(), "x".into())];
        let additions = Additions { volumes: &volumes, labels: &labels, ..Additions::default() };
        let expected = json!({
            "Image": "h/x:1",
            "Cmd": ["/agent/entrypoint.sh", "agent", "l1\nl2"],
            "Env": ["A=x=y z", "EMPTY="],
            "WorkingDir": "/workspace",
            "Labels": {
                "team": "x",
                "oz-agent-worker.worker-id": "w1",
                "oz-agent-worker.instance": "0123456789abcdef.1.2",
                "oz-agent-worker.task-id": "T1",
                "oz-agent-worker.execution-id": "e1",
            },
            "HostConfig": {
                "Binds": ["/a:/b:ro"],
                "Mounts": [{"Type": "volume", "Source": "v", "Target": "/agent", "ReadOnly": true,
                    "VolumeOptions": {"NoCopy": true, "Labels": {"oz-agent-worker.sidecar": "d"}}}],
                "NanoCpus": 2_000_000_000_u64,
                "Memory": 1_073_741_824,
                "MemorySwap": 1_073_741_824,
            },
        });
        assert_eq!(description(&spec(), &mounts, &additions, &OWNED), expected);
    }

    #[test]
    fn for_podman_a_sidecar_is_a_bind_unless_its_path_cannot_be_one() {
        let mount = |target: &str, read_write| Mount {
            volume: "v".into(),
            digest: "d".into(),
            target: target.into(),
            read_write,
        };
        let mounts = [mount("/agent", false), mount("/own", true), mount("/a:b", false)];
        let volumes = ["/a:/b:ro".to_owned()];
        let additions = Additions { volumes: &volumes, as_binds: true, ..Additions::default() };
        let made = description(&spec(), &mounts, &additions, &OWNED);
        let binds = json!(["/a:/b:ro", "v:/agent:ro,nocopy", "v:/own:nocopy"]);
        assert_eq!(made.pointer("/HostConfig/Binds"), Some(&binds));
        assert_eq!(made.pointer("/HostConfig/Mounts/0/Target"), Some(&json!("/a:b")));
    }

    #[test]
    fn what_the_worker_sets_wins_over_the_operators_options() {
        let options = json!({"Memory": 1, "AutoRemove": true, "Init": true, "Binds": ["/:/host"]});
        assert_eq!(conflicts(&options), ["Binds", "Memory", "AutoRemove"]);
        let mut spec = spec();
        spec.shape = InstanceShape::default();
        let additions = Additions { options: Some(&options), ..Additions::default() };
        let made = description(&spec, &[], &additions, &OWNED);
        assert_eq!(made.get("HostConfig"), Some(&json!({"Init": true})));
        // Nor can a label of the operator's take a container away from its worker.
        let own = [("oz-agent-worker.worker-id".to_owned(), "other".to_owned())];
        let additions = Additions { labels: &own, ..Additions::default() };
        let made = description(&spec, &[], &additions, &OWNED);
        assert_eq!(made.pointer("/Labels/oz-agent-worker.worker-id"), Some(&json!("w1")));
    }

    #[test]
    fn what_fills_a_volume_is_never_started_and_reaches_nothing() {
        let expected = json!({
            "Image": "h/x:1",
            "Cmd": ["-"],
            "Entrypoint": [],
            "Labels": labels::of_filler(&OWNED, "v", "d"),
            "HostConfig": {
                "Mounts": [{"Type": "volume", "Source": "v", "Target": labels::FILLED_AT, "ReadOnly": false,
                    "VolumeOptions": {"NoCopy": true, "Labels": {"oz-agent-worker.sidecar": "d"}}}],
                "NetworkMode": "none",
                "Tmpfs": {"/data": ""},
            },
        });
        assert_eq!(filler("h/x:1", "v", "d", ["/data"].into_iter(), &OWNED), expected);
        let expected = json!({
            "Image": "h/x:1",
            "Cmd": ["-"],
            "Entrypoint": [],
            "Labels": {"oz-agent-worker.worker-id": "w1", "oz-agent-worker.instance": "0123456789abcdef.1.2"},
            "HostConfig": {"NetworkMode": "none"},
        });
        assert_eq!(source("h/x:1", &OWNED), expected);
    }

    #[test]
    fn a_shape_beyond_every_machine_is_still_a_number() {
        let mut host = Map::new();
        limits(InstanceShape { vcpus: Some(u32::MAX), memory_gb: Some(u32::MAX) }, &mut host);
        assert_eq!(host.get("NanoCpus"), Some(&json!(4_294_967_295_000_000_000_u64)));
        assert_eq!(host.get("Memory"), Some(&json!(4_294_967_295_i64 << 30)));
    }
}
