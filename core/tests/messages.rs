//! The messages' JSON: what is written can be read back, and every recorded assignment stays understood, or is answered,
//! whatever becomes of one of its fields.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fmt::Write;

use oz_worker_core::agent::AgentSettings;
use oz_worker_core::flaw::{Flaw, FlawKind, JsonType};
use oz_worker_core::message::{DecodeError, ServerMessage, WorkerMessage, decode};
use oz_worker_core::metrics::FailureReason;
use oz_worker_core::time::Instant;
use oz_worker_core::{AfterKill, BadFrame, Config, Frame, Input, Notice, Output, Worker};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Any text at all, and often what JSON has to escape.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[a\"\\\\\u{0}-\u{1f}\u{2028}ü𝄞]{0,12}"]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_worker_says_can_be_read_back(
        task_id in text(), other in text(), exit_code in any::<i32>(), reason in 0..FailureReason::ALL.len(),
    ) {
        let failure_reason = FailureReason::ALL[reason];
        let reason = "worker at maximum concurrency";
        let (id, worker_id, message) = (task_id.clone(), other.clone(), other.clone());
        let mut failed = json!({"task_id": id, "message": other, "failure_reason": failure_reason.as_str()});
        if exit_code != 0 {
            failed["exit_code"] = json!(exit_code);
        }
        let (yes, cancelled) = ("yes", Some("CANCELLED"));
        for (said, kind, data, is_end) in [
            (
                WorkerMessage::TaskClaimed { task_id: id.clone(), worker_id },
                "task_claimed",
                json!({"task_id": id, "worker_id": other}),
                false,
            ),
            (
                WorkerMessage::TaskRejected { task_id: id.clone(), reason },
                "task_rejected",
                json!({"task_id": id, "reason": reason}),
                false,
            ),
            (
                WorkerMessage::TaskCompleted { task_id: id.clone(), message: yes, task_state: None },
                "task_completed",
                json!({"task_id": id, "message": yes}),
                true,
            ),
            (
                WorkerMessage::TaskCompleted { task_id: id.clone(), message: yes, task_state: cancelled },
                "task_completed",
                json!({"task_id": id, "message": yes, "task_state": "CANCELLED"}),
                true,
            ),
            (
                WorkerMessage::TaskFailed { task_id: id.clone(), message, failure_reason, exit_code },
                "task_failed",
                failed,
                true,
            ),
        ] {
            let read: Value = serde_json::from_str(&said.encode()).unwrap();
            prop_assert_eq!(read, json!({"type": kind, "data": data}));
            prop_assert_eq!((said.task_id(), said.is_end()), (task_id.as_str(), is_end));
        }
    }

    #[test]
    fn what_the_server_writes_is_read_whatever_the_order_and_the_white_space(
        task_id in text(), execution_id in proptest::option::of(text()), title in text(), prompt in text(),
        data_first in any::<bool>(), pretty in any::<bool>(),
    ) {
        let task = json!({"title": title, "task_definition": {"prompt": prompt}, "unknown": [1.50, null]});
        let data = json!({"task_id": task_id, "execution_id": execution_id, "task": task, "unknown": {}});
        let write = |value: &Value| if pretty { format!("\n{value:#} ") } else { value.to_string() };
        let in_order = |kind: &str, data: &Value| {
            let (kind, data) = (format!(r#""type":"{kind}""#), format!(r#""data":{}"#, write(data)));
            if data_first { format!("{{{data},{kind}}}") } else { format!("{{{kind}, {data}}}") }
        };
        let assigned = in_order("task_assignment", &data);
        let Ok(ServerMessage::TaskAssignment(read)) = decode(&assigned) else {
            return Err(TestCaseError::fail(assigned));
        };
        prop_assert_eq!(read.task_id.as_str(), &task_id);
        prop_assert_eq!(read.execution_id(), execution_id.as_deref());
        prop_assert_eq!(read.title(), &title);
        let started = start(&assigned).unwrap();
        prop_assert!(assigned.contains(&started), "the task is handed on as it came: {started}");
        prop_assert_eq!(serde_json::from_str::<Value>(&started).unwrap(), task);
        let cancelled = in_order("task_cancellation", &json!({"task_id": task_id}));
        let Ok(ServerMessage::TaskCancellation { task_id: read }) = decode(&cancelled) else {
            return Err(TestCaseError::fail(cancelled));
        };
        prop_assert_eq!(read, task_id);
    }

    #[test]
    fn no_text_is_too_odd_to_be_decoded(text in text(), value in json_value(), data in json_value()) {
        let _ = decode(&text);
        let _ = decode(&value.to_string());
        for kind in ["task_assignment", "task_cancellation", "task_claimed"] {
            let _ = decode(&json!({"type": kind, "data": data}).to_string());
        }
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    let key =
        prop_oneof![Just("type".to_owned()), Just("data".into()), Just("task_id".into()), Just("task".into()), text()];
    leaf.prop_recursive(4, 32, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..5)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn config() -> Config {
    Config {
        worker_id: "w".into(),
        max_concurrent_tasks: 0,
        drain_timeout: core::time::Duration::ZERO,
        stop_timeout: core::time::Duration::from_secs(1),
        stops_tasks_on_shutdown: true,
        after_kill: AfterKill::Fails,
        journal: false,
        agent: AgentSettings::default(),
    }
}

/// What a connected worker does with a frame.
fn outputs(text: &str) -> Vec<Output> {
    outputs_with(config(), text)
}

fn outputs_with(config: Config, text: &str) -> Vec<Output> {
    let mut worker = Worker::new(config, 0);
    for input in [Input::Timeout, Input::Connected] {
        worker.handle(Instant::default(), input);
    }
    while worker.poll_output().is_some() {}
    worker.handle(Instant::default(), Input::Text(text));
    core::iter::from_fn(|| worker.poll_output()).collect()
}

/// The `task` that a backend gets for an assignment, when it gets one.
fn start(text: &str) -> Option<String> {
    outputs(text).into_iter().find_map(|output| match output {
        Output::StartTask { spec, .. } => Some(spec.task.expose().to_owned()),
        _ => None,
    })
}

/// What a field has to be; `Any` of one that nothing depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Whole,
    Switch,
    List,
    Object,
    Any,
}

/// The type of each field that decides what runs (`docs/protocol.md`, Messages). `*` stands for any name or place.
const FIELDS: &[(Kind, &[&str])] = &[
    (
        Kind::Text,
        &[
            "task_id",
            "execution_id",
            "docker_image",
            "sidecar_image",
            "env_vars/*",
            "additional_oz_args/*",
            "additional_sidecars/*/image",
            "additional_sidecars/*/mount_path",
            "task/owner/Type",
            "task/agent_config_snapshot/environment_id",
            "task/agent_config_snapshot/model_id",
            "task/agent_config_snapshot/profile_id",
            "task/agent_config_snapshot/skill_spec",
            "task/agent_config_snapshot/harness/type",
            "task/agent_config_snapshot/inference_providers/aws/region",
            "task/agent_config_snapshot/inference_providers/aws/role_arn",
            "task/agent_config_snapshot/session_sharing/public_access",
        ],
    ),
    (
        Kind::Object,
        &[
            "task",
            "env_vars",
            "additional_sidecars/*",
            "instance_shape",
            "task/owner",
            "task/agent_config_snapshot",
            "task/agent_config_snapshot/mcp_servers",
            "task/agent_config_snapshot/harness",
            "task/agent_config_snapshot/inference_providers",
            "task/agent_config_snapshot/inference_providers/aws",
            "task/agent_config_snapshot/session_sharing",
        ],
    ),
    (Kind::List, &["additional_oz_args", "additional_sidecars"]),
    (
        Kind::Whole,
        &[
            "instance_shape/vcpus",
            "instance_shape/memory_gb",
            "task/agent_config_snapshot/idle_timeout_minutes",
            "task/agent_config_snapshot/snapshot_upload_timeout_secs",
            "task/agent_config_snapshot/snapshot_script_timeout_secs",
        ],
    ),
    (
        Kind::Switch,
        &[
            "additional_sidecars/*/read_write",
            "task/agent_config_snapshot/computer_use_enabled",
            "task/agent_config_snapshot/snapshot_disabled",
        ],
    ),
];

fn kind_of(path: &[String]) -> Kind {
    let matches = |pattern: &str| {
        let parts: Vec<&str> = pattern.split('/').collect();
        parts.len() == path.len() && parts.iter().zip(path).all(|(part, name)| *part == "*" || part == name)
    };
    FIELDS.iter().find(|(_, paths)| paths.iter().any(|path| matches(path))).map_or(Kind::Any, |(kind, _)| *kind)
}

fn kind_is(kind: Kind, value: &Value) -> bool {
    match kind {
        Kind::Text => value.is_string(),
        Kind::Whole => value.is_i64(),
        Kind::Switch => value.is_boolean(),
        Kind::List => value.is_array(),
        Kind::Object => value.is_object(),
        Kind::Any => true,
    }
}

/// Every place in a value, as the names on the way to it.
fn places(value: &Value, here: &[String], found: &mut Vec<Vec<String>>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(entries) => entries.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    for (name, child) in children {
        let path: Vec<String> = here.iter().cloned().chain([name]).collect();
        places(child, &path, found);
        found.push(path);
    }
}

/// The value with something else at a place, or with nothing there.
fn changed(value: &Value, path: &[String], new: Option<&Value>) -> Value {
    let mut changed = value.clone();
    let (name, parents) = path.split_last().unwrap();
    let parent = parents.iter().fold(&mut changed, |value, name| match value {
        Value::Array(items) => &mut items[name.parse::<usize>().unwrap()],
        value => &mut value[name.as_str()],
    });
    match (parent, new) {
        (Value::Array(items), Some(new)) => items[name.parse::<usize>().unwrap()] = new.clone(),
        (Value::Array(items), None) => drop(items.remove(name.parse().unwrap())),
        (Value::Object(entries), Some(new)) => drop(entries.insert(name.clone(), new.clone())),
        (parent, None) => drop(parent.as_object_mut().unwrap().remove(name)),
        (parent, _) => panic!("{parent} has no fields"),
    }
    changed
}

/// What may stand in a field's place. Text and number are such as stand nowhere else.
fn replacements() -> [Value; 6] {
    [json!(true), json!(918_273_645), json!(-918_273.5), json!("s3cret"), json!([]), json!({})]
}

/// What keeps an assignment from being understood, if anything does. It is answered then as far as it names its task, and
/// nothing that the server or a person is told repeats a value of it.
fn flaw_of(data: &Value, what: &str) -> Option<Flaw> {
    let text = json!({"type": "task_assignment", "data": data}).to_string();
    let (mut sent, mut told) = (Vec::new(), String::new());
    for output in outputs(&text) {
        match output {
            Output::Send(Frame::Text(text)) => {
                told.push_str(&text);
                sent.push(serde_json::from_str::<Value>(&text).unwrap());
            }
            Output::Notice(notice @ (Notice::MalformedAssignment { .. } | Notice::BadFrame(_))) => {
                let _ = write!(told, "{notice:?}");
                match notice {
                    Notice::MalformedAssignment { flaw, .. } => told.push_str(&flaw.to_string()),
                    Notice::BadFrame(BadFrame { problem, .. }) => told.push_str(&problem.to_string()),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    let error = match decode(&text) {
        Ok(ServerMessage::TaskAssignment(_)) => {
            assert_eq!(sent.len(), 1, "{what}");
            assert_eq!((&sent[0]["type"], start(&text).is_some()), (&json!("task_claimed"), true), "{what}");
            return None;
        }
        Err(error) => error,
        other => panic!("{what}: {other:?}"),
    };
    let _ = write!(told, "{error:?}");
    assert!(!told.contains("s3cret") && !told.contains("918"), "{what}: {told}");
    match error {
        DecodeError::MalformedAssignment { flaw, .. } => {
            assert_eq!(sent.len(), 1, "{what}");
            let answer = json!({"type": "task_failed", "data": {
                "task_id": data["task_id"],
                "message": format!("The assignment could not be understood: {flaw}"),
                "failure_reason": "unknown",
            }});
            assert_eq!(sent[0], answer, "{what}");
            Some(flaw)
        }
        DecodeError::Malformed { flaw, .. } => {
            assert!(sent.is_empty() && !data["task_id"].is_string(), "{what}");
            Some(flaw)
        }
        other => panic!("{what}: {other:?}"),
    }
}

/// The flaw of a field with a value of another type in it.
fn wrong(path: &[String], kind: Kind, found: &Value) -> Flaw {
    let mut field = String::new();
    for name in path {
        if name.parse::<usize>().is_ok() {
            let _ = write!(field, "[{name}]");
        } else {
            field.push_str(if field.is_empty() { "" } else { "." });
            field.push_str(name);
        }
    }
    let expected = match kind {
        Kind::Text => JsonType::String,
        Kind::Whole => JsonType::WholeNumber,
        Kind::Switch => JsonType::Boolean,
        Kind::List => JsonType::List,
        Kind::Object => JsonType::Object,
        Kind::Any => panic!("{path:?} may be anything"),
    };
    let found = match found {
        Value::Null => JsonType::Null,
        Value::Bool(_) => JsonType::Boolean,
        Value::Number(_) => JsonType::Number,
        Value::String(_) => JsonType::String,
        Value::Array(_) => JsonType::List,
        Value::Object(_) => JsonType::Object,
    };
    Flaw { field, kind: FlawKind::WrongType { expected, found } }
}

#[test]
fn every_recorded_assignment_without_one_of_its_fields_or_with_another_type_there() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/tasks.json");
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let mut tried = 0;
    for vector in vectors.as_array().unwrap() {
        let assignment = &vector["assignment"];
        let name = vector["name"].as_str().unwrap();
        assert_eq!(flaw_of(assignment, name), None);
        let mut found = Vec::new();
        places(assignment, &[], &mut found);
        for path in found {
            let required = ["task_id", "task"].contains(&path.join("/").as_str());
            let in_list = path.last().unwrap().parse::<usize>().is_ok();
            let kind = kind_of(&path);
            let removed = flaw_of(&changed(assignment, &path, None), name);
            let missing = || Flaw { field: path.join("."), kind: FlawKind::Missing };
            assert_eq!(removed, required.then(missing), "{name}: {path:?} removed");
            let null = flaw_of(&changed(assignment, &path, Some(&Value::Null)), name);
            let may_be_null = !required && (!in_list || kind == Kind::Any);
            let is_null = || wrong(&path, kind, &Value::Null);
            assert_eq!(null, (!may_be_null).then(is_null), "{name}: {path:?} null");
            for new in replacements() {
                let replaced = flaw_of(&changed(assignment, &path, Some(&new)), name);
                let is_wrong = || wrong(&path, kind, &new);
                assert_eq!(replaced, (!kind_is(kind, &new)).then(is_wrong), "{name}: {path:?} {new}");
                tried += 1;
            }
        }
    }
    assert!(tried > 2_000, "{tried}");
}

#[test]
fn what_is_started_shows_no_value_of_the_assignment_or_the_operator() {
    let canary = "c4nary";
    let snapshot = json!({"mcp_servers": {"m": {"token": canary}}, "base_prompt": canary});
    let task = json!({"task_definition": {"prompt": canary}, "agent_config_snapshot": snapshot});
    let env = json!({"NAME": canary});
    let data = json!({"task_id": "T", "task": task, "env_vars": env, "additional_oz_args": [canary]});
    let text = json!({"type": "task_assignment", "data": data}).to_string();
    let mut config = config();
    config.agent.environment.set("OTHER", canary);
    let shown = format!("{:?} {config:?} {:?}", decode(&text), outputs_with(config.clone(), &text));
    assert!(!shown.contains(canary), "{shown}");
    assert!(shown.contains("NAME") && shown.contains("OTHER"), "{shown}");
    assert!(shown.starts_with(r#"Ok(TaskAssignment(Assignment { task_id: "T", execution_id: None, .. }))"#), "{shown}");
}
