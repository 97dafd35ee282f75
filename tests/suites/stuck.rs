//! Files that do not answer: what needs them waits, and nobody else does.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use oz_worker_tests::{
    BOUND,
    message::{Assignment, Cancellation},
    worker::http_get,
};
use rustix::process::Signal;

use crate::scene::Scene;

/// Of a task with the variable `HOLD`, takes a lease on the file of variables, as any file server's client may: whoever
/// opens it waits until the lease is given back, for 45 s at most (fcntl(2), "Leases"). 1024 is `F_SETLEASE`, 1 `F_WRLCK`.
const SETUP: &str = r#"[ -z "$HOLD" ] || {
    : > "$OZ_ENVIRONMENT_FILE"
    mkfifo leased
    perl -e '$SIG{IO} = "IGNORE"; open($file, "+<", $ENV{OZ_ENVIRONMENT_FILE}) or die; fcntl($file, 1024, 1) or die $!;
        open($leased, ">", "leased"); close($leased); sleep 600' &
    read _ < leased || :
}"#;
/// Fewer than the threads that begin tasks.
const FEW: usize = 2;

fn scene() -> Scene {
    Scene::with(|launch| launch.with_metrics().config("setup_command", SETUP))
}

/// Claims `count` tasks whose variables cannot be read, and waits until as many threads of the worker wait for a lease.
fn hold_up(scene: &mut Scene, count: usize) -> Vec<String> {
    let held_up: Vec<String> = (0..count).map(|number| format!("H{number}")).collect();
    for task_id in &held_up {
        scene.claim(&Assignment::new(task_id).env("HOLD", "yes").run("say started"));
    }
    let threads = format!("/proc/{}/task", scene.worker.pid());
    let waits = |thread: &Path| fs::read_to_string(thread.join("wchan")).is_ok_and(|at| at.contains("lease"));
    let deadline = Instant::now() + BOUND;
    while fs::read_dir(&threads).unwrap().filter(|thread| waits(&thread.as_ref().unwrap().path())).count() < count {
        assert!(Instant::now() < deadline, "they are not held up");
        assert!(!scene.worker.has_ended_within(Duration::from_millis(20)), "the worker has ended");
    }
    held_up
}

#[test]
fn tasks_whose_files_do_not_answer_hold_up_no_other_and_hear_a_cancellation() {
    let mut scene = scene();
    let held_up = hold_up(&mut scene, FEW);
    for number in 0..5 {
        let end = scene.run(&Assignment::new(&format!("T{number}")).run("exit 0"));
        assert_eq!(end["type"], "task_completed");
    }
    for task_id in &held_up {
        scene.session.send(Cancellation::of(task_id));
        assert_eq!(scene.end_of(task_id)["data"]["task_state"], "CANCELLED");
    }
    scene.still_works("after");
    assert_eq!(scene.worker.launch.left_in_workspaces(), [""; 0]);
}

#[test]
fn a_worker_that_can_begin_nothing_says_so_takes_nothing_and_can_be_stopped() {
    let mut scene = scene();
    hold_up(&mut scene, FEW);
    // How many threads there are is the worker's affair: at some time all are held up, and a task does not begin.
    let hold = |number: usize| Assignment::new(&format!("more-{number}")).env("HOLD", "yes").run("say started");
    let started = Instant::now();
    let mut claimed = FEW;
    loop {
        scene.session.send(hold(claimed));
        let answer = scene.session.recv();
        if answer["type"] == "task_rejected" {
            assert_eq!(answer["data"]["reason"], "worker is not ready");
            break;
        }
        assert_eq!(answer["type"], "task_claimed", "{answer}");
        claimed += 1;
        assert!(started.elapsed() < 2 * BOUND, "{claimed} tasks were claimed, and all begin");
        assert!(!scene.worker.has_ended_within(Duration::from_millis(200)), "the worker has ended");
    }
    scene.worker.wait_for_line("not ready: ");
    let (status, reason) = http_get(&scene.worker.metrics_address(), "/readyz");
    assert!(status == 503 && reason.contains("does not start"), "{status} {reason}");
    assert_eq!(http_get(&scene.worker.metrics_address(), "/livez").0, 200);
    scene.worker.signal(Signal::TERM);
    for _ in 0..claimed {
        assert_eq!(scene.session.expect("task_failed")["failure_reason"], "graceful_shutdown");
    }
    assert!(scene.worker.exit().success());
}
