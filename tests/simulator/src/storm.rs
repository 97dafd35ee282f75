//! A run in two phases: in the first anything may break, in the second nothing does and everything must end well.

use std::time::Duration;

use futures_lite::FutureExt;
use oz_worker_runtime::Lane;
use tungstenite::Message;

use crate::Options;
use crate::engine::{OTHER, OURS};
use crate::ledger::Ledger;
use crate::neighbour::Neighbour;
use crate::network::Cut;
use crate::pair::{self, Pair};
use crate::scene::{MACHINE, ROOT, Scene};
use crate::server::Server;

/// `docs/protocol.md`: the longest wait between two dials, and what the guarantee adds to it.
const CLAIM_BOUND: Duration = Duration::from_secs(60 + 10);
/// How long a worker may take to begin once nothing is wrong any more: what it waits for when the last fault is over, and a
/// start after one that failed.
const READY_BOUND: Duration = Duration::from_secs(200);
/// How long the tasks may take to end once nothing is wrong any more: the agent's ten minutes, and what the faults left.
const CALM: Duration = Duration::from_secs(1800);

/// Drives a scene through both phases.
pub async fn drive(scene: Scene, options: Options) {
    let neighbour = Neighbour::start(&scene);
    let pair = Pair::start(&scene).filter(|_| options.engine);
    let mut storm = Storm { tasks: 0, executions: 0, was_killed: false, neighbour, pair, scene };
    storm.break_things(options).await;
    if storm.scene.executor.chance(25) {
        storm.stop(true).await;
        if !storm.scene.runs_elsewhere() || !options.engine {
            return;
        }
        // What it could not remove the next one does.
        storm.heal();
        storm.restart().await;
    }
    storm.heal();
    storm.settle().await;
    storm.answers_in_time().await;
    storm.everything_ends().await;
    storm.stop(false).await;
    storm.the_second_leaves().await;
    storm.nothing_is_left().await;
}

fn owned((task, execution): (&str, &str)) -> (String, String) {
    (task.to_owned(), execution.to_owned())
}

struct Storm {
    scene: Scene,
    tasks: u32,
    executions: u32,
    /// Whether the worker was ever killed.
    was_killed: bool,
    /// Another worker on the same engine.
    neighbour: Option<Neighbour>,
    /// Another worker of the same id on the same cluster.
    pair: Option<Pair>,
}

impl Storm {
    async fn break_things(&mut self, options: Options) {
        let Scene { executor, network, server, machine, engine, cluster, .. } = self.scene.clone();
        let drawn = |wanted: bool| wanted && executor.chance(80);
        network.set_faulty(drawn(options.network));
        let addresses = executor.random(|random| random.u16(1..=6));
        network.set_addresses(addresses, executor.random(|random| random.u16(1..=addresses)));
        server.set_faulty(drawn(options.server));
        if let Some(Pair { second, .. }) = &self.pair {
            second.network.set_faulty(drawn(options.network));
            second.server.set_faulty(drawn(options.server));
            second.machine.lanes.set_faulty(drawn(options.blocking));
        }
        machine.processes.set_faulty(drawn(options.processes));
        machine.disk.set_faulty(drawn(options.disk));
        machine.lanes.set_faulty(drawn(options.blocking));
        if let Some(engine) = &engine {
            engine.set_faulty(drawn(options.engine));
        }
        if let Some(cluster) = &cluster {
            cluster.set_faulty(drawn(options.engine), drawn(options.engine));
        }
        let steps = executor.random(|random| random.u32(5..=60));
        for _ in 0..steps {
            executor.sleep(executor.duration(Duration::from_micros(10), Duration::from_secs(600))).await;
            self.act(options);
            if engine.is_some() {
                self.act_on_engine(options).await;
            }
            if cluster.is_some() {
                self.act_on_cluster(options).await;
            }
            if executor.chance(20) {
                self.scene.check_metrics();
                if let Some(Pair { second, .. }) = self.pair.as_ref().filter(|pair| pair.second.is_running()) {
                    second.check_metrics();
                }
            }
        }
    }

    /// One thing that happens.
    fn act(&mut self, options: Options) {
        let Scene { executor, server, .. } = &self.scene;
        match executor.random(|random| random.u32(..100)) {
            0..40 => drop(self.assign_new()),
            40..46 => self.assign_again(),
            46..52 => self.assign_anew(),
            52..62 => self.cancel(),
            62..66 => self.send_nonsense(),
            66..70 => self.assign_malformed(),
            70..72 => server.send(Message::Ping(vec![1, 2, 3].into())),
            // A burst, and a cancellation that overtakes the start.
            72..76 => (0..8).for_each(|_| drop(self.assign_new())),
            76..80 => {
                self.assign_new();
                self.cancel_task(&format!("T{}", self.tasks));
            }
            80..84 if options.server => server.close(),
            84..88 if options.server => {
                server.turn_deaf(executor.duration(Duration::from_millis(100), Duration::from_secs(120)));
            }
            88..92 if options.network => {
                let kinds = [Cut::Reset, Cut::HangUp, Cut::Silence, Cut::Deaf];
                server.cut(executor.random(|random| random.choice(kinds)).unwrap_or(Cut::Reset));
            }
            92..96 if options.network => self.outage(),
            96..98 if options.suspend => self.suspend(),
            98.. if options.blocking => self.hold_up(),
            _ => {}
        }
    }

    /// One thing that happens to the engine or to a worker on it.
    async fn act_on_engine(&mut self, options: Options) {
        let (Some(engine), Some(neighbour)) = (&self.scene.engine, &self.neighbour) else { return };
        match self.scene.executor.random(|random| random.u32(..100)) {
            0..25 if options.engine => engine.befall(),
            25..35 if options.engine => self.restart().await,
            35..42 if options.engine => neighbour.kill(),
            42..52 => neighbour.assign(),
            52..57 => neighbour.stop(false),
            _ => {}
        }
    }

    /// One thing that happens to the cluster or to the worker on it.
    async fn act_on_cluster(&mut self, options: Options) {
        let Some(cluster) = self.scene.cluster.clone().filter(|_| options.engine) else { return };
        match self.scene.executor.random(|random| random.u32(..100)) {
            0..50 => cluster.befall(),
            50..55 => self.restart().await,
            55..60 if self.pair.is_some() => self.replace().await,
            _ => {}
        }
    }

    /// The worker is killed, if it has not left, and another one begins in its place.
    async fn restart(&mut self) {
        self.was_killed = true;
        self.scene.kill();
        let Scene { executor, .. } = self.scene.clone();
        executor.sleep(executor.duration(Duration::from_secs(1), Duration::from_secs(60))).await;
        self.scene.start();
    }

    /// The worker is asked to leave, and another one begins in its place.
    async fn replace(&mut self) {
        self.was_killed = true;
        let Scene { executor, .. } = self.scene.clone();
        executor.resume(MACHINE);
        pair::leave(&self.scene).await;
        executor.sleep(executor.duration(Duration::from_secs(1), Duration::from_secs(60))).await;
        self.scene.start();
    }

    /// The worker that is given the next task.
    fn anyone(&self) -> &Scene {
        match &self.pair {
            Some(Pair { second, .. }) if second.is_running() && self.scene.executor.chance(40) => second,
            _ => &self.scene,
        }
    }

    fn execution(&mut self) -> String {
        self.executions += 1;
        format!("E{}", self.executions)
    }

    fn assign_new(&mut self) -> (String, String) {
        let server = self.anyone().server.clone();
        self.assign_new_to(&server)
    }

    fn assign_new_to(&mut self, server: &Server) -> (String, String) {
        self.tasks += 1;
        let (task, execution) = (format!("T{}", self.tasks), self.execution());
        if self.scene.executor.chance(2) {
            // Somebody made a directory of that name.
            self.scene.machine.disk.put(&format!("{ROOT}/{task}"));
        }
        server.assign(&task, &execution, true);
        (task, execution)
    }

    fn assign_malformed(&mut self) {
        self.tasks += 1;
        let (task, execution) = (format!("M{}", self.tasks), self.execution());
        self.scene.server.assign(&task, &execution, false);
    }

    /// The same execution of an active task.
    fn assign_again(&mut self) {
        let server = &self.scene.server;
        let active: Vec<_> = server.ledger(|ledger| {
            // An older execution is never assigned again once there is a newer one.
            let is_last = |(task, _): &(&str, &str)| ledger.unanswered().all(|(waiting, _)| waiting != *task);
            ledger.active().filter(is_last).map(owned).collect()
        });
        if let Some((task, execution)) = self.scene.executor.random(|random| random.choice(active)) {
            server.assign_again(&task, &execution, self.scene.executor.chance(70));
        }
    }

    /// A new execution of a task that is active or over. Only while nobody can take what is under way for an answer to it.
    fn assign_anew(&mut self) {
        let server = self.scene.server.clone();
        if !server.is_settled() {
            return;
        }
        let tasks: Vec<String> = server.ledger(|ledger| {
            let active = ledger.active().map(|(task, _)| task);
            active.chain(ledger.over()).map(Into::into).collect()
        });
        let Some(task) = self.scene.executor.random(|random| random.choice(tasks)) else { return };
        let unanswered = server.ledger(|ledger| ledger.unanswered().any(|(waiting, _)| waiting == task));
        if task.starts_with('M') || unanswered || server.was_repeated(&task) {
            return;
        }
        let execution = self.execution();
        server.assign(&task, &execution, true);
    }

    fn cancel(&mut self) {
        let number = self.scene.executor.random(|random| random.u32(..=self.tasks));
        self.cancel_task(&format!("T{number}"));
    }

    /// Every worker of the id hears of it: the server need not know which of them has the task.
    fn cancel_task(&self, task: &str) {
        self.scene.server.cancel(task);
        if let Some(Pair { second, .. }) = &self.pair {
            second.server.cancel(task);
        }
    }

    fn send_nonsense(&self) {
        let nonsense = [
            Message::text("{}"),
            Message::text("not JSON"),
            Message::text(r#"{"type":"task_paused","data":{}}"#),
            Message::text(r#"{"type":"task_assignment","data":{"task":{}}}"#),
            Message::text(r#"{"type":"task_cancellation","data":null}"#),
            Message::binary(vec![0; 100]),
        ];
        if let Some(message) = self.scene.executor.random(|random| random.choice(nonsense)) {
            self.scene.server.send(message);
        }
    }

    fn outage(&self) {
        let length = self.scene.executor.duration(Duration::from_secs(1), Duration::from_secs(3600));
        self.scene.journal.note(|| format!("network: outage of {length:?}"));
        self.scene.network.set_outage(true);
        let own = self.scene.clone();
        self.scene.executor.spawn(crate::executor::OUTSIDE, async move {
            own.executor.sleep(length).await;
            own.network.set_outage(false);
        });
    }

    /// A file system that does not answer, also when everything else is well again: nothing but what needs it may suffer.
    fn hold_up(&self) {
        let Scene { executor, machine, .. } = &self.scene;
        let seconds = |longest| executor.duration(Duration::from_secs(1), Duration::from_secs(longest));
        let (lane, length) = match executor.random(|random| random.u32(..3)) {
            // Who asks an engine or a cluster needs that lane at its own start.
            0 if !self.scene.runs_elsewhere() => (Lane::Start, seconds(3 * 3600)),
            1 => (Lane::Finish, seconds(60)),
            _ => (Lane::Remove, seconds(30 * 24 * 3600)),
        };
        machine.lanes.hold_up(lane, length);
    }

    fn suspend(&self) {
        let length = self.scene.executor.duration(Duration::from_secs(1), Duration::from_secs(6 * 3600));
        self.scene.journal.note(|| format!("host: suspended for {length:?}"));
        self.scene.executor.suspend(MACHINE);
        let own = self.scene.clone();
        self.scene.executor.spawn(crate::executor::OUTSIDE, async move {
            own.executor.sleep(length).await;
            own.executor.resume(MACHINE);
        });
    }

    /// From now on nothing breaks.
    fn heal(&self) {
        let Scene { executor, network, server, machine, journal, .. } = &self.scene;
        journal.note(|| "all faults are over".to_owned());
        executor.resume(MACHINE);
        network.heal();
        server.heal();
        machine.processes.set_faulty(false);
        machine.disk.set_faulty(false);
        machine.lanes.set_faulty(false);
        if let Some(Pair { second, .. }) = &self.pair {
            second.network.heal();
            second.server.heal();
            second.machine.lanes.set_faulty(false);
        }
        if let Some(engine) = &self.scene.engine {
            engine.heal();
        }
        if let Some(cluster) = &self.scene.cluster {
            cluster.heal();
        }
    }

    /// From now on no worker comes or goes. What one that is gone has not answered goes to the other.
    async fn settle(&self) {
        let Some(pair) = &self.pair else { return };
        for (task, execution) in pair.settle().await {
            self.scene.server.assign(&task, &execution, !task.starts_with('M'));
        }
    }

    /// Liveness: the next assignment is answered soon. (Whether it may be rejected is for the ledger to say.)
    async fn answers_in_time(&mut self) -> (String, String) {
        self.ready_in_time().await;
        let server = self.scene.server.clone();
        let (task, execution) = self.assign_new_to(&server);
        let Scene { executor, watch, .. } = &self.scene;
        let started = executor.now();
        let answered = async {
            server.answered(&task, &execution).await;
            true
        };
        let late = async {
            executor.sleep(CLAIM_BOUND).await;
            false
        };
        let in_time = answered.or(late).await;
        let took = executor.now().checked_sub(started).unwrap_or_default();
        if in_time {
            self.scene.journal.note(|| format!("server: answered after {took:?}"));
        } else {
            watch.violate(format!("the next assignment was not answered within {CLAIM_BOUND:?} of the last fault"));
        }
        (task, execution)
    }

    /// Liveness: with its engine there, a worker begins soon.
    async fn ready_in_time(&self) {
        let Scene { executor, watch, .. } = &self.scene;
        let is_ready = async {
            self.scene.ready().await;
            true
        };
        let late = async {
            executor.sleep(READY_BOUND).await;
            false
        };
        if !is_ready.or(late).await {
            watch.violate(format!("the worker was not ready within {READY_BOUND:?} of the last fault"));
        }
    }

    /// Law: on the engine nothing is left that is a worker's, but whole volumes and what keeps them.
    async fn nothing_is_left(&self) {
        let Scene { executor, watch, operator, .. } = self.scene.clone();
        let (Some(engine), Some(neighbour)) = (&self.scene.engine, &self.neighbour) else { return };
        self.scene.kill();
        let until = executor.now() + CALM;
        while !neighbour.is_idle() || !engine.left(OTHER, true).is_empty() {
            if executor.now() > until {
                return watch.violate(format!("the other worker never comes to rest: {:?}", engine.left(OTHER, true)));
            }
            neighbour.stop(true);
            executor.sleep(Duration::from_secs(5)).await;
        }
        executor.sleep(Duration::from_secs(5)).await;
        let left = engine.left(OURS, operator.cleanup);
        if !left.is_empty() {
            watch.violate(format!("{left:?} are left on the engine"));
        }
    }

    /// Liveness: what was claimed ends, and the next task runs from claim to end.
    async fn everything_ends(&mut self) {
        let Scene { executor, server, watch, operator, machine, .. } = self.scene.clone();
        let until = executor.now() + CALM;
        loop {
            let waiting: Vec<String> = server.ledger(|ledger| {
                let active = ledger.active().filter(|_| !operator.dispatches);
                active.chain(ledger.unanswered()).map(|(task, _)| task.to_owned()).collect()
            });
            let of_second = self.pair.as_ref().map_or_else(Vec::new, |pair| {
                let owes = |ledger: &mut Ledger| {
                    ledger.active().chain(ledger.unanswered()).map(|(task, _)| task.to_owned()).collect()
                };
                pair.second.server.ledger(owes)
            });
            let waiting = [waiting, of_second].concat();
            // What a worker left that is gone is taken up within half a minute; deletions are under way for two at most.
            let left = self.scene.cluster.as_ref().map_or_else(Vec::new, |cluster| cluster.left(operator.cleanup));
            if waiting.is_empty() && left.is_empty() {
                break;
            }
            if waiting.is_empty() && executor.now() > until {
                return watch.violate(format!("{left:?} are left on the cluster of tasks that have ended"));
            }
            if executor.now() > until {
                return watch.violate(format!("{waiting:?} did not end within {CALM:?} without faults"));
            }
            // Whatever never ends by itself is cancelled, now and then.
            for task in waiting {
                if executor.chance(30) {
                    self.cancel_task(&task);
                }
            }
            executor.sleep(Duration::from_secs(20)).await;
        }
        let left = machine.disk.own_below(ROOT);
        let removes = operator.cleanup || operator.shares_directory;
        if removes && !left.is_empty() && !watch.was_held_up(Lane::Remove) && !watch.was_held_up(Lane::Finish) {
            watch.violate(format!("{left:?} are left of tasks that have ended"));
        }
        if let Some(engine) = &self.scene.engine {
            // What could not be removed at once is tried again every half minute.
            while !engine.left(OURS, operator.cleanup).is_empty() {
                if executor.now() > until {
                    let left = engine.left(OURS, operator.cleanup);
                    return watch.violate(format!("{left:?} are left on the engine of tasks that have ended"));
                }
                executor.sleep(Duration::from_secs(5)).await;
            }
        }
        self.scene.check_metrics();
        self.check_totals();
        let (task, execution) = self.answers_in_time().await;
        if !operator.dispatches && server.ledger(|ledger| !ledger.is_claimed(&task, &execution)) {
            watch.violate(format!("{task} was not claimed although nothing else holds a slot"));
        }
    }

    /// With nothing under way the server has heard of each end, and the metrics show as many.
    fn check_totals(&self) {
        let Scene { server, watch, operator, .. } = &self.scene;
        if operator.dispatches || self.was_killed || self.pair.is_some() {
            return;
        }
        let shown = self.scene.scrape();
        for result in ["succeeded", "failed", "cancelled"] {
            let series = format!("oz_worker_tasks_completed_total{{result={result}}}");
            let counted = shown.get(&series).copied().unwrap_or_default();
            let heard = server.ledger(|ledger| ledger.ended_in(result));
            #[allow(clippy::cast_precision_loss)] // nothing counts that far
            let differs = (counted - heard as f64).abs() > 0.1;
            // The end of an execution that a newer one replaced may never have been heard.
            if differs && !server.ledger(|ledger| ledger.has_replaced()) {
                watch.violate(format!("{series} is {counted}, and the server heard of {heard}"));
            }
        }
    }

    /// SIGTERM, perhaps twice, and what must have happened when the worker has left.
    async fn stop(&mut self, amid_faults: bool) {
        let Scene { executor, server, watch, operator, machine, .. } = self.scene.clone();
        if amid_faults {
            // Time that the machine sleeps is not the worker's.
            executor.resume(MACHINE);
        }
        self.scene.ask_to_leave();
        for _ in 0..executor.random(|random| random.u32(..4)) {
            executor.sleep(executor.duration(Duration::from_micros(10), Duration::from_secs(10))).await;
            self.assign_new();
        }
        if !self.scene.leaves_in_time().await {
            return;
        }
        // What was killed last dies now.
        executor.sleep(Duration::from_secs(10)).await;
        if !amid_faults && !operator.dispatches {
            let alive = machine.processes.alive();
            if alive > 0 && !watch.was_held_up(Lane::Finish) {
                watch.violate(format!("{alive} processes are alive after the worker left"));
            }
        }
        if !amid_faults && server.close_code() != Some(1000) {
            watch.violate(format!("the worker closed with {:?} and not with 1000", server.close_code()));
        }
    }

    /// A second worker that is still there leaves too.
    async fn the_second_leaves(&self) {
        if let Some(Pair { second, .. }) = self.pair.as_ref().filter(|pair| pair.second.is_running()) {
            pair::leave(second).await;
        }
    }
}
