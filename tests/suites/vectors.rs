//! What operators' workers do today, case by case: `tests/vectors/` holds the recordings.

use std::{collections::BTreeMap, fs};

use oz_worker_tests::{
    agent::Agent,
    message::{Assignment, Cancellation},
    metrics::Labels,
    server::Server,
    worker::Launch,
};
use serde_json::{Value, json};

use crate::scene::Scene;

const TASKS: &str = include_str!("../vectors/tasks.json");
const DOTENV: &str = include_str!("../vectors/dotenv.json");
const FIRST_SCRAPE: &str = include_str!("../vectors/first-scrape.json");

/// Set by shells rather than by the worker.
const SHELL_VARIABLES: [&str; 5] = ["PATH", "PWD", "OLDPWD", "SHLVL", "_"];

/// What the host has beside `HOME`.
const HOST: [(&str, &str); 2] = [("HOSTVAR", "from-host"), ("WARP_API_KEY", "wk-secret")];

#[test]
fn every_recorded_task_goes_as_recorded() {
    let cases: Vec<Value> = serde_json::from_str(TASKS).unwrap();
    assert_eq!(cases.len(), 38);
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let name = case["name"].as_str().unwrap();
            let differences = std::panic::catch_unwind(|| differences(case)).unwrap_or_else(|panic| {
                vec![panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "panicked".to_owned())]
            });
            (!differences.is_empty()).then(|| format!("{name}:\n  {}", differences.join("\n  ")))
        })
        .collect();
    assert!(failures.is_empty(), "{} of {} cases differ\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// Runs a case and lists everything that is not as recorded.
fn differences(case: &Value) -> Vec<String> {
    let expect = &case["expect"];
    let frames = expect["frames"].as_array().unwrap();
    let is_direct = case["backend"] == "direct";
    let after = case["agent"].as_str().unwrap_or_default();
    let input = if is_direct { "" } else { "cat > \"$dir/payload-$task\"" };
    let agent = Agent::running(&format!("record \"$@\"\n{input}\nsay started\n{after}"));

    let server = Server::start();
    let mut launch = if is_direct { Launch::direct(&server, &agent) } else { Launch::command(&server, &agent) };
    launch = launch.worker_id("w1");
    for (name, value) in HOST {
        launch = launch.env(name, value);
    }
    for (key, value) in case["config"].as_object().into_iter().flatten() {
        launch = launch.config(key, value.clone());
    }
    for (key, value) in case["top"].as_object().into_iter().flatten() {
        launch = launch.top(key, value.clone());
    }
    let (dir, root) = (launch.dir().display().to_string(), launch.workspaces().display().to_string());
    for flag in case["flags"].as_array().into_iter().flatten() {
        launch = launch.flag(&flag.as_str().unwrap().replace("<dir>", &dir));
    }

    let worker = launch.start();
    let mut session = server.accept();
    session.send(Assignment::of(&case["assignment"]));
    let mut received = vec![session.recv()];
    let has_run = expect["argv"].is_array() || expect["payload"].is_object();
    if has_run {
        agent.wait_for("T1", "started");
    }
    if case["cancel"] == true {
        session.send(Cancellation::of("T1"));
    }
    received.extend((1..frames.len()).map(|_| session.recv()));
    if frames.len() == 1 {
        // Nothing more comes: a task after this one is answered first.
        session.send(Assignment::new("T2"));
        received.push(session.recv());
        assert_eq!(received.pop().unwrap()["data"]["task_id"], "T2");
    }

    let mut differences = Vec::new();
    let mut compare = |what: &str, expected: &Value, got: &Value| {
        if expected != got {
            differences.push(format!("{what}: expected {expected}\n  {:>1$} got {got}", "", what.len()));
        }
    };
    for (expected, got) in frames.iter().zip(&received) {
        compare("frame", &without_text(expected), &without_text(got));
    }
    let filled = |text: &str| text.replace("<ws>", &root).replace("<dir>", &dir);
    if has_run {
        let record = agent.record("T1");
        if let Some(arguments) = expect["argv"].as_array() {
            compare(
                "argv",
                &arguments_as_json(arguments),
                &arguments_as_json(&Value::from(record.arguments).as_array().unwrap().clone()),
            );
        }
        let expected: BTreeMap<String, String> = expect["env"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.clone(), filled(value.as_str().unwrap())))
            .collect();
        let got: BTreeMap<String, String> = record
            .environment
            .into_iter()
            .filter(|(name, _)| !SHELL_VARIABLES.contains(&name.as_str()) && !is_added(name))
            .map(|(name, value)| match expected.get(&name) {
                Some(wanted) if wanted.starts_with("GITCONFIGDIR/") => (name, any_private_directory(&value, &dir)),
                _ => (name, value),
            })
            .collect();
        compare("env", &json!(expected), &json!(got));
        if let Some(cwd) = expect["cwd"].as_str() {
            compare("cwd", &json!(filled(cwd)), &json!(record.directory));
        }
        if expect["payload"].is_object() {
            let payload: Value = serde_json::from_slice(&fs::read(agent.path("payload-T1")).unwrap()).unwrap();
            compare("payload", &normal(&expect["payload"]), &normal(&payload));
        }
    }
    // What is removed is removed before the end is reported. `--no-cleanup` keeps the workspace (`docs/backends.md`); it
    // was recorded as removed all the same.
    let left = if case["name"] == "no-cleanup" { &json!(["T1"]) } else { &expect["left_in_workspace_root"] };
    compare("left in the workspace root", left, &json!(worker.launch.left_in_workspaces()));
    differences
}

/// A message without the text that the worker may word as it likes.
fn without_text(frame: &Value) -> Value {
    let mut frame = frame.clone();
    if frame["type"] == "task_failed" {
        frame["data"].as_object_mut().unwrap().shift_remove("message");
    }
    frame
}

/// Arguments, with the one after `--mcp` as the JSON that it is.
fn arguments_as_json(arguments: &[Value]) -> Value {
    let mut after_mcp = false;
    let parse = |argument: &Value| {
        let is_mcp = std::mem::replace(&mut after_mcp, argument == "--mcp");
        if is_mcp { serde_json::from_str(argument.as_str().unwrap()).unwrap() } else { argument.clone() }
    };
    arguments.iter().map(parse).collect()
}

/// A payload whose `base_args` are compared like arguments.
fn normal(payload: &Value) -> Value {
    let mut payload = payload.clone();
    payload["base_args"] = arguments_as_json(payload["base_args"].as_array().unwrap());
    // What the worker adds to every task's environment.
    payload["env"].as_object_mut().unwrap().retain(|name, _| !is_added(name));
    payload
}

/// Variables that `docs/backends.md` adds to what was recorded: the token by which a task's processes are known.
fn is_added(name: &str) -> bool {
    name == "OZ_WORKER_TASK_TOKEN" || name == "TRACEPARENT"
}

/// `GITCONFIGDIR/.gitconfig` if the file lies outside of the operator's directories.
fn any_private_directory(path: &str, dir: &str) -> String {
    match path.strip_suffix("/.gitconfig") {
        Some(parent) if !parent.starts_with(&format!("{dir}/home")) => "GITCONFIGDIR/.gitconfig".to_owned(),
        _ => path.to_owned(),
    }
}

#[test]
fn every_recorded_file_of_variables_gives_what_it_gave() {
    let setup = r#"printf %s "$FILE" | base64 -d > "$OZ_ENVIRONMENT_FILE""#;
    let mut scene = Scene::with(|launch| launch.config("setup_command", setup));
    let cases: Vec<Value> = serde_json::from_str(DOTENV).unwrap();
    assert_eq!(cases.len(), 35);
    for (number, case) in cases.iter().enumerate() {
        let (task_id, variable) = (format!("T{number}"), case["variable"].as_str().unwrap());
        let script = format!("say value \"$(printf %s \"${{{variable}-<unset>}}\" | /usr/bin/base64 -w0).\"");
        let assignment = Assignment::new(&task_id).env("FILE", case["file_base64"].as_str().unwrap()).run(&script);
        assert_eq!(scene.run(&assignment)["type"], "task_completed", "{case}");
        let value = scene.agent.hear(&task_id, "value");
        let value = data_encoding::BASE64.decode(value.trim_end_matches('.').as_bytes()).unwrap();
        let value = String::from_utf8(value).unwrap();
        // Where a line cannot be read, only that line is lost (`docs/backends.md`); the whole file was.
        let wanted = match case["name"].as_str().unwrap() {
            "BOM" | "env with function" => "v",
            "bare" | "dash in name" => "1",
            "PATH expansion" => {
                assert!(value.starts_with("/opt/x/bin:/"), "{value}");
                continue;
            }
            _ => case["value"].as_str().unwrap(),
        };
        assert_eq!(value, wanted, "{case}");
    }
}

#[test]
fn the_first_scrape_has_every_recorded_series() {
    let recorded: BTreeMap<String, Value> = serde_json::from_str(FIRST_SCRAPE).unwrap();
    let scene = Scene::with(|launch| launch.with_metrics().worker_id("w1").flags(["--max-concurrent-tasks", "1"]));
    let scrape = scene.worker.wait_for_metric("oz_worker_connected", &[], 1.0);
    for (name, expected) in &recorded {
        let family = scrape.families.get(name).unwrap_or_else(|| panic!("no family {name}"));
        assert_eq!(family.kind, expected["type"].as_str().unwrap(), "kind of {name}");
        for series in expected["labels"].as_array().unwrap() {
            let mut labels: Labels = serde_json::from_value(series["set"].clone()).unwrap();
            if let Some(version) = labels.get_mut("version") {
                // The recorded build's own version: any is as good.
                let key = family.samples.keys().next().unwrap();
                version.clone_from(&key.1["version"]);
            }
            let value = family.samples.get(&(name.clone(), labels.clone()));
            assert_eq!(value.copied(), series["value"].as_f64(), "{name} {labels:?}");
        }
    }
}
