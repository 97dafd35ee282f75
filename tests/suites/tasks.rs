//! A task's life on the wire and in the metrics: claimed, rejected, cancelled, assigned twice, misunderstood.

use oz_worker_tests::{
    message::{Assignment, Cancellation},
    worker::Launch,
};
use serde_json::json;

use crate::scene::Scene;

const LONG: &str = "say started; gate";

#[test]
fn claims_before_the_end_and_counts_both_once() {
    let mut scene = Scene::with(Launch::with_metrics);
    scene.still_works("T1");
    let scrape = scene.worker.wait_for_metric("oz_worker_tasks_completed_total", &[("result", "succeeded")], 1.0);
    assert_eq!(scrape.value("oz_worker_tasks_claimed_total", &[]), 1.0);
    assert_eq!(scrape.value("oz_worker_tasks_active", &[]), 0.0);
    assert_eq!(scrape.value("oz_worker_task_duration_seconds_count", &[("result", "succeeded")]), 1.0);
    assert_eq!(scrape.total("oz_worker_task_failures_total"), 0.0);
    assert_eq!(scrape.total("oz_worker_tasks_rejected_total"), 0.0);
}

#[test]
fn failure_is_counted_by_phase_and_reason() {
    let mut scene = Scene::with(Launch::with_metrics);
    scene.fail(&Assignment::new("T1").run("exit 3"));
    let scrape = scene.worker.wait_for_metric("oz_worker_tasks_completed_total", &[("result", "failed")], 1.0);
    let failure = [("phase", "backend"), ("reason", "agent_invocation")];
    assert_eq!(scrape.value("oz_worker_task_failures_total", &failure), 1.0);
    assert_eq!(scrape.total("oz_worker_task_failures_total"), 1.0);
}

#[test]
fn rejects_at_capacity_without_starting_the_task() {
    let mut scene = Scene::with(|launch| launch.with_metrics().flags(["--max-concurrent-tasks", "1"]));
    scene.claim(&Assignment::new("T1").run(LONG));
    scene.agent.wait_for("T1", "started");
    scene.session.send(Assignment::new("T2").run("say started"));
    let rejected = scene.session.expect("task_rejected");
    assert_eq!(rejected, json!({"task_id": "T2", "reason": "worker at maximum concurrency"}));
    let scrape = scene.worker.wait_for_metric("oz_worker_tasks_rejected_total", &[("reason", "at_capacity")], 1.0);
    assert_eq!(scrape.value("oz_worker_tasks_active", &[]), 1.0);
    assert_eq!(scrape.value("oz_worker_tasks_claimed_total", &[]), 1.0);

    // The slot is free by the time the end is reported.
    scene.agent.open_gate();
    scene.end_of("T1");
    scene.still_works("T3");
    assert_eq!(scene.agent.said(), ["T1 started"]);
}

#[test]
fn same_execution_assigned_again_is_claimed_again_and_runs_once() {
    let mut scene = Scene::new();
    let assignment = Assignment::new("T1").run(LONG);
    scene.claim(&assignment);
    scene.agent.wait_for("T1", "started");
    scene.claim(&assignment);
    scene.agent.open_gate();
    scene.end_of("T1");
    scene.still_works("T2");
    assert_eq!(scene.agent.said(), ["T1 started"]);
}

#[test]
fn other_execution_of_an_active_task_is_rejected() {
    let mut scene = Scene::with(Launch::with_metrics);
    scene.claim(&Assignment::new("T1").execution("first").run(LONG));
    scene.agent.wait_for("T1", "started");
    scene.session.send(Assignment::new("T1").execution("second").run(LONG));
    let rejected = scene.session.expect("task_rejected");
    assert_eq!(rejected, json!({"task_id": "T1", "reason": "task is already running on this worker"}));
    scene.worker.wait_for_metric("oz_worker_tasks_rejected_total", &[("reason", "already_running")], 1.0);
    scene.agent.open_gate();
    scene.end_of("T1");
    // Ended: a new execution is a new task.
    let end = scene.run(&Assignment::new("T1").execution("third").run("exit 4"));
    assert_eq!(end["data"]["exit_code"], 4);
}

#[test]
fn cancellation_stops_the_task_and_says_so() {
    let mut scene = Scene::with(Launch::with_metrics);
    scene.claim(&Assignment::new("T1").run("say pid $$; sleep 600"));
    let agent = oz_worker_tests::process::Watch::new(scene.agent.hear_pid("T1", "pid"));
    scene.cancel("T1");
    assert!(!agent.is_alive(), "the end was reported before the agent had ended");
    let scrape = scene.worker.wait_for_metric("oz_worker_tasks_completed_total", &[("result", "cancelled")], 1.0);
    assert_eq!(scrape.value("oz_worker_tasks_active", &[]), 0.0);
    assert_eq!(scrape.total("oz_worker_task_failures_total"), 0.0);
    assert_eq!(scene.worker.launch.left_in_workspaces(), [""; 0]);
}

#[test]
fn cancellation_that_overtakes_the_start_stops_it() {
    let mut scene = Scene::new();
    // Both in one write: the cancellation is there before anything can have started.
    for count in 0..20 {
        let task_id = format!("T{count}");
        scene.session.send(Assignment::new(&task_id).run("sleep 600"));
        scene.session.send(Cancellation::of(&task_id));
        assert_eq!(scene.session.expect("task_claimed")["task_id"], task_id.as_str());
        let end = scene.end_of(&task_id);
        assert_eq!(end["data"]["task_state"], "CANCELLED", "{end}");
    }
    assert_eq!(scene.worker.launch.left_in_workspaces(), [""; 0]);
}

#[test]
fn cancellation_of_nothing_is_one_warning() {
    let mut scene = Scene::new();
    scene.session.send(Cancellation::of("never-seen"));
    scene.still_works("T1");
    scene.session.send(Cancellation::of("T1"));
    scene.still_works("T2");
    assert_eq!(scene.warnings_before("T2").len(), 2);
}

#[test]
fn second_cancellation_changes_nothing() {
    let mut scene = Scene::with(|launch| launch.flags(["--cancel-grace-period", "1s"]));
    scene.claim(&Assignment::new("T1").run("trap 'say asked' TERM; say started; while :; do sleep 600 & wait; done"));
    scene.agent.wait_for("T1", "started");
    scene.session.send(Cancellation::of("T1"));
    scene.agent.wait_for("T1", "asked");
    scene.session.send(Cancellation::of("T1"));
    assert_eq!(scene.end_of("T1")["data"]["task_state"], "CANCELLED");
    scene.still_works("T2");
}

#[test]
fn assignment_that_cannot_be_understood_is_failed() {
    let mut scene = Scene::with(Launch::with_metrics);
    for (count, data) in [
        json!({"task_id": "T0"}),
        json!({"task_id": "T1", "task": "no object"}),
        json!({"task_id": "T2", "task": {"id": "T"}, "env_vars": ["A=1"]}),
        json!({"task_id": "T3", "task": {"id": "T"}, "additional_oz_args": "--x"}),
    ]
    .iter()
    .enumerate()
    {
        scene.session.send(Assignment::of(data));
        let failed = scene.session.expect("task_failed");
        assert_eq!((&failed["task_id"], &failed["failure_reason"]), (&data["task_id"], &json!("unknown")));
        assert!(failed["message"].as_str().is_some_and(|message| !message.is_empty()));
        assert_eq!(failed.get("exit_code"), None);
        let failure = [("phase", "assignment"), ("reason", "unknown")];
        let expected = f64::from(u32::try_from(count).unwrap() + 1);
        scene.worker.wait_for_metric("oz_worker_task_failures_total", &failure, expected);
    }
    scene.still_works("T9");
}

#[test]
fn a_thousand_assignments_at_capacity_are_all_rejected() {
    let mut scene = Scene::with(|launch| launch.with_metrics().flags(["--max-concurrent-tasks", "1"]));
    scene.claim(&Assignment::new("running").run(LONG));
    for count in 0..1000 {
        scene.session.send(Assignment::new(&format!("T{count}")));
    }
    for count in 0..1000 {
        assert_eq!(scene.session.expect("task_rejected")["task_id"], format!("T{count}"));
    }
    scene.worker.wait_for_metric("oz_worker_tasks_rejected_total", &[("reason", "at_capacity")], 1000.0);
}

#[test]
fn many_tasks_at_once_each_have_one_end() {
    let mut scene = Scene::with(Launch::with_metrics);
    for count in 0..100 {
        scene.session.send(Assignment::new(&format!("T{count}")).run("gate; exit 0"));
    }
    for _ in 0..100 {
        scene.session.expect("task_claimed");
    }
    for _ in 0..100 {
        scene.agent.open_gate();
    }
    let mut ended: Vec<_> = (0..100).map(|_| scene.session.expect("task_completed")["task_id"].to_string()).collect();
    ended.sort();
    ended.dedup();
    assert_eq!(ended.len(), 100);
    scene.worker.wait_for_metric("oz_worker_tasks_active", &[], 0.0);
    scene.still_works("after");
}
