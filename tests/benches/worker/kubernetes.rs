//! What the backend kubernetes takes of this machine and asks of an API server, with as many Jobs at once as large clusters run.

use std::{
    fs,
    time::{Duration, Instant},
};

use oz_worker_tests::BOUND;
use serde_json::json;

use crate::{
    Effort,
    cluster::Cluster,
    proc,
    report::{self, Report, Row, mebibytes},
    scene::{Launch, Scene},
    wire::{assignment_frames, is_claim, is_success},
};

const TASKS: usize = 1000;
const KIBIBYTE: f64 = 1024.0;
/// The most calls that a task may take beside the two watches.
const MOST_CALLS: f64 = 6.0;

pub fn measure(report: &mut Report, effort: Effort) {
    let tasks = effort.pick(TASKS, TASKS / 4);
    report::subject(&format!("kubernetes: {tasks} Jobs at once, on a stand-in for an API server"));
    let (cluster, dir) = (Cluster::start(), tempfile::tempdir().unwrap());
    let kubeconfig = dir.path().join("kubeconfig");
    fs::write(&kubeconfig, cluster.kubeconfig()).unwrap();
    let backend = json!({"kubernetes": {"kubeconfig": kubeconfig, "default_image": "task:1"}});
    let mut scene = Launch::with(&backend, 0).start();
    scene.peer.sync();
    // As long as the subject `idle` is: the worker gives back what only its start needed.
    scene.peer.idle(Duration::from_secs(20));
    let idle = proc::memory(scene.pid());
    Row::new("resident memory, idle with both watches", mebibytes(idle.rss))
        .at_most(idle.rss / f64::from(1 << 20), 7.0, " MiB")
        .print(report);

    let (before, mut threads) = (cluster.calls(), proc::threads(scene.pid()));
    scene.peer.write(&assignment_frames(0..tasks).concat());
    for _ in 0..tasks {
        assert!(is_claim(scene.peer.text()), "no claim came");
        threads = threads.max(proc::threads(scene.pid()));
    }
    wait_for(&mut scene, "every Job", || cluster.jobs() == tasks);
    scene.peer.idle(Duration::from_secs(2));
    let running = proc::memory(scene.pid());
    threads = threads.max(proc::threads(scene.pid()));

    cluster.end_all();
    for _ in 0..tasks {
        assert!(is_success(scene.peer.text()), "a task did not end well");
        threads = threads.max(proc::threads(scene.pid()));
    }
    let per_task = (running.rss - idle.rss) / tasks as f64 / KIBIBYTE;
    Row::new("resident memory per task", format!("{per_task:.1} KiB")).at_most(per_task, 16.0, " KiB").print(report);
    let anonymous = (running.anonymous - idle.anonymous) / tasks as f64 / KIBIBYTE;
    report::note(&format!("not backed by a file: {anonymous:.1} KiB; in all {}", mebibytes(running.rss)));
    Row::new("threads at most", threads.to_string()).at_most(threads as f64, 14.0, "").print(report);
    // The Jobs are deleted once the worker knows that its server has heard the ends.
    scene.peer.settle();
    wait_for(&mut scene, "no Job", || cluster.jobs() == 0);
    let calls = (cluster.calls() - before) as f64 / tasks as f64;
    Row::new("calls per task beside the watches", format!("{calls:.2}")).at_most(calls, MOST_CALLS, "").print(report);
    scene.stop(|| ());
}

fn wait_for(scene: &mut Scene, what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + BOUND;
    while !is_so() {
        assert!(Instant::now() < deadline, "never {what}");
        scene.peer.idle(Duration::from_millis(100));
    }
}
