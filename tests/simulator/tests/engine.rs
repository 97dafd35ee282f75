//! What an engine and its containers go through that a certain course of events shows best: ends that the server cannot hear
//! when they come, a container that goes while it is taken up, an engine that is starting, one that does not say what a task's
//! secrets are, and one without a bridge.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use oz_worker_simulator::engine::{Engine, OURS};
use oz_worker_simulator::neighbour::{Neighbour, SECRET};
use oz_worker_simulator::network::Cut;
use oz_worker_simulator::scene::{Operator, Scene};
use oz_worker_simulator::{Report, run};

const HOUR: Duration = Duration::from_secs(3600);
/// How long a container runs at the longest on an engine that is well, and a while.
const LONGEST_TASK: Duration = Duration::from_secs(700);
/// The longest wait between two dials, and a while.
const SOON: Duration = Duration::from_secs(90);

/// Runs `drive` on a few seeds, on an engine that is well.
fn on_an_engine<F: Future<Output = ()> + Send + 'static>(drive: fn(Scene) -> F) -> Vec<Report> {
    let stage = |executor: &_| {
        let operator = Operator {
            limit: 1,
            drain: Duration::ZERO,
            dispatches: false,
            contains: true,
            proxy: false,
            ..Operator::draw(executor)
        };
        Scene::new(executor, operator)
    };
    let reports: Vec<_> = (0..20).map(|seed| run(seed, 1000 * HOUR, stage, drive)).collect();
    for report in &reports {
        assert!(report.violations.is_empty(), "{report}");
    }
    reports
}

fn engine(scene: &Scene) -> Engine {
    scene.engine.clone().unwrap()
}

/// A task ends while the server cannot be reached.
async fn ends_unheard(scene: &Scene) {
    engine(scene).heal();
    scene.ready().await;
    scene.server.assign("T1", "E1", true);
    scene.server.answered("T1", "E1").await;
    // Its images are not there yet.
    scene.network.set_outage(true);
    scene.server.cut(Cut::Reset);
    scene.executor.sleep(LONGEST_TASK).await;
    if !engine(scene).has("E1") {
        scene.watch.violate("nobody has heard how E1 ended, and its container is gone".to_owned());
    }
}

/// The next worker tells the end, and nothing is left.
async fn is_told_by_the_next(scene: &Scene) {
    scene.kill();
    scene.network.set_outage(false);
    scene.start();
    scene.executor.sleep(SOON).await;
    is_told_once(scene);
}

fn is_told_once(scene: &Scene) {
    let succeeded = scene.server.ledger(|ledger| ledger.ended_in("succeeded"));
    if succeeded != 1 {
        scene.watch.violate(format!("the server heard of {succeeded} successes"));
    }
    let left = engine(scene).left(OURS, scene.operator.cleanup);
    if !left.is_empty() || engine(scene).has("E1") {
        scene.watch.violate(format!("the server has heard how E1 ended, and its container is there: {left:?}"));
    }
}

#[test]
fn an_end_that_the_server_could_not_hear_is_told_by_the_worker_after_one_that_was_killed() {
    on_an_engine(|scene| async move {
        ends_unheard(&scene).await;
        is_told_by_the_next(&scene).await;
    });
}

#[test]
fn how_a_container_ended_is_known_to_the_next_worker_though_it_is_removed_at_that_moment() {
    on_an_engine(|scene| async move {
        ends_unheard(&scene).await;
        engine(&scene).lose_what_is_taken_up();
        is_told_by_the_next(&scene).await;
    });
}

#[test]
fn an_end_that_the_server_could_not_hear_is_told_by_the_worker_after_one_that_left() {
    on_an_engine(|scene| async move {
        ends_unheard(&scene).await;
        scene.signal("SIGTERM");
        let _ = scene.left().recv().await;
        is_told_by_the_next(&scene).await;
    });
}

#[test]
fn an_end_that_the_server_hears_late_leaves_nothing_and_is_not_told_again() {
    on_an_engine(|scene| async move {
        ends_unheard(&scene).await;
        scene.network.set_outage(false);
        scene.executor.sleep(SOON).await;
        is_told_once(&scene);
        scene.kill();
        scene.start();
        scene.executor.sleep(SOON).await;
        if scene.server.ledger(|ledger| ledger.active().count()) > 0 {
            scene.watch.violate("what was heard is taken up again".to_owned());
        }
        // The slot is free.
        scene.server.assign("T2", "E2", true);
        scene.server.answered("T2", "E2").await;
        if !scene.server.ledger(|ledger| ledger.is_claimed("T2", "E2")) {
            scene.watch.violate("T2 was not claimed".to_owned());
        }
    });
}

#[test]
fn an_engine_that_says_for_a_minute_that_it_is_starting_fails_no_task() {
    on_an_engine(|scene| async move {
        let engine = engine(&scene);
        engine.heal();
        scene.ready().await;
        // Amid a pull, a volume that is filled, a container that is made and started, or a wait.
        for number in 0..5_u32 {
            let (task, execution) = (format!("T{number}"), format!("E{number}"));
            scene.server.assign(&task, &execution, true);
            scene.executor.sleep(scene.executor.duration(Duration::from_millis(1), Duration::from_secs(30))).await;
            engine.refuse(Duration::from_secs(60));
            scene.executor.sleep(LONGEST_TASK + Duration::from_secs(600)).await;
        }
        let succeeded = scene.server.ledger(|ledger| ledger.ended_in("succeeded"));
        if succeeded != 5 {
            scene.watch.violate(format!("{succeeded} of 5 tasks succeeded"));
        }
    });
}

#[test]
fn what_a_task_wrote_that_is_taken_up_is_shown_without_its_secrets_or_not_at_all() {
    let reports = on_an_engine(|scene| async move {
        let engine = engine(&scene);
        engine.heal();
        let other = Neighbour::start(&scene).unwrap();
        is_idle(&scene, &other).await;
        // Some end by themselves before.
        let mut number = 0;
        while !engine.fail(&format!("N{number}")) {
            if other.is_idle() {
                other.assign_with([("SECRET", SECRET)].into_iter().collect());
                number += 1;
            }
            scene.executor.sleep(Duration::from_secs(1)).await;
        }
        other.kill();
        // Only the engine can tell the next worker what the secrets are, and it does not always.
        engine.refuse_looks();
        is_idle(&scene, &other).await;
    });
    let shown = |text: &str| reports.iter().filter(|report| report.trace.contains(text)).count();
    let (written, kept_back) = (shown(" wrote: SECRET=***"), shown("cannot show what the container wrote"));
    assert!(written > 0 && kept_back > 0, "shown in {written} runs, and kept back in {kept_back}");
}

#[test]
fn a_task_on_an_engine_without_a_bridge_is_taken_up_too() {
    let reports = on_an_engine(|scene| async move {
        let engine = engine(&scene);
        engine.heal();
        engine.lose_bridge();
        scene.ready().await;
        scene.server.assign("T1", "E1", true);
        let begun = scene.executor.now();
        while !engine.has("E1") && scene.executor.now() < begun + LONGEST_TASK {
            scene.executor.sleep(Duration::from_millis(100)).await;
        }
        scene.executor.sleep(Duration::from_secs(1)).await;
        scene.kill();
        scene.start();
        scene.executor.sleep(LONGEST_TASK).await;
        is_told_once(&scene);
    });
    let refused = reports.iter().filter(|report| report.trace.contains("network bridge not found")).count();
    assert!(refused > 0, "no container ran when it was taken up");
}

/// Waits until the other worker has nothing to do.
async fn is_idle(scene: &Scene, other: &Neighbour) {
    while !other.is_idle() {
        scene.executor.sleep(Duration::from_secs(1)).await;
    }
}
