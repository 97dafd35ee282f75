//! What must hold once nothing breaks any more: the next assignment is answered, everything ends, nothing is left.

use std::time::Duration;

use futures_lite::FutureExt;
use oz_worker_runtime::Lane;

use super::Storm;
use crate::engine::{OTHER, OURS};
use crate::ledger::Ledger;
use crate::pair::{self, Pair};
use crate::scene::{MACHINE, ROOT, Scene};

/// `docs/protocol.md`: the longest wait between two dials, and what the guarantee adds to it.
const CLAIM_BOUND: Duration = Duration::from_secs(60 + 10);
/// The same: how long a dial may take, when one is under way whose bytes were lost.
const DIAL_LIMIT: Duration = Duration::from_secs(45);
/// How long a worker may take to begin once nothing is wrong any more: what it waits for when the last fault is over, and a
/// start after one that failed.
const READY_BOUND: Duration = Duration::from_secs(200);
/// How long the tasks may take to end once nothing is wrong any more: the agent's ten minutes, and what the faults left.
const CALM: Duration = Duration::from_secs(1800);

impl Storm {
    /// From now on nothing breaks.
    pub(super) fn heal(&self) {
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
    pub(super) async fn settle(&self) {
        let Some(pair) = &self.pair else { return };
        for (task, execution) in pair.settle().await {
            self.scene.server.assign(&task, &execution, !task.starts_with('M'));
        }
    }

    /// Liveness: the next assignment is answered soon. (Whether it may be rejected is for the ledger to say.)
    pub(super) async fn answers_in_time(&mut self) -> (String, String) {
        self.ready_in_time().await;
        let server = self.scene.server.clone();
        let (task, execution) = self.assign_new_to(&server);
        let Scene { executor, watch, .. } = &self.scene;
        let started = executor.now();
        let bound = if watch.is_dialling() { CLAIM_BOUND + DIAL_LIMIT } else { CLAIM_BOUND };
        let answered = async {
            server.answered(&task, &execution).await;
            true
        };
        let late = async {
            executor.sleep(bound).await;
            false
        };
        let in_time = answered.or(late).await;
        let took = executor.now().checked_sub(started).unwrap_or_default();
        if in_time {
            self.scene.journal.note(|| format!("server: answered after {took:?}"));
        } else {
            watch.violate(format!("the next assignment was not answered within {bound:?} of the last fault"));
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
    pub(super) async fn nothing_is_left(&self) {
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
    pub(super) async fn everything_ends(&mut self) {
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
    pub(super) async fn stop(&mut self, amid_faults: bool) {
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
        if self.scene.runs_elsewhere() {
            // With its process everything of it is over.
            executor.kill(MACHINE);
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
    pub(super) async fn the_second_leaves(&self) {
        if let Some(Pair { second, .. }) = self.pair.as_ref().filter(|pair| pair.second.is_running()) {
            pair::leave(second).await;
        }
    }
}
