//! The command backend: what a dispatch is told, when it counts as failed, and that dispatched tasks are left alone.

use std::{fs, time::Duration};

use oz_worker_tests::{
    BOUND,
    agent::Agent,
    message::{Assignment, Cancellation},
    peers::skip_this,
    process::Watch,
    worker::Launch,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::scene::Scene;

/// A dispatch command that keeps its standard input, then does this.
fn dispatching(script: &str) -> Agent {
    Agent::running(&format!("record \"$@\"; cat > \"$dir/payload-$task\"; say dispatched\n{script}"))
}

/// An agent that a dispatch left running, which outlives the worker: the test ends it.
struct Dispatched(Watch);

impl Dispatched {
    /// A dispatch command that leaves one.
    fn leaving() -> Agent {
        dispatching(
            "(setsid sh -c 'echo \"$1 agent $$\" > \"$0\"; exec sleep 600' \"$dir/events\" \"$task\" >/dev/null 2>&1 &)",
        )
    }

    fn of(scene: &Scene, task_id: &str) -> Self {
        Self(Watch::new(scene.agent.hear_pid(task_id, "agent")))
    }
}

impl Drop for Dispatched {
    fn drop(&mut self) {
        oz_worker_tests::process::signal(self.0.pid, Signal::KILL);
    }
}

fn payload(scene: &Scene, task_id: &str) -> Value {
    serde_json::from_slice(&fs::read(scene.agent.path(&format!("payload-{task_id}"))).unwrap()).unwrap()
}

#[test]
fn dispatched_task_frees_its_slot_and_sends_nothing() {
    let adjust = |launch: Launch| launch.with_metrics().flags(["--max-concurrent-tasks", "1"]);
    let mut scene = Scene::command(dispatching(""), adjust);
    for count in 1..=3 {
        let task_id = format!("T{count}");
        scene.claim(&Assignment::new(&task_id));
        scene.agent.wait_for(&task_id, "dispatched");
        let dispatched = [("result", "dispatched")];
        scene.worker.wait_for_metric("oz_worker_tasks_completed_total", &dispatched, f64::from(count));
    }
    assert_eq!(scene.worker.scrape().value("oz_worker_tasks_active", &[]), 0.0);
}

#[test]
fn payload_carries_the_task_and_its_secrets_and_the_environment_does_not() {
    let mut scene = Scene::command(dispatching(""), |launch| {
        launch.config(
            "environment",
            json!([{"name": "CONFIGURED", "value": "yes"}, {"name": "OZ_RUN_ID", "value": "no"}]),
        )
    });
    let assignment = Assignment::new("T1")
        .env("SECRET", "canary-of-the-task")
        .with("docker_image", "image:1".into())
        .with("not_in_the_protocol", json!(1));
    scene.claim(&assignment);
    scene.agent.wait_for("T1", "dispatched");
    let payload = payload(&scene, "T1");
    assert_eq!(payload["version"], 1);
    assert_eq!(payload["env"]["SECRET"], "canary-of-the-task");
    assert_eq!(payload["docker_image"], "image:1");
    assert_eq!(payload["sidecars"], json!([]));
    let environment = scene.agent.record("T1").environment;
    assert_eq!(environment["CONFIGURED"], "yes");
    assert_eq!(environment["OZ_RUN_ID"], "T1", "the worker's own variables win");
    assert!(!environment.values().any(|value| value.contains("canary-of-the-task")));
}

#[test]
fn what_the_operator_configured_stays_with_the_operators_commands() {
    let dispatch = dispatching("");
    let cancel = format!("echo \"$OZ_RUN_ID cancelled $CONFIGURED $FLAG\" > '{}'", dispatch.path("events").display());
    let mut scene = Scene::command(dispatch, |launch| {
        launch
            .with_metrics()
            .config("environment", json!([{"name": "CONFIGURED", "value": "canary-of-the-file"}]))
            .config("cancel_command", cancel)
            .flags(["-e", "FLAG=canary-of-the-flag"])
    });
    scene.claim(&Assignment::new("T1").env("OF_THE_TASK", "yes"));
    scene.worker.wait_for_metric("oz_worker_tasks_completed_total", &[("result", "dispatched")], 1.0);
    let environment = scene.agent.record("T1").environment;
    assert_eq!((&*environment["CONFIGURED"], &*environment["FLAG"]), ("canary-of-the-file", "canary-of-the-flag"));
    let payload = payload(&scene, "T1");
    assert_eq!(payload["env"]["OF_THE_TASK"], "yes");
    assert!(!payload.to_string().contains("canary-of-the"), "{payload}");
    scene.session.send(Cancellation::of("T1"));
    assert_eq!(scene.agent.hear("T1", "cancelled"), "canary-of-the-file canary-of-the-flag");
}

/// A cancel command that says so, and that goes on when somebody opens its gate.
fn cancelling(dispatch: &Agent) -> String {
    let dir = dispatch.path("");
    format!("echo \"$OZ_RUN_ID cancelling $$\" > '{0}/events'; read -r _ < '{0}/gate'", dir.display())
}

#[test]
fn a_dispatch_that_is_stopped_half_way_is_killed_and_cancelled_before_that_is_told() {
    for (way, reason) in [("SIGTERM", "graceful_shutdown"), ("time-out", "dispatch_timeout"), ("cancellation", "")] {
        let dispatch = dispatching("say pid $$; sleep 600");
        let cancel = cancelling(&dispatch);
        let mut scene = Scene::command(dispatch, |launch| {
            let limit = if way == "time-out" { "1s" } else { "10m" };
            launch.config("cancel_command", cancel).config("dispatch_timeout", limit)
        });
        scene.claim(&Assignment::new("T1"));
        let dispatch = Watch::new(scene.agent.hear_pid("T1", "pid"));
        match way {
            "SIGTERM" => scene.worker.signal(Signal::TERM),
            "cancellation" => scene.session.send(Cancellation::of("T1")),
            _ => {}
        }
        scene.agent.hear_pid("T1", "cancelling");
        assert!(!dispatch.is_alive(), "{way}: it is cancelled while it still runs");
        scene.session.ping(b"not yet");
        scene.session.expect_pong(b"not yet");
        scene.agent.open_gate();
        let end = scene.end_of("T1");
        match way {
            "cancellation" => assert_eq!(end["data"]["task_state"], "CANCELLED"),
            _ => assert_eq!(end["data"]["failure_reason"], reason, "{way}"),
        }
    }
}

#[test]
fn many_cancellations_are_not_as_many_processes() {
    const MANY: usize = 60;
    let dispatch = dispatching("");
    let cancel = cancelling(&dispatch);
    let mut scene = Scene::command(dispatch, |launch| launch.with_metrics().config("cancel_command", cancel));
    let tasks: Vec<String> = (0..MANY).map(|number| format!("T{number}")).collect();
    for task_id in &tasks {
        scene.claim(&Assignment::new(task_id));
        scene.agent.wait_for(task_id, "dispatched");
    }
    let all = f64::from(u32::try_from(MANY).unwrap());
    scene.worker.wait_for_metric("oz_worker_tasks_completed_total", &[("result", "dispatched")], all);
    for task_id in &tasks {
        scene.session.send(Cancellation::of(task_id));
    }
    // Each that is let go makes room for one more.
    let mut most = 0;
    for gone in 0..MANY {
        let begun = || scene.agent.said().iter().filter(|said| said.contains(" cancelling ")).count();
        let deadline = std::time::Instant::now() + BOUND;
        while begun() <= gone {
            assert!(std::time::Instant::now() < deadline, "{gone} of {MANY} were cancelled");
            std::thread::yield_now();
        }
        scene.session.ping(b"all heard");
        scene.session.expect_pong(b"all heard");
        most = most.max(begun() - gone);
        scene.agent.open_gate();
    }
    assert!(most <= 9, "{most} cancel commands ran at once");
}

#[test]
fn a_worker_that_leaves_waits_for_cancel_commands() {
    let dispatch = dispatching("");
    let cancel = cancelling(&dispatch);
    let mut scene = Scene::command(dispatch, |launch| launch.with_metrics().config("cancel_command", cancel));
    scene.claim(&Assignment::new("T1"));
    scene.worker.wait_for_metric("oz_worker_tasks_completed_total", &[("result", "dispatched")], 1.0);
    scene.session.send(Cancellation::of("T1"));
    let cancelling = Watch::new(scene.agent.hear_pid("T1", "cancelling"));
    scene.worker.signal(Signal::TERM);
    assert_eq!(scene.session.expect_close(), Some(1000));
    scene.session.hang_up();
    // What a worker that does not wait takes to be gone.
    assert!(!scene.worker.has_ended_within(Duration::from_secs(2)));
    assert!(cancelling.is_alive());
    scene.agent.open_gate();
    assert_eq!(scene.worker.exit().code(), Some(0));
    assert!(!cancelling.is_alive());
}

#[test]
fn commands_that_nothing_can_run_are_an_error_at_start() {
    if !rustix::process::getuid().is_root() {
        return skip_this("only root may take the shell away");
    }
    let hide = ["unshare", "--mount", "sh", "-c", "mount --bind /dev/null /bin/sh && exec \"$@\"", "sh"];
    let server = oz_worker_tests::server::Server::start();
    let agent = Agent::new();
    let launches = [
        Launch::command(&server, &agent),
        Launch::direct(&server, &agent).config("setup_command", "true"),
        Launch::direct(&server, &agent).config("teardown_command", "true"),
    ];
    for launch in launches {
        for check in [false, true] {
            let launch = launch.clone().through(hide);
            let ended = if check { launch.flag("--check") } else { launch }.run();
            assert_eq!(ended.code, Some(1), "{}", ended.stderr);
            assert!(ended.stderr.contains("/bin/sh is to run your commands"), "{}", ended.stderr);
        }
    }
}

#[test]
fn commands_run_where_the_worker_runs_also_when_nobody_can_go_there_any_more() {
    let closed =
        "mkdir there && cd there && chmod 0 . && exec setpriv --bounding-set=-dac_override,-dac_read_search \"$@\"";
    let removed = "mkdir there && cd there && exec \"$@\"";
    for (way, script) in [("closed", closed), ("removed", removed)] {
        if way == "closed" && !rustix::process::getuid().is_root() {
            skip_this("only root can go where it may not go");
            continue;
        }
        let mut scene =
            Scene::command(dispatching(""), |launch| launch.with_metrics().through(["sh", "-c", script, "sh"]));
        let there = scene.worker.launch.dir().join("there");
        if way == "removed" {
            fs::remove_dir(&there).unwrap();
        }
        scene.claim(&Assignment::new("T1"));
        scene.agent.wait_for("T1", "dispatched");
        scene.worker.wait_for_metric("oz_worker_tasks_completed_total", &[("result", "dispatched")], 1.0);
    }
}

#[test]
fn task_is_handed_on_as_it_came() {
    let mut scene = Scene::command(dispatching(""), |launch| launch);
    // As text: numbers keep their digits, unknown fields and the order of keys stay.
    let task = r#"{"id":"T1","zeta":{"b":1.50,"a":[1e3,12345678901234567890]},"owner":{"Id":"odd","Type":"USER"},"task_definition":{"prompt":"é","extra":null}}"#;
    scene.session.text(&format!(r#"{{"type":"task_assignment","data":{{"task_id":"T1","task":{task}}}}}"#));
    scene.session.expect("task_claimed");
    scene.agent.wait_for("T1", "dispatched");
    let payload = fs::read_to_string(scene.agent.path("payload-T1")).unwrap();
    assert!(payload.contains(task), "{payload}");
}

#[test]
fn timeout_kills_the_whole_group() {
    let dispatch = dispatching("sleep 600 & say child $!; sleep 600");
    let mut scene = Scene::command(dispatch, |launch| launch.config("dispatch_timeout", "1s"));
    scene.claim(&Assignment::new("T1"));
    let child = Watch::new(scene.agent.hear_pid("T1", "child"));
    let failed = scene.session.expect("task_failed");
    assert_eq!(failed["failure_reason"], "dispatch_timeout");
    assert!(child.ends_within(BOUND));
}

#[test]
fn failing_dispatch_is_reported_without_exit_code() {
    let mut scene = Scene::command(dispatching("echo to-be-seen >&2; exit 4"), |launch| launch);
    let failed = scene.fail(&Assignment::new("T1"));
    assert_eq!(failed["failure_reason"], "dispatch_command");
    assert_eq!(failed.get("exit_code"), None);
    scene.worker.wait_for_line("to-be-seen");
}

#[test]
fn dispatch_that_does_not_read_its_input_is_no_failure() {
    let mut scene = Scene::command(Agent::running("exec <&-; say dispatched"), Launch::with_metrics);
    // More than a pipe holds.
    scene.claim(&Assignment::new("T1").env("BIG", &"x".repeat(200_000)));
    scene.agent.wait_for("T1", "dispatched");
    scene.worker.wait_for_metric("oz_worker_tasks_completed_total", &[("result", "dispatched")], 1.0);
}

#[test]
fn what_a_dispatch_leaves_running_stays() {
    let mut scene = Scene::command(Dispatched::leaving(), Launch::with_metrics);
    scene.claim(&Assignment::new("T1"));
    let agent = Dispatched::of(&scene, "T1");
    scene.worker.wait_for_metric("oz_worker_tasks_completed_total", &[("result", "dispatched")], 1.0);
    scene.session.ping(b"later");
    scene.session.expect_pong(b"later");
    assert!(agent.0.is_alive(), "the dispatched agent was killed");
    scene.worker.signal(Signal::TERM);
    assert_eq!(scene.session.expect_close(), Some(1000));
    scene.session.hang_up();
    assert_eq!(scene.worker.exit().code(), Some(0));
    assert!(agent.0.is_alive(), "the worker's shutdown killed a dispatched task");
}

#[test]
fn what_a_dispatch_left_running_survives_a_crash_of_the_worker() {
    let mut scene = Scene::command(Dispatched::leaving(), Launch::with_metrics);
    let launch = scene.worker.launch.clone();
    scene.claim(&Assignment::new("T1"));
    let agent = Dispatched::of(&scene, "T1");
    scene.worker.wait_for_metric("oz_worker_tasks_completed_total", &[("result", "dispatched")], 1.0);
    scene.worker.kill();
    scene.worker = launch.start();
    scene.accept_again();
    scene.claim(&Assignment::new("T2"));
    let _second = Dispatched::of(&scene, "T2");
    assert!(agent.0.is_alive(), "a worker that starts again killed a dispatched task");
}

#[test]
fn cancelling_a_dispatched_task_runs_the_cancel_command_and_sends_nothing() {
    let dispatch = dispatching("");
    let cancel = format!(
        "echo \"$OZ_RUN_ID cancelled $OZ_EXECUTION_ID $OZ_WORKER_BACKEND\" > '{}'",
        dispatch.path("events").display()
    );
    let mut scene = Scene::command(dispatch, |launch| launch.with_metrics().config("cancel_command", cancel));
    scene.claim(&Assignment::new("T1"));
    scene.worker.wait_for_metric("oz_worker_tasks_completed_total", &[("result", "dispatched")], 1.0);
    scene.session.send(Cancellation::of("T1"));
    assert_eq!(scene.agent.hear("T1", "cancelled"), "exec-of-T1 command");
    // Nothing about T1 comes before the claim of the next.
    scene.claim(&Assignment::new("T2"));
}

#[test]
fn cancel_command_that_fails_is_a_warning() {
    let mut scene = Scene::command(dispatching(""), |launch| launch.with_metrics().config("cancel_command", "exit 3"));
    scene.claim(&Assignment::new("T1"));
    scene.worker.wait_for_metric("oz_worker_tasks_completed_total", &[("result", "dispatched")], 1.0);
    scene.session.send(Cancellation::of("T1"));
    scene.worker.wait_for_line("WARN");
    scene.claim(&Assignment::new("T2"));
}

#[test]
fn cancelling_while_the_dispatch_runs_ends_it_as_cancelled() {
    let mut scene = Scene::command(dispatching("say pid $$; sleep 600"), |launch| launch);
    scene.claim(&Assignment::new("T1"));
    let dispatch = Watch::new(scene.agent.hear_pid("T1", "pid"));
    scene.cancel("T1");
    assert!(dispatch.ends_within(BOUND));
}
