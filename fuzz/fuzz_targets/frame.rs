//! A frame as bytes: it is understood as any other reader of JSON understands it, whatever stands first in it, and what is
//! wrong with it is said without a value of it.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use oz_worker_core::agent::AgentSettings;
use oz_worker_core::message::{DecodeError, ServerMessage, decode};
use oz_worker_core::time::Instant;
use oz_worker_core::{AfterKill, Config, Frame, Input, Output, Worker};
use serde_json::Value;

const SECRET: &str = "s3cret";

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let _ = decode(text);
    handled(text);
    let Ok(value) = serde_json::from_str::<Value>(text) else { return };
    let Value::Object(frame) = &value else {
        assert_eq!(decode(text).unwrap_err(), DecodeError::NotJson);
        return;
    };
    // The same without a name that stands twice, with `data` first and with `type` first.
    let data_first = value.to_string();
    assert_eq!(essence(&data_first), essence(&type_first(frame)), "{data_first}");
    // Of a name that stands twice, the last counts.
    assert_eq!(decode(text).is_ok(), decode(&data_first).is_ok(), "{text}");
    if let Ok(ServerMessage::TaskAssignment(assignment)) = decode(&data_first) {
        let data = &frame["data"];
        assert_eq!(data["task_id"], assignment.task_id.as_str());
        assert_eq!(data["execution_id"].as_str(), assignment.execution_id());
        assert_eq!(data["task"]["title"].as_str().unwrap_or_default(), assignment.title());
    }
    // The type is shown, and the names of fields: the word may come from a value only.
    if !data_first.contains(SECRET) {
        let mut secret = value.clone();
        keep_nothing(&mut secret["data"]);
        let text = secret.to_string();
        assert!(!essence(&text).contains(SECRET), "{text}");
    }
});

fn type_first(frame: &serde_json::Map<String, Value>) -> String {
    let mut fields: Vec<(&String, &Value)> = frame.iter().collect();
    fields.sort_by_key(|(name, _)| *name != "type");
    let fields: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}:{value}", Value::from(name.as_str()))).collect();
    format!("{{{}}}", fields.join(","))
}

/// What a frame is understood as; of what is not understood, what is said about it.
fn essence(text: &str) -> String {
    match decode(text) {
        Ok(ServerMessage::TaskAssignment(_)) => "assignment".into(),
        Ok(ServerMessage::TaskCancellation { .. }) => "cancellation".into(),
        Err(DecodeError::MalformedAssignment { flaw, .. } | DecodeError::Malformed { flaw, .. }) => flaw.to_string(),
        Err(error) => format!("{error:?}"),
    }
}

/// Puts a secret in the place of every text.
fn keep_nothing(value: &mut Value) {
    match value {
        Value::String(text) => SECRET.clone_into(text),
        Value::Array(items) => items.iter_mut().for_each(keep_nothing),
        Value::Object(entries) => entries.values_mut().for_each(keep_nothing),
        _ => {}
    }
}

/// A connected worker answers a frame at most once, and hands a task on exactly as it came.
fn handled(text: &str) {
    let config = Config {
        worker_id: "w".into(),
        max_concurrent_tasks: 0,
        drain_timeout: Duration::ZERO,
        stop_timeout: Duration::from_secs(1),
        stops_tasks_on_shutdown: true,
        after_kill: AfterKill::Fails,
        journal: false,
        agent: AgentSettings::default(),
    };
    let mut worker = Worker::new(config, 0);
    for input in [Input::Timeout, Input::Connected, Input::Text(text)] {
        worker.handle(Instant::default(), input);
    }
    // What only a lenient reader takes is handed on mended.
    let is_strict = serde_json::from_str::<Value>(text).is_ok();
    let mut answers = 0;
    while let Some(output) = worker.poll_output() {
        match output {
            Output::Send(Frame::Text(answer)) => {
                assert!(serde_json::from_str::<Value>(&answer).is_ok(), "{answer}");
                answers += 1;
            }
            Output::StartTask { spec, .. } => assert!(!is_strict || text.contains(spec.task.expose())),
            _ => {}
        }
    }
    assert!(answers <= 1, "{text}");
}
