//! The guarantees that a certain course of events shows best; `docs/guarantees.md` names each.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures_lite::FutureExt;
use oz_worker_runtime::Lane;
use oz_worker_simulator::executor::Executor;
use oz_worker_simulator::fleet::drop_all;
use oz_worker_simulator::network::Cut;
use oz_worker_simulator::scene::{MACHINE, Operator, Scene};
use oz_worker_simulator::{Report, run};

const HOUR: Duration = Duration::from_secs(3600);

/// Runs `drive` on a few seeds.
fn on_seeds<F: Future<Output = ()> + Send + 'static>(drive: fn(Scene) -> F) -> Vec<Report> {
    on_so_many_seeds(20, drive)
}

fn operator(executor: &Executor) -> Operator {
    Operator { limit: 4, ..Operator::draw(executor) }
}

fn on_so_many_seeds<F: Future<Output = ()> + Send + 'static>(seeds: u64, drive: fn(Scene) -> F) -> Vec<Report> {
    let stage = |executor: &_| Scene::new(executor, operator(executor));
    let reports: Vec<Report> = (0..seeds).map(|seed| run(seed, 1000 * HOUR, stage, drive)).collect();
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
fn an_hour_of_a_server_that_closes_every_connection_at_once_writes_at_most_100_lines() {
    async fn drive(scene: Scene) {
        answer_to(&scene, "T1", Duration::from_secs(10)).await;
        let (lines, dials) = (scene.watch.lines(), scene.network.dials().len());
        scene.server.set_closing(true);
        scene.server.cut(Cut::Reset);
        scene.executor.sleep(HOUR).await;
        let (lines, dials) = (scene.watch.lines() - lines, scene.network.dials().len() - dials);
        if lines > 100 || !(50..100).contains(&dials) {
            scene.watch.violate(format!("an hour of that were {lines} lines and {dials} dials"));
        }
        scene.server.set_closing(false);
        answer_to(&scene, "T2", Duration::from_secs(70)).await;
    }
    on_seeds(drive);
}

#[test]
fn work_goes_on_half_a_second_after_a_good_connection_is_lost() {
    async fn drive(scene: Scene) {
        answer_to(&scene, "T0", Duration::from_secs(10)).await;
        for number in 1..20 {
            scene.server.cut(Cut::Reset);
            // Half a second, and a dial with all its ways to and fro.
            answer_to(&scene, &format!("T{number}"), Duration::from_secs(4)).await;
        }
    }
    on_seeds(drive);
}

#[test]
fn five_addresses_at_which_nobody_answers_hold_a_dial_up_for_little_more_than_a_second() {
    async fn drive(scene: Scene) {
        answer_to(&scene, "T0", Duration::from_secs(10)).await;
        scene.network.set_addresses(6, 1);
        scene.server.cut(Cut::Reset);
        answer_to(&scene, "T1", Duration::from_secs(6)).await;
    }
    on_seeds(drive);
}

#[test]
fn what_takes_two_minutes_over_a_slow_link_arrives_either_way() {
    async fn drive(scene: Scene) {
        answer_to(&scene, "T1", Duration::from_secs(10)).await;
        let dials = scene.network.dials().len();
        scene.network.set_rate(Some(2000));
        scene.server.assign_large("T2", 250_000);
        scene.server.answered("T2", "T2").await;
        // As much the other way: answers of 100 bytes.
        scene.network.set_rate(None);
        scene.server.turn_deaf(Duration::from_secs(5));
        for number in 0..1300 {
            scene.server.assign(&format!("B{number}"), &format!("B{number}"), true);
        }
        scene.executor.sleep(Duration::from_secs(4)).await;
        scene.network.set_rate(Some(2000));
        scene.server.answered("B1299", "B1299").await;
        if scene.network.dials().len() != dials {
            scene.watch.violate("a connection that was slow was taken for dead".to_owned());
        }
    }
    // Thousands of messages each.
    on_so_many_seeds(2, drive);
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
        let _ = scene.left().recv().await;
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

#[test]
fn a_dispatch_that_even_sigkill_does_not_end_frees_its_slot() {
    async fn drive(scene: Scene) {
        scene.machine.processes.set_stuck(true);
        answer_to(&scene, "T1", Duration::from_secs(10)).await;
        scene.executor.sleep(Duration::from_secs(1)).await;
        scene.server.cancel("T1");
        // Until the dispatch is given up, then the cancel command's time, then until that is given up.
        scene.executor.sleep(Duration::from_secs(5 + 10 + 5 + 1)).await;
        if scene.server.ledger(|ledger| ledger.active().count()) > 0 {
            scene.watch.violate("the end of a dispatch that hangs in the kernel was not told".to_owned());
        }
    }
    let stage = |executor: &_| {
        Scene::new(
            executor,
            Operator { limit: 1, dispatches: true, contains: false, drain: Duration::ZERO, ..Operator::draw(executor) },
        )
    };
    for seed in 0..20 {
        let report = run(seed, 1000 * HOUR, stage, drive);
        assert!(report.violations.is_empty(), "{report}");
    }
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
        // Half a second, and the time that the cut takes to be heard of.
        assert!(*last <= Duration::from_millis(900), "{last:?}");
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
