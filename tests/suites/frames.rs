//! Frames that are no good: at most one warning each, never a panic, and the worker goes on.

use oz_worker_tests::{connection::Received, message::Assignment};
use serde_json::{Value, json};
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::scene::Scene;

/// Text in payloads that no log line may repeat.
const CANARY: &str = "payload-canary-3c1f";

/// Largest frame that the protocol allows (`docs/protocol.md`).
const MAX_FRAME: usize = 16 << 20;

#[test]
fn text_that_is_no_message_is_one_warning_without_the_payload() {
    let mut scene = Scene::new();
    let texts = [
        CANARY.to_owned(),
        String::new(),
        "{".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        format!("\"{CANARY}\""),
        "{}".to_owned(),
        json!({"type": "task_assignment"}).to_string(),
        json!({"type": "task_assignment", "data": null}).to_string(),
        json!({"type": "task_assignment", "data": [CANARY]}).to_string(),
        json!({"type": "task_cancellation", "data": {"task": CANARY}}).to_string(),
        json!({"type": "task_cancellation", "data": {"task_id": 7}}).to_string(),
        json!({"type": "no_such_type", "data": {"x": CANARY}}).to_string(),
        json!({"type": 7, "data": {"x": CANARY}}).to_string(),
        json!({"type": null}).to_string(),
        "[".repeat(100_000),
        format!(r#"{{"type":"task_assignment","data":{}"#, r#"{"a":"#.repeat(50_000)),
        "{\"type\":\"task_cancellation\",\"data\":{\"task_id\":\"\\ud800\"}}".to_owned(),
    ];
    for (count, text) in texts.iter().enumerate() {
        scene.session.text(text);
        let task_id = format!("after-{count}");
        scene.still_works(&task_id);
        let warnings = scene.warnings_before(&task_id);
        assert_eq!(warnings.len(), count + 1, "after {text:.100}: {warnings:#?}");
    }
    assert!(scene.worker.lines_with(CANARY).is_empty(), "a payload is in the log");
}

#[test]
fn binary_frame_is_one_warning() {
    let mut scene = Scene::new();
    scene.session.binary(Assignment::new("T0").as_ref().to_string().as_bytes());
    scene.still_works("T1");
    assert_eq!(scene.warnings_before("T1").len(), 1);
}

#[test]
fn message_in_fragments_is_one_message() {
    let mut scene = Scene::new();
    let text = Assignment::new("T1").with("docker_image", "héllo".into()).as_ref().to_string();
    let bytes = text.as_bytes();
    // Cut in the middle of the two bytes of é, and with an empty fragment.
    let cut = text.find('é').unwrap() + 1;
    scene.session.fragments(&[&bytes[..10], &bytes[10..cut], b"", &bytes[cut..]]);
    assert_eq!(scene.session.expect("task_claimed")["task_id"], "T1");
    scene.session.expect("task_completed");
    // A control frame may come between two fragments.
    let bytes = Assignment::new("T2").as_ref().to_string().into_bytes();
    scene.session.frame(bytes[..20].to_vec(), OpCode::Data(Data::Text), false);
    scene.session.ping(b"between");
    scene.session.frame(bytes[20..].to_vec(), OpCode::Data(Data::Continue), true);
    scene.session.expect_pong(b"between");
    assert_eq!(scene.session.expect("task_claimed")["task_id"], "T2");
    scene.session.expect("task_completed");
}

#[test]
fn largest_frame_is_taken() {
    let mut scene = Scene::new();
    let mut text = Assignment::new("T1").as_ref().to_string();
    text.push_str(&" ".repeat(MAX_FRAME - text.len()));
    scene.session.text(&text);
    assert_eq!(scene.session.expect("task_claimed")["task_id"], "T1");
    scene.session.expect("task_completed");
}

/// The worker closes with 1009, comes back, and works.
fn is_closed_as_too_large(scene: &mut Scene) {
    assert_eq!(scene.session.expect_close(), Some(1009));
    scene.session.hang_up();
    scene.accept_again();
    scene.still_works("T1");
}

#[test]
fn frame_over_16_mib_closes_with_1009() {
    let mut scene = Scene::new();
    // Only the header and a part: nobody has to wait for the rest to know that it is too long.
    let mut frame = vec![0x81, 127];
    frame.extend((MAX_FRAME as u64 + 1).to_be_bytes());
    frame.extend(vec![b' '; 64 << 10]);
    scene.session.raw(&frame);
    is_closed_as_too_large(&mut scene);
}

#[test]
fn message_over_16_mib_in_fragments_closes_with_1009() {
    let mut scene = Scene::new();
    let part = vec![b' '; 6 << 20];
    // The start of a text, its middle, its end: raw, because the worker may hang up in the middle.
    for first_byte in [0x01, 0x00, 0x80] {
        let mut frame = vec![first_byte, 127];
        frame.extend((part.len() as u64).to_be_bytes());
        frame.extend(&part);
        scene.session.raw(&frame);
    }
    is_closed_as_too_large(&mut scene);
}

#[test]
fn broken_frames_cost_the_connection_and_nothing_else() {
    let mut long_ping = [0; 130];
    long_ping[..4].copy_from_slice(&[0x89, 126, 0, 126]);
    let breaks: [(&str, &[u8], Option<u16>); 6] = [
        ("text that is not UTF-8", &[0x81, 2, 0xc3, 0x28], Some(1007)),
        ("a reserved opcode", &[0x83, 0], Some(1002)),
        ("a reserved bit", &[0xc1, 2, b'{', b'}'], Some(1002)),
        ("a fragmented Ping", &[0x09, 0], Some(1002)),
        ("a continuation of nothing", &[0x80, 0], Some(1002)),
        ("a Ping of 126 bytes", &long_ping, Some(1002)),
    ];
    std::thread::scope(|scope| {
        for (what, bytes, code) in breaks {
            scope.spawn(move || {
                let mut scene = Scene::new();
                scene.claim(&Assignment::new("running").run("say started; gate"));
                scene.agent.wait_for("running", "started");
                scene.session.raw(bytes);
                match scene.session.expect_end_within(oz_worker_tests::BOUND) {
                    // RFC 6455, 7.4.1.
                    Received::Close(got, _) => assert_eq!(got, code, "{what}"),
                    other => scene.session.fail(&format!("no Close frame after {what}, but {other:?}")),
                }
                scene.session.hang_up();
                scene.accept_again();
                scene.agent.open_gate();
                while scene.session.recv()["type"] != "task_completed" {}
                scene.still_works("next");
            });
        }
    });
}

#[test]
fn pong_that_nobody_asked_for_is_ignored() {
    let mut scene = Scene::new();
    for payload in [&b"1"[..], b"", b"18446744073709551616", &[0xff; 125]] {
        scene.session.frame(payload.to_vec(), OpCode::Control(Control::Pong), true);
    }
    scene.still_works("T1");
}

#[test]
fn pong_with_a_serial_that_no_ping_had_proves_nothing() {
    let mut scene = Scene::new();
    scene.session.answer_pings(false);
    scene.still_works("T1");
    let serial = scene.session.expect_ping_within(oz_worker_tests::BOUND);
    let number = u64::from_be_bytes(serial.as_slice().try_into().expect("8 bytes, big-endian: docs/protocol.md"));
    for wrong in [0, number - 1, number + 1, number << 32, u64::MAX] {
        scene.session.frame(wrong.to_be_bytes().to_vec(), OpCode::Control(Control::Pong), true);
    }
    // Nor the right one, cut or with more behind it.
    for wrong in [&serial[1..], &serial[..7], &[serial.as_slice(), b"x"].concat()] {
        scene.session.frame(wrong.to_vec(), OpCode::Control(Control::Pong), true);
    }
    scene.session.ping(b"all of them were read");
    scene.session.expect_pong(b"all of them were read");
    scene.session.hang_up();
    scene.accept_again();
    assert_eq!(scene.end_on_next_session("T1")["type"], "task_completed", "its end is not proven");
}

#[test]
fn garbled_repeat_of_a_run_is_answered_and_never_ends_it_again() {
    let mut scene = Scene::new();
    let repeats = |execution: Value| {
        let garbled = json!({"task_id": "T1", "execution_id": execution, "task": {}, "env_vars": 7});
        json!({"type": "task_assignment", "data": garbled}).to_string()
    };
    scene.claim(&Assignment::new("T1").with("execution_id", "E1".into()).run("say started; gate"));
    scene.agent.wait_for("T1", "started");
    for execution in [json!("E1"), json!(7)] {
        scene.session.text(&repeats(execution));
        assert_eq!(scene.session.expect("task_claimed")["task_id"], "T1");
    }
    scene.agent.open_gate();
    let end = scene.end_of("T1");
    scene.settle();
    for execution in [json!("E1"), json!(null)] {
        scene.session.text(&repeats(execution));
        assert_eq!(scene.session.expect("task_claimed")["task_id"], "T1");
        assert_eq!(scene.session.recv(), end);
    }
    scene.still_works("T2");
}

#[test]
fn half_an_escape_and_a_name_that_stands_twice_cost_no_task() {
    let mut scene = Scene::new();
    let script = r#"test \"$HALF$NAMES\" = \"a\ufffdtwo\""#;
    for (id, answered) in [(r"T\ud83d", "T\u{fffd}"), (r"U", "U")] {
        scene.session.text(&format!(
            r#"{{"type":"task_assignment","data":{{"task_id":"x","task_id":"{id}","\ud83d":["\udfff"],"task":{{"title":"\udc00"}},
            "env_vars":{{"HALF":"a\ud83d","NAMES":"one","NAMES":"two"}},"additional_oz_args":["{script}"]}}}}"#
        ));
        assert_eq!(scene.session.expect("task_claimed")["task_id"], answered);
        assert_eq!(scene.end_of(answered)["type"], "task_completed");
    }
    // What names its task is answered.
    scene.session.text(r#"{"type":"task_assignment","data":{"task_id":"V\ud83d","\ud83d":1,"task":7}}"#);
    assert_eq!(scene.session.expect("task_failed")["task_id"], "V\u{fffd}");
}

/// An assignment in which every field that the protocol knows is set.
fn complete() -> Value {
    json!({
        "task_id": "T", "execution_id": "E", "docker_image": "i:1", "sidecar_image": "s:1", "env_vars": {"A": "1"},
        "additional_sidecars": [{"image": "x", "mount_path": "/x", "read_write": true}],
        "additional_oz_args": ["--x"], "instance_shape": {"vcpus": 2, "memory_gb": 4},
        "task": {
            "id": "T", "title": "t", "task_definition": {"prompt": "p"}, "created_at": "2026-01-02T03:04:05Z",
            "updated_at": "2026-01-02T03:04:05Z", "owner": {"Type": "TEAM", "Id": 7}, "agent_conversation_id": "c",
            "agent_config_snapshot": {
                "environment_id": "e", "base_prompt": "b", "model_id": "m", "profile_id": "p", "skill_spec": "s",
                "mcp_servers": {"a": {"url": "u"}}, "computer_use_enabled": true, "idle_timeout_minutes": 5,
                "harness": {"type": "oz"}, "harness_auth_secrets": {"claude_auth_secret_name": "n"},
                "inference_providers": {"aws": {"disabled": false, "role_arn": "arn:x", "region": "r"}},
                "session_sharing": {"public_access": "VIEWER"}, "snapshot_disabled": true,
                "snapshot_upload_timeout_secs": 1, "snapshot_script_timeout_secs": 2
            }
        }
    })
}

/// JSON pointers of every object member and array element below a value.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    let below: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(name, value)| (format!("{at}/{name}"), value)).collect(),
        Value::Array(elements) => {
            elements.iter().enumerate().map(|(index, value)| (format!("{at}/{index}"), value)).collect()
        }
        _ => Vec::new(),
    };
    for (pointer, value) in below {
        pointers(value, &pointer, found);
        found.push(pointer);
    }
}

/// Fields that do not decide what runs: whatever stands there never costs the task (`docs/protocol.md`).
const HARMLESS: [&str; 4] = ["/task/owner/Id", "/task/created_at", "/task/updated_at", "/task/title"];

#[test]
fn every_field_may_be_null_and_of_any_type() {
    let mut scene = Scene::new();
    let mut fields = Vec::new();
    pointers(&complete(), "", &mut fields);
    assert!(fields.len() > 40);
    let strange = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1e300),
        json!(""),
        json!("text"),
        json!([]),
        json!([null]),
        json!({}),
        json!({"x": null}),
    ];
    let mut count = 0;
    for field in fields.iter().filter(|field| *field != "/task_id") {
        for value in &strange {
            count += 1;
            let task_id = format!("T{count}");
            let mut data = complete();
            data["task_id"] = task_id.clone().into();
            *data.pointer_mut(field).unwrap() = value.clone();
            scene.session.send(Assignment::of(&data));
            // Understood: claimed and run. Not understood: failed, and said so.
            let mut answer = scene.session.recv();
            if answer["type"] == "task_claimed" {
                answer = scene.session.recv();
            }
            assert_eq!(answer["data"]["task_id"].as_str(), Some(task_id.as_str()), "{field} = {value}");
            let is_required = field == "/task" || field.starts_with("/additional") && field.matches('/').count() > 1;
            let must_run =
                HARMLESS.contains(&field.as_str()) || value.is_null() && !is_required && field != "/env_vars/A";
            match answer["type"].as_str() {
                Some("task_completed") => {}
                Some("task_failed") if !must_run => {
                    assert_eq!(answer["data"]["failure_reason"], "unknown", "{field} = {value}: {answer}");
                }
                _ => scene.session.fail(&format!("{field} = {value} was answered with {answer}")),
            }
        }
    }
    scene.still_works("last");
}

#[test]
fn every_field_but_the_required_ones_may_be_missing() {
    let mut scene = Scene::new();
    let mut fields = Vec::new();
    pointers(&complete(), "", &mut fields);
    for (count, field) in fields.iter().enumerate() {
        let (parent, name) = field.rsplit_once('/').unwrap();
        let mut data = complete();
        data["task_id"] = format!("T{count}").into();
        let Some(parent) = data.pointer_mut(parent).and_then(Value::as_object_mut) else { continue };
        parent.shift_remove(name);
        if ["/task_id", "/task"].contains(&field.as_str()) || field.starts_with("/additional_sidecars/") {
            continue;
        }
        let end = scene.run(&Assignment::of(&data));
        assert_eq!(end["type"], "task_completed", "without {field}");
    }
}

#[test]
fn task_id_of_any_other_type_is_one_warning() {
    let mut scene = Scene::new();
    for (count, value) in [json!(null), json!(7), json!(["T"]), json!({"T": 1}), json!(true)].into_iter().enumerate() {
        scene.session.send(Assignment::new("T").with("task_id", value));
        let task_id = format!("after-{count}");
        scene.still_works(&task_id);
        assert_eq!(scene.warnings_before(&task_id).len(), count + 1);
    }
    scene.session.send(Assignment::new("T").without("task_id"));
    scene.still_works("last");
    assert_eq!(scene.warnings_before("last").len(), 6);
}
