//! Many tasks on the simulator's cluster: what they cost the API server, and what is left of them.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use oz_worker_simulator::scene::{Operator, Orchestration, Scene};
use oz_worker_simulator::{Report, run};

const HOUR: Duration = Duration::from_secs(3600);

fn on_a_cluster<F: Future<Output = ()> + Send + 'static>(drive: fn(Scene) -> F) -> Report {
    let orchestrates =
        Orchestration { deadline: None, ttl: 600, unschedulable_timeout: Duration::from_secs(30), injects: false };
    let stage = move |executor: &_| {
        let operator = Operator {
            limit: 0,
            dispatches: false,
            contains: false,
            orchestrates: Some(orchestrates),
            cleanup: true,
            proxy: false,
            ..Operator::draw(executor)
        };
        Scene::new(executor, operator)
    };
    let report = run(1, 1000 * HOUR, stage, drive);
    assert!(report.violations.is_empty(), "{report}");
    report
}

/// How many tasks are on the cluster at once.
const BATCH: u32 = 250;

/// Assigns so many tasks at once, and waits until all have ended.
async fn flow(scene: &Scene, from: u32, count: u32) {
    for number in from..from + count {
        scene.server.assign(&format!("T{number}"), &format!("E{number}"), true);
    }
    let last = format!("T{}", from + count - 1);
    scene.server.answered(&last, &format!("E{}", from + count - 1)).await;
    while scene.server.ledger(|ledger| ledger.active().count()) > 0 {
        scene.executor.sleep(Duration::from_secs(5)).await;
    }
}

async fn many(scene: Scene, batches: u32) {
    let cluster = scene.cluster.clone().unwrap();
    cluster.heal();
    scene.ready().await;
    for batch in 0..batches {
        flow(&scene, batch * BATCH, BATCH).await;
        // The trace is the simulator's own.
        scene.journal.take();
    }
    scene.executor.sleep(Duration::from_secs(60)).await;
    let (completed, all) =
        (scene.scrape().remove("oz_worker_tasks_completed_total{result=succeeded}"), batches * BATCH);
    if completed.is_none_or(|completed| (completed - f64::from(all)).abs() > 0.1) {
        scene.watch.violate(format!("{completed:?} tasks completed"));
    }
    if cluster.size() != [0, 0] {
        scene.watch.violate(format!("{:?} Jobs and Pods are left", cluster.size()));
    }
    if cluster.open_watches() != 2 {
        scene.watch.violate(format!("{} watches are open", cluster.open_watches()));
    }
    // The creation of each Job, its deletion, and its events when its Pod is not seen within 3 s; and a start.
    if cluster.requests() > 3 * all + 100 {
        scene.watch.violate(format!("{} requests were made", cluster.requests()));
    }
}

#[test]
fn a_thousand_tasks_take_few_requests_and_leave_nothing() {
    on_a_cluster(|scene| many(scene, 4));
}

#[test]
#[ignore = "takes minutes in a debug build; the one above is the same with fewer"]
fn ten_thousand_tasks_take_few_requests_and_leave_nothing() {
    on_a_cluster(|scene| many(scene, 40));
}
