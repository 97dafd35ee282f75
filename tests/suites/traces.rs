//! Traces: one span per task, what the agent sees of it, and that the log names the same trace.

use std::{collections::BTreeMap, fs, net::TcpListener};

use oz_worker_tests::{
    agent::Agent,
    message::{Assignment, Cancellation},
    spans::{Span, SpanReceiver},
    worker::Launch,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::scene::Scene;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A worker with the direct backend that traces.
fn traced(adjust: impl FnOnce(Launch) -> Launch) -> (Scene, SpanReceiver) {
    let receiver = SpanReceiver::start();
    (Scene::with(|launch| receiver.trace(adjust(launch))), receiver)
}

/// A worker with the command backend that traces.
fn traced_command(script: &str, adjust: impl FnOnce(Launch) -> Launch) -> (Scene, SpanReceiver) {
    let receiver = SpanReceiver::start();
    let dispatch = Agent::running(&format!("record \"$@\"; cat > \"$dir/payload-$task\"; say dispatched\n{script}"));
    (Scene::command(dispatch, |launch| receiver.trace(adjust(launch))), receiver)
}

/// The trace context that the agent of a task saw.
fn seen(scene: &Scene, task_id: &str) -> Option<String> {
    scene.agent.record(task_id).environment.get("TRACEPARENT").cloned()
}

fn pairs(attributes: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
    attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[test]
fn a_task_is_one_span_with_its_steps_below_it_and_its_agent_is_part_of_the_trace() {
    let (mut scene, receiver) = traced(|launch| launch.config("setup_command", "echo \"context $TRACEPARENT\""));
    scene.run(&Assignment::new("T1").run("record"));
    let span = receiver.span_of("T1");
    assert_eq!(seen(&scene, "T1"), Some(span.traceparent()));
    scene.worker.wait_for_line(&format!("context {}", span.traceparent()));
    let worker_id = scene.worker.launch.id();
    let attributes =
        [("task.id", "T1"), ("task.title", "A test's task"), ("worker.backend", "direct"), ("worker.id", worker_id)];
    assert_eq!(pairs(&span.attributes), attributes);
    assert_eq!(
        span.event_names(),
        ["task.assigned", "task.claimed", "task.started", "backend.started", "task.completed"]
    );
    assert_eq!((span.status.as_str(), span.parent_span_id.as_str()), ("ok", ""));
    assert_eq!(span.resource["service.name"], "oz-agent-worker");
    assert_eq!(span.resource["worker.id"], worker_id);
    let times: Vec<u64> = span.events.iter().map(|event| event.time).collect();
    assert!(times.is_sorted() && span.start <= times[0] && times[4] <= span.end, "{span:#?}");
    scene.still_works("T2");
    assert_ne!(receiver.span_of("T2").trace_id, span.trace_id);
    let spans = receiver.spans();
    let steps = spans.iter().filter(|step| step.parent_span_id == span.span_id && step.trace_id == span.trace_id);
    assert!(steps.map(|step| step.name.as_str()).eq(["oz_worker.task.setup", "oz_worker.task.run"]), "{spans:#?}");
    assert_eq!(spans.len(), 2 * 3);
}

#[test]
fn what_fails_is_an_error_with_its_reason() {
    let (mut scene, receiver) = traced(|launch| launch.config("teardown_command", "exit 7"));
    scene.fail(&Assignment::new("T1").run("exit 3"));
    let span = receiver.span_of("T1");
    assert_eq!(span.event_names()[4..], ["cleanup.failed", "task.failed"]);
    assert_eq!(
        pairs(&span.event("task.failed").attributes),
        [
            ("error.message", "the agent exited with code 3"),
            ("failure.phase", "backend"),
            ("failure.reason", "agent_invocation")
        ]
    );
    assert_eq!(
        pairs(&span.event("cleanup.failed").attributes),
        [
            ("error.message", "the teardown command exited with code 7"),
            ("failure.phase", "cleanup"),
            ("failure.reason", "teardown_command")
        ]
    );
    assert_eq!(span.status, "error: the agent exited with code 3");
    // What follows a task never changes its result.
    scene.run(&Assignment::new("T2"));
    assert_eq!(receiver.span_of("T2").status, "ok");
}

#[test]
fn a_task_that_cannot_be_set_up_never_starts_its_backend() {
    let (mut scene, receiver) = traced(|launch| launch.config("setup_command", "exit 7"));
    scene.fail(&Assignment::new("T1"));
    let span = receiver.span_of("T1");
    assert_eq!(span.event_names(), ["task.assigned", "task.claimed", "task.started", "task.failed"]);
    assert_eq!(span.event("task.failed").attributes["failure.reason"], "setup_command");
}

#[test]
fn a_cancelled_task_says_who_wanted_it_and_is_no_error() {
    let (mut scene, receiver) = traced(|launch| launch);
    scene.claim(&Assignment::new("T1").run("say started; sleep 600"));
    scene.agent.wait_for("T1", "started");
    scene.cancel("T1");
    let span = receiver.span_of("T1");
    // The agent may say that it has started before the worker knows, and be cancelled in between.
    let mut events = span.event_names();
    events.retain(|event| *event != "backend.started");
    assert_eq!(events[3..], ["task.cancellation_requested", "task.cancelled"]);
    assert_eq!(span.status, "ok");
}

#[test]
fn every_declined_task_has_a_span_of_its_own() {
    let (mut scene, receiver) = traced(|launch| launch.flags(["--max-concurrent-tasks", "1"]));
    scene.claim(&Assignment::new("T1").run("say started; gate"));
    for task_id in ["R1", "R2", "R3"] {
        scene.session.send(Assignment::new(task_id));
        scene.session.expect("task_rejected");
        let span = receiver.span_of(task_id);
        assert_eq!(span.event_names(), ["task.assigned", "task.rejected"]);
        assert_eq!(span.event("task.rejected").attributes["reason"], "at_capacity");
        assert_eq!((span.status.as_str(), span.attributes["task.title"].as_str()), ("ok", "A test's task"));
    }
    scene.session.send(Assignment::new("T1").execution("another"));
    scene.session.expect("task_rejected");
    assert_eq!(receiver.span_of("T1").event("task.rejected").attributes["reason"], "already_running");
    scene.agent.open_gate();
    scene.end_of("T1");
    scene.session.send(Assignment::of(&json!({"task_id": "M1", "task": 7})));
    scene.session.expect("task_failed");
    let span = receiver.span_of("M1");
    assert_eq!(span.event_names(), ["task.assigned", "task.failed"]);
    assert_eq!(span.event("task.failed").attributes["failure.phase"], "assignment");
    assert!(span.status.starts_with("error: "), "{span:#?}");
}

#[test]
fn a_trace_context_of_the_assignment_or_the_operator_is_the_parent() {
    let (mut scene, receiver) = traced(|launch| launch);
    scene.run(&Assignment::new("T1").env("TRACEPARENT", PARENT).env("TRACESTATE", "a=b").run("record"));
    let span = receiver.span_of("T1");
    assert_eq!((span.trace_id.as_str(), span.parent_span_id.as_str()), (&PARENT[3..35], &PARENT[36..52]));
    assert_eq!(seen(&scene, "T1"), Some(span.traceparent()));
    assert_eq!(scene.agent.record("T1").environment["TRACESTATE"], "a=b");

    let (mut scene, receiver) = traced(|launch| launch.flags(["-e", &format!("TRACEPARENT={PARENT}")]));
    scene.run(&Assignment::new("T1").env("TRACEPARENT", "nonsense").run("record"));
    let span = receiver.span_of("T1");
    assert_eq!(span.parent_span_id, PARENT[36..52]);
    assert_eq!(seen(&scene, "T1"), Some(span.traceparent()));
}

#[test]
fn the_dispatch_command_and_what_it_hands_over_are_part_of_the_trace() {
    let (mut scene, receiver) = traced_command("", |launch| launch);
    scene.claim(&Assignment::new("T1"));
    scene.agent.wait_for("T1", "dispatched");
    let span = receiver.span_of("T1");
    assert_eq!(
        span.event_names(),
        ["task.assigned", "task.claimed", "task.started", "backend.started", "task.dispatched"]
    );
    assert_eq!((span.status.as_str(), span.attributes["worker.backend"].as_str()), ("ok", "command"));
    assert_eq!(seen(&scene, "T1"), Some(span.traceparent()));
    let payload: Value = serde_json::from_slice(&fs::read(scene.agent.path("payload-T1")).unwrap()).unwrap();
    assert_eq!(payload["env"]["TRACEPARENT"], span.traceparent());
}

#[test]
fn cancelling_what_was_handed_over_is_a_span_below_it() {
    let (mut scene, receiver) =
        traced_command("", |launch| launch.config("cancel_command", "echo \"context $TRACEPARENT\"; exit 3"));
    scene.claim(&Assignment::new("T1"));
    let task = receiver.span_of("T1");
    scene.session.send(Cancellation::of("T1"));
    let cancellation = receiver.wait_for("oz_worker.task_cancellation", "T1");
    assert_eq!((&cancellation.trace_id, &cancellation.parent_span_id), (&task.trace_id, &task.span_id));
    assert_eq!(cancellation.event_names(), ["task.cancellation_requested", "cancel.failed"]);
    assert_eq!(cancellation.status, "error: the cancel command exited with code 3");
    scene.worker.wait_for_line(&format!("context {}", cancellation.traceparent()));
}

#[test]
fn a_dispatch_that_is_cancelled_half_way_tells_of_a_failing_cancel_command_too() {
    let adjust = |launch: Launch| launch.with_metrics().config("cancel_command", "exit 3");
    let (mut scene, receiver) = traced_command("say started; sleep 600", adjust);
    scene.claim(&Assignment::new("T1"));
    scene.agent.wait_for("T1", "started");
    scene.cancel("T1");
    let span = receiver.span_of("T1");
    assert_eq!(span.event_names()[4..], ["task.cancellation_requested", "cancel.failed", "task.cancelled"]);
    let labels = [("phase", "cleanup"), ("reason", "cancel_command")];
    scene.worker.wait_for_metric("oz_worker_task_failures_total", &labels, 1.0);
}

#[test]
fn a_trace_that_is_not_sampled_is_passed_on_as_such_and_logged_but_not_exported() {
    let (mut scene, receiver) = traced(|launch| launch.env("OTEL_TRACES_SAMPLER", "always_off"));
    scene.run(&Assignment::new("T1").run("record"));
    let context = seen(&scene, "T1").unwrap();
    assert!(context.ends_with("-00"), "{context}");
    let line = scene.worker.wait_for_line("task succeeded");
    assert!(line.contains(&format!("trace_id={}", &context[3..35])), "{line}");
    leave(scene);
    assert!(receiver.spans().is_empty());
}

/// Asks the worker to stop, and waits until it has.
fn leave(mut scene: Scene) -> String {
    scene.worker.signal(Signal::TERM);
    scene.session.expect_end_within(oz_worker_tests::BOUND);
    scene.session.hang_up();
    let ended = scene.worker.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stdout
}

#[test]
fn spans_of_tasks_that_run_when_the_worker_leaves_are_exported_before_it_has_gone() {
    // So late that only the end of the worker can export it.
    let (mut scene, receiver) = traced(|launch| launch);
    let launch = scene.worker.launch.clone().env("OTEL_BSP_SCHEDULE_DELAY", "3600000");
    drop(scene.worker);
    scene.worker = launch.start();
    scene.accept_again();
    scene.claim(&Assignment::new("T1").run("say started; sleep 600"));
    scene.agent.wait_for("T1", "started");
    scene.worker.signal(Signal::TERM);
    scene.session.expect("task_failed");
    assert_eq!(scene.session.expect_close(), Some(1000));
    scene.session.hang_up();
    assert_eq!(scene.worker.exit().code(), Some(0));
    // Nobody waits here: it was received before the worker had gone.
    let spans = receiver.spans();
    assert!(spans.iter().map(|span| span.name.as_str()).eq(["oz_worker.task.run", "oz_worker.task"]), "{spans:#?}");
    assert_eq!(spans[1].event("task.failed").attributes["failure.reason"], "graceful_shutdown");
}

#[test]
fn the_console_shows_spans_on_standard_output_and_nothing_of_them_elsewhere() {
    let mut scene = Scene::with(|launch| launch.env("OTEL_TRACES_EXPORTER", "console"));
    scene.run(&Assignment::new("T1").with("task", json!({"title": "two\nlines"})).run("record"));
    let context = seen(&scene, "T1").unwrap();
    let stdout = leave(scene);
    for text in ["Spans", "oz_worker.task", "task.completed", &context[3..35], &context[36..52], r"two\nlines"] {
        assert!(stdout.contains(text), "{text}: {stdout}");
    }
}

#[test]
fn a_collector_that_never_answers_delays_neither_a_task_nor_the_way_out() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let mut scene = Scene::with(|launch| {
        launch
            .env("OTEL_TRACES_EXPORTER", "otlp")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
            .env("OTEL_BSP_SCHEDULE_DELAY", "10")
            // Longer than anything here may take.
            .env("OTEL_EXPORTER_OTLP_TIMEOUT", "600000")
            .env("OTEL_BSP_EXPORT_TIMEOUT", "600000")
    });
    for count in 0..20 {
        scene.still_works(&format!("T{count}"));
    }
    leave(scene);
}

#[test]
fn without_an_exporter_there_is_no_trace_anywhere() {
    for exporter in ["", "none", "carrier-pigeon"] {
        let mut scene = Scene::with(|launch| launch.env("OTEL_TRACES_EXPORTER", exporter));
        scene.run(&Assignment::new("T1").env("TRACEPARENT", "theirs").run("record"));
        assert_eq!(seen(&scene, "T1").as_deref(), Some("theirs"));
        scene.worker.wait_for_line("task succeeded");
        assert!(scene.worker.lines_with("trace_id").is_empty());
        let complaints = scene.worker.lines_with("carrier-pigeon");
        assert_eq!(complaints.len(), usize::from(exporter == "carrier-pigeon"), "{complaints:#?}");
    }
}

#[test]
fn a_title_without_end_is_cut() {
    let (mut scene, receiver) = traced(|launch| launch);
    scene.run(&Assignment::new("T1").with("task", json!({"title": "ä".repeat(1 << 20)})));
    assert_eq!(receiver.span_of("T1").attributes["task.title"], "ä".repeat(1024));
}

/// What the worker says about itself, and not about a task.
const OWN_LINES: [&str; 6] = [
    "oz-agent-worker starts",
    "connected",
    "metrics endpoint listening",
    "stopping",
    "disconnected",
    "ignored a frame",
];

/// Runs tasks that end in every way, and gives the log of it and the spans.
fn eventful_run(format: &str) -> (Vec<String>, Vec<Span>) {
    let (mut scene, receiver) = traced(|launch| {
        launch
            .flags(["--log-format", format, "--max-concurrent-tasks", "1"])
            .config("setup_command", "echo set up of $OZ_RUN_ID")
            .config("teardown_command", "echo torn down; exit 7")
    });
    fs::create_dir(scene.worker.launch.workspaces().join("there-before")).unwrap();
    scene.run(&Assignment::new("there-before").run("echo one; echo two >&2"));
    scene.fail(&Assignment::new("fails").run("echo three; exit 3"));
    scene.run(&Assignment::new("floods").run("seq 200000"));
    scene.claim(&Assignment::new("is-cancelled").run("echo four; say started; sleep 600"));
    scene.agent.wait_for("is-cancelled", "started");
    scene.session.send(Assignment::new("is-cancelled"));
    scene.session.expect("task_claimed");
    scene.session.send(Assignment::new("is-cancelled").execution("another"));
    scene.session.expect("task_rejected");
    scene.session.send(Assignment::new("is-rejected"));
    scene.session.expect("task_rejected");
    scene.session.send(Assignment::of(&json!({"task_id": "is-rejected-too", "task": 7})));
    scene.session.expect("task_rejected");
    scene.session.send(Assignment::of(&json!({"task_id": "is-cancelled", "task": 7})));
    scene.session.expect("task_claimed");
    scene.cancel("is-cancelled");
    scene.session.send(Cancellation::of("fails"));
    scene.session.send(Assignment::of(&json!({"task_id": "is-malformed", "task": 7})));
    scene.session.expect("task_failed");
    scene.session.text("no message");
    scene.claim(&Assignment::new("is-stopped").run("echo five; say started; sleep 600"));
    scene.agent.wait_for("is-stopped", "started");
    scene.worker.signal(Signal::TERM);
    scene.session.expect("task_failed");
    assert_eq!(scene.session.expect_close(), Some(1000));
    scene.session.hang_up();
    let ended = scene.worker.ended();
    assert_eq!(ended.code, Some(0));
    (ended.stderr.lines().map(str::to_owned).collect(), receiver.spans())
}

/// The traces of every task, by its id. Steps have none.
fn traces(spans: &[Span]) -> BTreeMap<&str, Vec<&str>> {
    let mut traces = BTreeMap::<_, Vec<_>>::new();
    for span in spans.iter().filter(|span| !span.task_id().is_empty()) {
        traces.entry(span.task_id()).or_default().push(span.trace_id.as_str());
    }
    traces
}

#[test]
fn every_line_about_a_task_names_it_and_its_trace_in_json() {
    let (lines, spans) = eventful_run("json");
    let traces = traces(&spans);
    assert_eq!(traces.len(), 8, "{traces:#?}");
    let mut told = BTreeMap::<String, usize>::new();
    for line in &lines {
        let event: Value = serde_json::from_str(line).unwrap();
        let message = event["message"].as_str().unwrap();
        if OWN_LINES.iter().any(|own| message.starts_with(own)) || message == "stopped" {
            assert!(event.get("task_id").is_none() && event.get("trace_id").is_none(), "{line}");
            continue;
        }
        let task_id = event["task_id"].as_str().unwrap_or_else(|| panic!("no task in {line}"));
        let trace_id = event["trace_id"].as_str().unwrap_or_else(|| panic!("no trace in {line}"));
        assert!(traces[task_id].contains(&trace_id), "{line}: {traces:#?}");
        *told.entry(task_id.to_owned()).or_default() += 1;
    }
    assert_eq!(told.keys().map(String::as_str).collect::<Vec<_>>(), traces.keys().copied().collect::<Vec<_>>());
    for kind in ["was there before", "cleanup failed", "task failed", "task rejected", "cannot be understood"] {
        assert!(lines.iter().any(|line| line.contains(kind)), "no line with {kind}");
    }
}

#[test]
fn an_end_that_may_be_lost_is_a_line_with_its_task_and_trace() {
    let (mut scene, receiver) = traced(|launch| launch);
    scene.claim(&Assignment::new("T1").run("say started; gate"));
    scene.agent.wait_for("T1", "started");
    scene.session.hang_up();
    scene.worker.wait_for_line("disconnected");
    scene.agent.open_gate();
    let span = receiver.span_of("T1");
    scene.worker.signal(Signal::TERM);
    scene.worker.wait_for_line("stopping");
    // Nobody answers the dial, and who asks again does not want to wait.
    scene.worker.signal(Signal::TERM);
    let named = format!("how this task ended task_id=T1 trace_id={}", span.trace_id);
    scene.worker.wait_for_line(&named);
    assert_eq!(scene.worker.exit().code(), Some(0));
}

#[test]
fn every_line_about_a_task_names_it_and_its_trace_as_text() {
    let (lines, spans) = eventful_run("text");
    let traces = traces(&spans);
    for line in &lines {
        let message = &line[31..];
        if OWN_LINES.iter().any(|own| message.starts_with(own)) || message == "stopped" {
            assert!(!line.contains("task_id=") && !line.contains("trace_id="), "{line}");
            continue;
        }
        let task_id = match line.split_once(" task_id=") {
            Some((_, after)) => after.split(' ').next().unwrap(),
            None => message.split(' ').next().unwrap(),
        };
        let (_, after) = line.split_once(" trace_id=").unwrap_or_else(|| panic!("no trace in {line}"));
        let named = traces.get(task_id).unwrap_or_else(|| panic!("no task in {line}"));
        assert!(named.contains(&after.split(' ').next().unwrap()), "{line}: {traces:#?}");
    }
}
