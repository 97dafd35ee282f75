//! The guarantees that a certain course of events shows best; `docs/guarantees.md` names each.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures_lite::FutureExt;
use oz_worker_runtime::Lane;
use oz_worker_simulator::fleet::drop_all;
use oz_worker_simulator::network::Cut;
use oz_worker_simulator::scene::{MACHINE, Operator, Scene};
use oz_worker_simulator::{Report, run};

const HOUR: Duration = Duration::from_secs(3600);

/// Runs `drive` on a few seeds.
fn on_seeds<F: Future<Output = ()> + Send + 'static>(drive: fn(Scene) -> F) -> Vec<Report> {
    let stage = |executor: &_| Scene::new(executor, Operator { limit: 4, ..Operator::draw(executor) });
    let reports: Vec<Report> = (0..20).map(|seed| run(seed, 1000 * HOUR, stage, drive)).collect();
    for report in &reports {
        assert!(report.violations.is_empty(), "{report}");
    }
    reports
}

/// Assigns a task and says how long its answer took; at most `limit`.
async fn answer_to(scene: &Scene, task: &str, limit: Duration) -> Duration {
    let started = scene.executor.now();
    scene.server.assign(task, task, true);
    let late = async {
        scene.executor.sleep(limit).await;
        scene.watch.violate(format!("{task} was not answered within {limit:?}"));
    };
    scene.server.answered(task, task).or(late).await;
    since(scene, started)
}

fn since(scene: &Scene, moment: Duration) -> Duration {
    scene.executor.now().checked_sub(moment).unwrap()
}

/// How long it took from now until the worker wrote a line that begins so.
async fn line(scene: &Scene, beginning: &str) -> Duration {
    let started = scene.executor.now();
    scene.watch.line(beginning).await;
    since(scene, started)
}

fn expect(scene: &Scene, what: &str, took: Duration, wanted: Duration) {
    // By a clock that is wrong by 0.05 % at most.
    let slack = Duration::from_secs(1);
    if took + slack < wanted || took > wanted + slack {
        scene.watch.violate(format!("{what} took {took:?}, not {wanted:?}"));
    }
}

#[test]
fn an_hour_of_outage_writes_at_most_100_lines() {
    async fn drive(scene: Scene) {
        answer_to(&scene, "T1", Duration::from_secs(10)).await;
        scene.executor.sleep(HOUR).await;
        let before = scene.watch.lines();
        scene.network.set_outage(true);
        scene.server.cut(Cut::Reset);
        scene.executor.sleep(HOUR).await;
        let lines = scene.watch.lines() - before;
        if lines > 100 {
            scene.watch.violate(format!("an hour of outage wrote {lines} lines"));
        }
    }
    on_seeds(drive);
}

#[test]
fn after_six_hours_of_suspend_the_next_assignment_is_claimed_in_time() {
    async fn drive(scene: Scene) {
        answer_to(&scene, "T1", Duration::from_secs(10)).await;
        scene.executor.suspend(MACHINE);
        scene.executor.sleep(6 * HOUR).await;
        scene.executor.resume(MACHINE);
        answer_to(&scene, "T2", Duration::from_secs(70)).await;
    }
    on_seeds(drive);
}

#[test]
fn silence_is_noticed_after_60_s_and_answered_pings_keep_the_session() {
    async fn drive(scene: Scene) {
        answer_to(&scene, "T1", Duration::from_secs(10)).await;
        scene.executor.sleep(HOUR).await;
        if scene.network.dials().len() != 1 {
            scene.watch.violate("an hour in which nothing happened ended the session".to_owned());
        }
        // What the worker received last is the answer to this.
        answer_to(&scene, "T2", Duration::from_secs(10)).await;
        scene.server.cut(Cut::Silence);
        let noticed = line(&scene, "disconnected: nothing was received for 60 s").await;
        expect(&scene, "noticing the silence", noticed, Duration::from_secs(60));
        answer_to(&scene, "T3", Duration::from_secs(70)).await;
    }
    on_seeds(drive);
}

#[test]
fn a_handshake_that_hangs_fails_after_45_s() {
    async fn drive(scene: Scene) {
        scene.network.set_silent(true);
        let failed = line(&scene, "dial failed: not connected after 45 s").await;
        expect(&scene, "giving the dial up", failed, Duration::from_secs(45));
        scene.network.set_silent(false);
        answer_to(&scene, "T1", Duration::from_secs(70)).await;
    }
    on_seeds(drive);
}

#[test]
fn a_write_that_takes_10_s_ends_the_session() {
    async fn drive(scene: Scene) {
        answer_to(&scene, "T1", Duration::from_secs(10)).await;
        // More rejections and claims than the buffers of a server that reads nothing can take.
        scene.server.turn_deaf(HOUR);
        for number in 0..3000 {
            scene.server.assign(&format!("B{number}"), &format!("B{number}"), true);
        }
        let ended = line(&scene, "disconnected: a write took longer than 10 s").await;
        // The writes that still found room count from the last of them.
        if !(Duration::from_secs(9)..Duration::from_secs(30)).contains(&ended) {
            scene.watch.violate(format!("the stuck write was noticed after {ended:?}"));
        }
    }
    on_seeds(drive);
}

/// As [`on_seeds`], with the direct backend.
fn on_seeds_direct<F: Future<Output = ()> + Send + 'static>(drive: fn(Scene) -> F) {
    let stage = |executor: &_| {
        let operator = Operator {
            limit: 4,
            dispatches: false,
            contains: false,
            drain: Duration::ZERO,
            ..Operator::draw(executor)
        };
        Scene::new(executor, operator)
    };
    for seed in 0..20 {
        let report = run(seed, 1000 * HOUR, stage, drive);
        assert!(report.violations.is_empty(), "{report}");
    }
}

#[test]
fn a_worker_whose_tasks_do_not_begin_takes_no_other_and_hears_a_cancellation_and_sigterm() {
    async fn drive(scene: Scene) {
        let (soon, reject) = (Duration::from_secs(10), "not ready: ");
        answer_to(&scene, "T1", soon).await;
        scene.server.cancel("T1");
        // Its grace period, and its teardown.
        scene.executor.sleep(Duration::from_secs(60)).await;
        scene.machine.lanes.hold_up(Lane::Start, 100 * HOUR);
        answer_to(&scene, "T2", soon).await;
        expect(&scene, "noticing that it does not begin", line(&scene, reject).await, Duration::from_secs(10));
        answer_to(&scene, "T3", soon).await;
        if scene.server.ledger(|ledger| ledger.is_claimed("T3", "T3")) {
            scene.watch.violate("a worker that cannot begin a task claimed another".to_owned());
        }
        scene.server.cancel("T2");
        expect(&scene, "the cancellation", line(&scene, "ready again").await, Duration::ZERO);
        answer_to(&scene, "T4", soon).await;
        if !scene.server.ledger(|ledger| ledger.is_claimed("T4", "T4")) {
            scene.watch.violate("nothing is stuck any more, and T4 was not claimed".to_owned());
        }
        let asked = scene.executor.now();
        scene.signal("SIGTERM");
        let _ = scene.left.recv().await;
        expect(&scene, "leaving", since(&scene, asked), Duration::from_secs(1));
    }
    on_seeds_direct(drive);
}

#[test]
fn a_removal_that_hangs_holds_up_neither_the_end_of_its_task_nor_the_next_dial() {
    async fn drive(scene: Scene) {
        for lane in [Lane::Finish, Lane::Remove] {
            scene.machine.lanes.hold_up(lane, 100 * HOUR);
        }
        answer_to(&scene, "T1", Duration::from_secs(10)).await;
        scene.server.cancel("T1");
        // The grace period, and how long a task waits for the end of what it leaves behind; setup and teardown.
        let longest = scene.operator.grace + Duration::from_secs(10 + 6 + 2 * 3);
        scene.executor.sleep(longest).await;
        if scene.server.ledger(|ledger| ledger.active().count()) > 0 {
            scene.watch.violate(format!("the end of T1 was not told within {longest:?}"));
        }
        scene.server.cut(Cut::Reset);
        answer_to(&scene, "T2", Duration::from_secs(10)).await;
    }
    on_seeds_direct(drive);
}

/// The most dials in any 100 ms.
fn peak(dials: &[Duration]) -> usize {
    let within =
        |from: &Duration| dials.iter().filter(|at| (*from..*from + Duration::from_millis(100)).contains(at)).count();
    dials.iter().map(within).max().unwrap_or_default()
}

#[test]
fn a_thousand_workers_dropped_at_once_come_back_spread_out() {
    for seed in 0..3 {
        let dials = drop_all(seed, 1000, Duration::ZERO);
        assert_eq!(dials.len(), 1000);
        let last = dials.iter().max().unwrap();
        // From the moment of the drop to the last one.
        let mean = dials.len() * 100 / usize::try_from(last.as_millis()).unwrap();
        let most = peak(&dials);
        assert!(most <= 3 * mean, "{most} dials within 100 ms, {mean} on average");
    }
}

#[test]
fn a_thousand_workers_that_find_no_server_spread_out_ever_more() {
    let dials = drop_all(7, 1000, Duration::from_secs(120));
    let within = |from: u64, to: u64| {
        let times = Duration::from_secs(from)..Duration::from_secs(to);
        dials.iter().copied().filter(|at| times.contains(at)).collect::<Vec<_>>()
    };
    let (first, later) = (peak(&within(0, 2)), peak(&within(60, 120)));
    assert!(first <= 300, "{first} dials within 100 ms at first");
    assert!(later <= 20, "{later} dials within 100 ms a minute later");
    assert!(peak(&dials) <= first, "it never gets worse than at first");
}
