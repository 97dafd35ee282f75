//! What a task is started with: the agent's arguments, the common environment, the image and the sidecars.
//!
//! `docs/configuration.md`, "What the agent is started with", has the order of everything here.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde_json::value::RawValue;

use crate::assignment::{Assignment, Entries, Object, Snapshot, Str, compact, non_blank};
use crate::secret::{Secret, Variables};

/// The image of a task for which neither the server nor the operator names one.
pub const DEFAULT_IMAGE: &str = "ubuntu:22.04";

/// The operator's side of what a task is started with.
#[derive(Debug, Clone, Default)]
pub struct AgentSettings {
    /// `--server-root-url`.
    pub server_root_url: String,
    /// `--session-sharing-server-url`.
    pub session_sharing_server_url: Option<String>,
    /// `--idle-on-complete`, as the agent is to see it (`10m`).
    pub idle_on_complete: Option<String>,
    /// The operator's environment: the file's, then `-e`.
    pub environment: Variables,
    /// The image of a task whose assignment names none.
    pub default_image: Option<String>,
    /// Instead of the assignment's `sidecar_image`, where it has one.
    pub sidecar_image: Option<String>,
    /// Image by harness: replaces the sidecar at `/mnt/<harness>-cli-sidecar`, or is added there.
    pub coding_cli_sidecars: BTreeMap<String, String>,
}

/// A task as a backend gets it: everything that decides what runs.
#[derive(Debug, Clone)]
pub struct TaskSpec {
    #[allow(missing_docs)]
    pub task_id: String,
    /// Tells two runs of one task apart; not every server gives one.
    pub execution_id: Option<String>,
    /// Its title, for people; untrusted text.
    pub title: String,
    /// The harness that the agent uses, when one is named.
    pub harness: Option<String>,
    /// The agent's arguments, without the program. What an MCP server is told may stand among them.
    pub args: Vec<Secret>,
    /// The environment common to all backends, sorted by name.
    pub env: Variables,
    /// The image of the task's container.
    pub image: String,
    /// The images whose files are mounted into the task's container.
    pub sidecars: Vec<Sidecar>,
    /// What the task asks of its machine.
    pub shape: InstanceShape,
    /// The `task` of the assignment as JSON, exactly as it came: the prompt, too.
    pub task: Secret,
}

/// An image whose files are mounted into the task's container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    #[allow(missing_docs)]
    pub image: String,
    /// Where its files are mounted.
    pub mount_path: String,
    /// Whether the task may write there.
    pub read_write: bool,
}

/// What a task asks of its machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InstanceShape {
    /// Number of CPUs, when one is asked for; at least 1.
    pub vcpus: Option<u32>,
    /// Memory in GiB, when an amount is asked for; at least 1.
    pub memory_gb: Option<u32>,
}

impl TaskSpec {
    /// What to run for `assignment`, whose `task` as it came is `raw_task`.
    pub(crate) fn new(assignment: &Assignment<'_>, raw_task: &str, settings: &AgentSettings) -> Self {
        let shape = assignment.instance_shape.as_ref().map(|Object(shape)| *shape);
        let positive = |n: Option<i64>| n.filter(|n| *n > 0).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        Self {
            task_id: assignment.task_id.as_str().to_owned(),
            execution_id: assignment.execution_id().map(ToOwned::to_owned),
            title: assignment.title().to_owned(),
            harness: assignment.harness().map(ToOwned::to_owned),
            args: args(assignment, settings),
            env: env(assignment, settings),
            image: non_blank(assignment.docker_image.as_ref())
                .or(settings.default_image.as_deref())
                .unwrap_or(DEFAULT_IMAGE)
                .to_owned(),
            sidecars: sidecars(assignment, settings),
            shape: InstanceShape {
                vcpus: positive(shape.and_then(|shape| shape.vcpus)),
                memory_gb: positive(shape.and_then(|shape| shape.memory_gb)),
            },
            task: raw_task.into(),
        }
    }
}

/// The agent's arguments, in the documented order.
fn args(assignment: &Assignment<'_>, settings: &AgentSettings) -> Vec<Secret> {
    let mut args = Args(Vec::with_capacity(24));
    args.push("agent");
    args.push("run");
    if assignment.is_owned_by_team() {
        args.option("--share", Some("team:edit"));
    }
    args.option("--task-id", Some(assignment.agents_task_id()));
    args.push("--sandboxed");
    args.option("--server-root-url", Some(&settings.server_root_url));
    if let Some(snapshot) = assignment.snapshot() {
        args.snapshot(snapshot, assignment.harness());
    }
    for arg in assignment.additional_oz_args.iter().flatten() {
        args.push(arg.as_str());
    }
    args.push("--idle-on-complete");
    match assignment.snapshot().and_then(|snapshot| snapshot.idle_timeout_minutes).filter(|minutes| *minutes > 0) {
        Some(minutes) => args.push(&format!("{minutes}m")),
        None => args.0.extend(settings.idle_on_complete.as_deref().map(Secret::from)),
    }
    args.option("--session-sharing-server-url", settings.session_sharing_server_url.as_deref());
    args.0
}

struct Args(Vec<Secret>);

impl Args {
    fn push(&mut self, arg: &str) {
        self.0.push(arg.into());
    }

    fn option(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.push(name);
            self.push(value);
        }
    }

    fn snapshot(&mut self, snapshot: &Snapshot<'_>, harness: Option<&str>) {
        let is_oz = harness.is_none_or(|harness| harness == "oz");
        if is_oz {
            self.option("--model", non_blank(snapshot.model_id.as_ref()));
        }
        self.option("--profile", non_blank(snapshot.profile_id.as_ref()));
        self.option("--skill", non_blank(snapshot.skill_spec.as_ref()));
        if let Some(servers) = snapshot.mcp_servers.as_ref().filter(|servers| !servers.0.is_empty()) {
            self.option("--mcp", Some(&mcp_servers(servers)));
        }
        let computer_use = snapshot.computer_use_enabled.unwrap_or(is_oz);
        self.push(if computer_use { "--computer-use" } else { "--no-computer-use" });
        let aws = snapshot.inference_providers.as_ref().and_then(|Object(providers)| providers.aws.as_ref());
        if let Some(Object(aws)) = aws
            && aws.disabled != Some(true)
            && let Some(role) = non_blank(aws.role_arn.as_ref())
        {
            self.option("--bedrock-inference-role", Some(role));
            self.option("--bedrock-role-region", non_blank(aws.region.as_ref()));
        }
        self.option("--harness", harness);
        let sharing = snapshot.session_sharing.as_ref().and_then(|Object(sharing)| sharing.public_access.as_ref());
        match non_blank(sharing) {
            Some("VIEWER") => self.option("--share", Some("public:view")),
            Some("EDITOR") => self.option("--share", Some("public:edit")),
            _ => {}
        }
        if snapshot.snapshot_disabled == Some(true) {
            self.push("--no-snapshot");
        }
        self.seconds("--snapshot-upload-timeout", snapshot.snapshot_upload_timeout_secs);
        self.seconds("--snapshot-script-timeout", snapshot.snapshot_script_timeout_secs);
        self.option("--environment", non_blank(snapshot.environment_id.as_ref()));
    }

    fn seconds(&mut self, name: &str, seconds: Option<i64>) {
        if let Some(seconds) = seconds.filter(|seconds| *seconds > 0) {
            self.option(name, Some(&format!("{seconds}s")));
        }
    }
}

/// The `mcp_servers` object: compact, names sorted, each server as it came.
fn mcp_servers(Entries(servers): &Entries<'_, &RawValue>) -> String {
    let sorted: BTreeMap<&str, &RawValue> = servers.iter().map(|(name, server)| (name.as_str(), *server)).collect();
    let mut json = String::from("{");
    for (name, server) in sorted {
        if json.len() > 1 {
            json.push(',');
        }
        json.push_str(&serde_json::Value::from(name).to_string());
        json.push(':');
        json.push_str(&compact(server));
    }
    json.push('}');
    json
}

fn env(assignment: &Assignment<'_>, settings: &AgentSettings) -> Variables {
    let own = [
        ("TASK_ID", assignment.agents_task_id()),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GH_PROMPT_DISABLED", "1"),
        ("WARP_SERVER_ROOT_URL", &settings.server_root_url),
    ];
    let assigned = assignment.env_vars.iter().flat_map(|Entries(entries)| entries);
    let assigned = assigned.map(|(name, value)| (name.as_str(), value.as_ref().map_or("", Str::as_str)));
    let operators = settings.environment.iter().map(|(name, value)| (name, value.expose()));
    let merged: BTreeMap<&str, &str> = own.into_iter().chain(assigned).chain(operators).collect();
    merged.into_iter().collect()
}

fn sidecars(assignment: &Assignment<'_>, settings: &AgentSettings) -> Vec<Sidecar> {
    let assigned = non_blank(assignment.sidecar_image.as_ref());
    let agent = assigned.map(|assigned| settings.sidecar_image.as_deref().unwrap_or(assigned));
    let agent = agent.map(|image| Sidecar { image: image.into(), mount_path: "/agent".into(), read_write: false });
    let additional = assignment.additional_sidecars.iter().flatten().map(|Object(sidecar)| Sidecar {
        image: non_blank(sidecar.image.as_ref()).unwrap_or_default().into(),
        mount_path: non_blank(sidecar.mount_path.as_ref()).unwrap_or_default().into(),
        read_write: sidecar.read_write.unwrap_or(false),
    });
    let mut sidecars: Vec<Sidecar> = agent.into_iter().chain(additional).collect();
    if let Some(harness) = assignment.harness()
        && let Some(image) = settings.coding_cli_sidecars.get(harness)
    {
        let mount_path = format!("/mnt/{harness}-cli-sidecar");
        match sidecars.iter_mut().find(|sidecar| sidecar.mount_path == mount_path) {
            Some(sidecar) => sidecar.image.clone_from(image),
            None => sidecars.push(Sidecar { image: image.clone(), mount_path, read_write: false }),
        }
    }
    sidecars
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::message::{ServerMessage, decode, raw_task};

    fn spec(data: &str, settings: &AgentSettings) -> TaskSpec {
        let text = format!(r#"{{"type":"task_assignment","data":{data}}}"#);
        let Ok(ServerMessage::TaskAssignment(assignment)) = decode(&text) else { panic!("{:?}", decode(&text)) };
        TaskSpec::new(&assignment, raw_task(&text).unwrap().get(), settings)
    }

    fn joined(args: &[Secret]) -> String {
        args.iter().map(Secret::expose).collect::<Vec<_>>().join("|")
    }

    fn settings() -> AgentSettings {
        AgentSettings { server_root_url: "https://app.warp.dev".into(), ..AgentSettings::default() }
    }

    #[test]
    fn every_argument_stands_in_the_documented_order() {
        let settings = AgentSettings { session_sharing_server_url: Some("ws://s".into()), ..settings() };
        let spec = spec(
            r#"{"task_id":"T","task":{"owner":{"Type":"TEAM","Id":"not a number"},"agent_config_snapshot":{
                "environment_id":" env ","model_id":"m","profile_id":"p","skill_spec":"s",
                "mcp_servers":{"b":{"x": 1.0},"a":[ 10 ]},"computer_use_enabled":false,"idle_timeout_minutes":3,
                "harness":{"type":"oz"},"inference_providers":{"aws":{"role_arn":"arn","region":"r"}},
                "session_sharing":{"public_access":"EDITOR"},"snapshot_disabled":true,
                "snapshot_upload_timeout_secs":1,"snapshot_script_timeout_secs":2}},
                "additional_oz_args":["--x",""]}"#,
            &settings,
        );
        let expected = "agent|run|--share|team:edit|--task-id|T|--sandboxed|--server-root-url|https://app.warp.dev|\
            --model|m|--profile|p|--skill|s|--mcp|{\"a\":[10],\"b\":{\"x\":1.0}}|--no-computer-use|\
            --bedrock-inference-role|arn|--bedrock-role-region|r|--harness|oz|--share|public:edit|--no-snapshot|\
            --snapshot-upload-timeout|1s|--snapshot-script-timeout|2s|--environment|env|--x||\
            --idle-on-complete|3m|--session-sharing-server-url|ws://s";
        assert_eq!(joined(&spec.args), expected);
    }

    #[test]
    fn the_agent_is_told_the_tasks_own_id() {
        for (task, id) in [(r#"{"id":"own"}"#, "own"), (r#"{"id":" "}"#, "T"), (r#"{"id":7}"#, "T"), ("{}", "T")] {
            let spec = spec(&format!(r#"{{"task_id":"T","task":{task}}}"#), &settings());
            assert_eq!((spec.task_id.as_str(), spec.env.get("TASK_ID")), ("T", Some(&id.into())), "{task}");
            assert!(joined(&spec.args).contains(&format!("--task-id|{id}|")), "{task}");
        }
    }

    #[test]
    fn blank_values_and_timeouts_of_zero_are_left_out() {
        let spec = spec(
            r#"{"task_id":"T","task":{"agent_config_snapshot":{"environment_id":" ","model_id":"","profile_id":null,
                "mcp_servers":{},"idle_timeout_minutes":0,"harness":{"type":" codex "},"session_sharing":{},
                "inference_providers":{"aws":{"role_arn":"arn","disabled":true}},"snapshot_disabled":false,
                "snapshot_upload_timeout_secs":0,"snapshot_script_timeout_secs":-1}}}"#,
            &settings(),
        );
        let tail = joined(spec.args.get(7..).unwrap());
        assert_eq!(tail, "--no-computer-use|--harness|codex|--idle-on-complete");
    }

    #[test]
    fn what_is_for_oz_alone_is_left_out_for_another_harness() {
        let args = |harness: &str, access: &str| {
            let data = format!(
                r#"{{"task_id":"T","task":{{"agent_config_snapshot":{{"model_id":"m","harness":{harness},
                    "session_sharing":{{"public_access":"{access}"}}}}}}}}"#
            );
            joined(spec(&data, &settings()).args.get(7..).unwrap())
        };
        let idle = "--idle-on-complete";
        assert_eq!(args("null", "VIEWER"), format!("--model|m|--computer-use|--share|public:view|{idle}"));
        assert_eq!(args(r#"{"type":"codex"}"#, "x"), format!("--no-computer-use|--harness|codex|{idle}"));
    }

    #[test]
    fn the_operators_environment_overrides_the_assignments_and_that_the_workers() {
        let settings = AgentSettings { environment: [("B", "flag")].into_iter().collect(), ..settings() };
        let spec =
            spec(r#"{"task_id":"T","task":{},"env_vars":{"B":"1","GH_PROMPT_DISABLED":"no","N":null}}"#, &settings);
        let env: Vec<String> = spec.env.iter().map(|(name, value)| format!("{name}={}", value.expose())).collect();
        let expected = "B=flag GH_PROMPT_DISABLED=no GIT_TERMINAL_PROMPT=0 N= TASK_ID=T \
            WARP_SERVER_ROOT_URL=https://app.warp.dev";
        assert_eq!(env.join(" "), expected);
    }

    #[test]
    fn images_and_sidecars_follow_assignment_then_operator_then_default() {
        let data = r#"{"task_id":"T","task":{"agent_config_snapshot":{"harness":{"type":"claude"}}},"docker_image":"",
            "sidecar_image":"agent:1","additional_sidecars":[{"image":"x","mount_path":"/mnt/claude-cli-sidecar"}],
            "instance_shape":{"vcpus":0,"memory_gb":8}}"#;
        let plain = spec(data, &settings());
        assert_eq!(plain.image, DEFAULT_IMAGE);
        assert_eq!(plain.shape, InstanceShape { vcpus: None, memory_gb: Some(8) });
        let settings = AgentSettings {
            default_image: Some("mine:1".into()),
            sidecar_image: Some("agent:mine".into()),
            coding_cli_sidecars: [("claude".into(), "claude:mine".into())].into(),
            ..settings()
        };
        let own = spec(data, &settings);
        assert_eq!(own.image, "mine:1");
        let images: Vec<&str> = own.sidecars.iter().map(|sidecar| sidecar.image.as_str()).collect();
        assert_eq!(images, ["agent:mine", "claude:mine"]);
        assert!(spec(r#"{"task_id":"T","task":{}}"#, &settings).sidecars.is_empty());
    }
}
