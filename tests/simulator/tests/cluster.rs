//! Many tasks on the simulator's cluster: what they cost the API server, and what is left of them.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use oz_worker_simulator::cluster::Cluster;
use oz_worker_simulator::scene::{Operator, Orchestration, Scene};
use oz_worker_simulator::{Report, run};

const HOUR: Duration = Duration::from_secs(3600);

fn on_a_cluster<F: Future<Output = ()> + Send + 'static>(drive: fn(Scene) -> F) -> Report {
    let orchestrates =
        Orchestration { deadline: None, ttl: 600, unschedulable_timeout: Duration::from_secs(30), injects: false };
    let stage = move |executor: &_| {
        let operator = Operator {
            limit: 0,
            drain: Duration::ZERO,
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

/// How many creations a worker has under way at most.
const MOST_CREATIONS: usize = 32;
const HELD: u32 = 200;

fn assign(scene: &Scene, numbers: std::ops::Range<u32>) {
    for number in numbers {
        scene.server.assign(&format!("T{number}"), &format!("E{number}"), true);
    }
}

/// One task runs, and the creations of many others hang.
async fn with_creations_that_hang(scene: &Scene) -> Cluster {
    let cluster = scene.cluster.clone().unwrap();
    cluster.heal();
    cluster.set_length(HOUR);
    scene.ready().await;
    assign(scene, 0..1);
    wait(scene, "the first Job", || cluster.size() == [1, 1]).await;
    cluster.hold_creations(true);
    assign(scene, 1..HELD);
    wait(scene, "the creations", || cluster.open_creations() == MOST_CREATIONS).await;
    scene.executor.sleep(Duration::from_secs(5)).await;
    if cluster.open_creations() != MOST_CREATIONS {
        scene.watch.violate(format!("{} creations are open", cluster.open_creations()));
    }
    cluster
}

/// Waits until something is so, for half a minute.
async fn wait(scene: &Scene, what: &str, is_so: impl Fn() -> bool + Send) {
    for _ in 0..300 {
        if is_so() {
            return;
        }
        scene.executor.sleep(Duration::from_millis(100)).await;
    }
    scene.watch.violate(format!("waited in vain for {what}"));
}

fn active(scene: &Scene) -> usize {
    scene.server.ledger(|ledger| ledger.active().count())
}

#[test]
fn creations_that_hang_are_few_and_hold_up_nothing_else() {
    on_a_cluster(|scene| async move {
        let cluster = with_creations_that_hang(&scene).await;
        // What runs is deleted, and what waits in line leaves it.
        let last = HELD - 1;
        scene.server.cancel("T0");
        scene.server.cancel(&format!("T{last}"));
        wait(&scene, "the ends", || cluster.size() == [0, 0] && active(&scene) == HELD as usize - 2).await;
        cluster.hold_creations(false);
        wait(&scene, "the other Jobs", || cluster.size()[0] == HELD as usize - 2).await;
        for number in 1..last {
            if cluster.jobs_of(&format!("E{number}")) != 1 {
                scene.watch.violate(format!("T{number} has no Job"));
            }
        }
        if cluster.jobs_of(&format!("E{last}")) != 0 {
            scene.watch.violate("a Job was made for a task that was cancelled in line".to_owned());
        }
    });
}

#[test]
fn who_leaves_makes_no_job_that_waits_in_line() {
    on_a_cluster(|scene| async move {
        let cluster = with_creations_that_hang(&scene).await;
        scene.signal("SIGTERM");
        wait(&scene, "the ends", || active(&scene) <= 1).await;
        cluster.hold_creations(false);
        let _ = scene.left().recv().await;
        let made = (1..HELD).filter(|number| cluster.jobs_of(&format!("E{number}")) > 0).count();
        if made > MOST_CREATIONS {
            scene.watch.violate(format!("{made} Jobs were made"));
        }
        // The one that runs stays; what was made late is gone.
        wait(&scene, "the deletions", || cluster.size()[0] == 1).await;
    });
}

#[test]
fn who_waits_in_line_fails_once_nothing_was_answered_for_two_minutes() {
    on_a_cluster(|scene| async move {
        let cluster = with_creations_that_hang(&scene).await;
        // Those who had a turn by then try once more.
        for (after, most) in [(100, HELD as usize), (30, 2 * MOST_CREATIONS + 1), (150, 1)] {
            scene.executor.sleep(Duration::from_secs(after)).await;
            let active = active(&scene);
            if active > most || (most == HELD as usize && active < most) {
                scene.watch.violate(format!("{active} tasks are active, not {most}"));
            }
        }
        cluster.hold_creations(false);
    });
}

#[test]
fn a_job_that_somebody_deletes_while_its_creations_answer_is_lost_is_not_made_again() {
    on_a_cluster(|scene| async move {
        let cluster = scene.cluster.clone().unwrap();
        cluster.heal();
        scene.ready().await;
        cluster.lose_creations(true);
        for number in 0..3 {
            let execution = format!("E{number}");
            assign(&scene, number..number + 1);
            wait(&scene, "the end", || cluster.told(&execution).is_some()).await;
            let (jobs, told) = (cluster.jobs_of(&execution), cluster.told(&execution));
            // By where it was when it was deleted.
            if jobs != 1 || !matches!(told.as_deref(), Some("job_watch" | "container_exit")) {
                scene.watch.violate(format!("{execution} had {jobs} Jobs, and is told to have ended by {told:?}"));
            }
        }
        cluster.lose_creations(false);
    });
}

#[test]
fn a_thousand_tasks_take_few_requests_and_leave_nothing() {
    on_a_cluster(|scene| many(scene, 4));
}

#[test]
#[ignore = "takes minutes in a debug build: `.ci/run` runs it in a release build; the one above is the same with fewer"]
fn ten_thousand_tasks_take_few_requests_and_leave_nothing() {
    on_a_cluster(|scene| many(scene, 40));
}
