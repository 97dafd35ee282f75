//! SIGTERM and SIGINT: what runs is stopped and reported, what arrives is rejected, and then the worker goes.

use std::time::Duration;

use oz_worker_tests::{
    BOUND,
    agent::Agent,
    message::{Assignment, Cancellation},
    process::Watch,
    server::Server,
    worker::Launch,
};
use rustix::process::Signal;
use serde_json::json;

use crate::scene::Scene;

/// Reads up to the worker's Close 1000, hangs up, and waits for exit code 0.
fn goes_cleanly(scene: &mut Scene) {
    assert_eq!(scene.session.expect_close(), Some(1000));
    scene.session.hang_up();
    assert_eq!(scene.worker.exit().code(), Some(0));
}

/// Asks the worker to stop while T1 runs, which has heard of it and goes on until its gate is opened.
fn stop_while_a_task_takes_its_time(scene: &mut Scene) {
    let script = "trap 'say asked; gate; exit 0' TERM; say started; while :; do sleep 600 & wait; done";
    scene.claim(&Assignment::new("T1").run(script));
    scene.agent.wait_for("T1", "started");
    scene.worker.signal(Signal::TERM);
    scene.agent.wait_for("T1", "asked");
}

#[test]
fn idle_worker_closes_with_1000_and_exits_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut scene = Scene::with(Launch::with_metrics);
        scene.worker.signal(signal);
        goes_cleanly(&mut scene);
    }
}

#[test]
fn running_tasks_are_stopped_and_reported() {
    let mut scene = Scene::new();
    let mut agents = Vec::new();
    for task_id in ["T1", "T2"] {
        scene.claim(&Assignment::new(task_id).run("say pid $$; sleep 600"));
        agents.push(Watch::new(scene.agent.hear_pid(task_id, "pid")));
    }
    scene.worker.signal(Signal::TERM);
    let mut stopped = Vec::new();
    for _ in 0..2 {
        let failed = scene.session.expect("task_failed");
        assert_eq!(failed["failure_reason"], "graceful_shutdown");
        stopped.push(failed["task_id"].as_str().unwrap().to_owned());
    }
    stopped.sort();
    assert_eq!(stopped, ["T1", "T2"]);
    goes_cleanly(&mut scene);
    assert!(!agents.iter().any(Watch::is_alive));
    assert_eq!(scene.worker.launch.left_in_workspaces(), [""; 0]);
}

#[test]
fn assignments_that_still_arrive_are_rejected() {
    let mut scene = Scene::new();
    stop_while_a_task_takes_its_time(&mut scene);
    scene.session.send(Assignment::new("T2").run("say started"));
    assert_eq!(scene.session.expect("task_rejected"), json!({"task_id": "T2", "reason": "worker is shutting down"}));
    scene.agent.open_gate();
    assert_eq!(scene.session.expect("task_failed")["failure_reason"], "graceful_shutdown");
    goes_cleanly(&mut scene);
    assert!(!scene.agent.said().contains(&"T2 started".to_owned()));
}

#[test]
fn drain_lets_running_tasks_finish() {
    let mut scene = Scene::with(|launch| launch.flags(["--drain-timeout", "10m"]));
    scene.claim(&Assignment::new("T1").run("say started; gate; exit 3"));
    scene.agent.wait_for("T1", "started");
    scene.worker.signal(Signal::TERM);
    drains(&mut scene);
    scene.agent.open_gate();
    let failed = scene.session.expect("task_failed");
    assert_eq!((&failed["failure_reason"], &failed["exit_code"]), (&json!("agent_invocation"), &json!(3)));
    goes_cleanly(&mut scene);
}

/// Waits until the worker has seen the signal: it takes nothing more.
fn drains(scene: &mut Scene) {
    while let task_id = format!("probe-{}", scene.agent.said().len())
        && {
            scene.session.send(Assignment::new(&task_id).run("say probed"));
            let answer = scene.session.recv();
            let taken = answer["type"] == "task_claimed";
            if taken {
                scene.session.expect("task_completed");
            } else {
                assert_eq!(answer["data"]["reason"], "worker is shutting down");
            }
            taken
        }
    {}
}

#[test]
fn cancellation_is_heard_while_draining() {
    let mut scene = Scene::with(|launch| launch.flags(["--drain-timeout", "10m"]));
    scene.claim(&Assignment::new("T1").run("say pid $$; sleep 600"));
    let agent = Watch::new(scene.agent.hear_pid("T1", "pid"));
    scene.worker.signal(Signal::TERM);
    drains(&mut scene);
    // It drains, and so the task still runs: nothing but the cancellation ends it.
    assert!(agent.is_alive());
    scene.session.send(Cancellation::of("T1"));
    assert_eq!(scene.session.expect("task_completed")["task_state"], "CANCELLED");
    goes_cleanly(&mut scene);
}

#[test]
fn drain_ends_when_its_time_is_up() {
    let mut scene = Scene::with(|launch| launch.flags(["--drain-timeout", "1s"]));
    scene.claim(&Assignment::new("T1").run("say started; sleep 600"));
    scene.agent.wait_for("T1", "started");
    scene.worker.signal(Signal::TERM);
    assert_eq!(scene.session.expect("task_failed")["failure_reason"], "graceful_shutdown");
    goes_cleanly(&mut scene);
}

#[test]
fn second_signal_skips_the_drain() {
    let mut scene = Scene::with(|launch| launch.flags(["--drain-timeout", "10m"]));
    scene.claim(&Assignment::new("T1").run("say started; sleep 600"));
    scene.agent.wait_for("T1", "started");
    // Two different signals: two of one kind may be merged by the kernel.
    scene.worker.signal(Signal::TERM);
    scene.worker.signal(Signal::INT);
    assert_eq!(scene.session.expect("task_failed")["failure_reason"], "graceful_shutdown");
    goes_cleanly(&mut scene);
}

#[test]
fn unacknowledged_end_holds_the_worker_no_longer_than_its_bound() {
    let mut scene = Scene::new();
    scene.session.answer_pings(false);
    scene.claim(&Assignment::new("T1").run("say started; sleep 600"));
    scene.agent.wait_for("T1", "started");
    scene.worker.signal(Signal::TERM);
    assert_eq!(scene.session.expect("task_failed")["failure_reason"], "graceful_shutdown");
    // 10 s for the acknowledgement that never comes, and something for a busy machine.
    scene.session.expect_end_within(Duration::from_secs(10) + BOUND);
    scene.session.hang_up();
    assert_eq!(scene.worker.exit().code(), Some(0));
}

#[test]
fn end_that_was_lost_with_its_connection_is_delivered_before_the_worker_goes() {
    let mut scene = Scene::new();
    stop_while_a_task_takes_its_time(&mut scene);
    scene.session.reset();
    scene.agent.open_gate();
    scene.accept_again();
    assert_eq!(scene.end_on_next_session("T1")["data"]["failure_reason"], "graceful_shutdown");
    goes_cleanly(&mut scene);
}

#[test]
fn wait_before_the_next_dial_is_interrupted() {
    let agent = Agent::new();
    let url = Server::start().url();
    let mut worker = Launch::direct_to(&url, &agent).with_metrics().start();
    // By the third failure the wait is at least 2 s long.
    worker.wait_for_metric("oz_worker_websocket_reconnects_total", &[("reason", "dial_failed")], 3.0);
    let started = std::time::Instant::now();
    worker.signal(Signal::TERM);
    assert_eq!(worker.exit().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(2), "the worker finished its wait first");
}

#[test]
fn dial_in_progress_is_interrupted() {
    let (server, agent) = (Server::start(), Agent::new());
    let mut worker = Launch::direct(&server, &agent).start();
    let _held = server.request();
    worker.signal(Signal::TERM);
    assert_eq!(worker.exit().code(), Some(0));
}
