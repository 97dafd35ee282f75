//! The workers that call the API server. Each comes its own way, by which it is known whose a request is; they have one id.

use std::collections::BTreeSet;

use futures_lite::FutureExt;

use super::laws::Eye;
use super::store::Kind;
use super::{Cluster, EXECUTION_ID, TOLD};
use crate::executor::{Machine, OUTSIDE};
use crate::network::{Network, Stream};
use crate::server::Server;
use crate::watch::Watch;

/// A worker that calls, or will.
#[derive(Clone)]
pub struct Caller {
    /// Where it runs: this is how it is told from others.
    pub machine: Machine,
    pub watch: Watch,
    /// Who gives it tasks.
    server: Server,
    pub way: Network,
    /// How often it was killed: what it asked for before is its Job's orphan.
    pub deaths: u32,
}

impl Cluster {
    /// One more worker may call; gives the way that it has to take.
    pub fn admit(&self, machine: Machine, watch: &Watch, server: &Server) -> Network {
        let (way, accepted) = Network::new(&self.executor, &self.journal);
        way.set_sturdy();
        let (watch, server) = (watch.clone(), server.clone());
        watch.judge_by(Eye { truths: self.truths.clone(), machine });
        self.state().callers.push(Caller { machine, watch, server, way: way.clone(), deaths: 0 });
        let own = self.clone();
        self.executor.spawn(OUTSIDE, async move {
            while let Ok(stream) = accepted.recv().await {
                let cluster = own.clone();
                own.executor.spawn(OUTSIDE, async move { cluster.serve(stream, machine).await });
            }
        });
        way
    }

    async fn serve(&self, mut stream: Stream, machine: Machine) {
        let stopped = self.state().stopped.1.clone();
        let breaks = async {
            let _ = stopped.recv().await;
        };
        let answered = async { while self.answer(&mut stream, machine).await.is_ok() {} };
        answered.or(breaks).await;
    }

    /// A worker was killed, or has left.
    pub fn lost(&self, machine: Machine) {
        let mut state = self.state();
        let mut untold = BTreeSet::new();
        for (_, job) in state.store.all(Kind::Job) {
            let annotations = &job["metadata"]["annotations"];
            if annotations[TOLD].is_null() {
                untold.extend(annotations[EXECUTION_ID].as_str().map(str::to_owned));
            }
        }
        self.truths.orphan(machine, &untold);
        state.lists.forget(machine);
        state.callers.iter_mut().filter(|caller| caller.machine == machine).for_each(|caller| caller.deaths += 1);
    }

    /// All of them.
    pub(super) fn callers(&self) -> Vec<Caller> {
        self.state().callers.clone()
    }

    /// How often that worker was killed.
    pub(super) fn deaths(&self, machine: Machine) -> u32 {
        self.state().callers.iter().find(|caller| caller.machine == machine).map_or(0, |caller| caller.deaths)
    }

    /// The log of the worker that has this execution.
    pub(super) fn watch_of(&self, holder: Option<Machine>) -> Watch {
        let callers = self.callers();
        let caller = callers.into_iter().find(|caller| Some(caller.machine) == holder);
        caller.map_or_else(|| self.watch.clone(), |caller| caller.watch)
    }

    /// A worker has made the Job of an execution its own. Law: what a living worker has is left alone, unless the server gave
    /// the execution to the other one too.
    pub(super) fn taken_up(&self, task: &str, execution: &str, taker: Machine) {
        let (before, may) = self.truths.note(execution, |truth| {
            let may = truth.is_orphan || truth.given.contains(&taker);
            (truth.is_orphan, truth.is_taken_up) = (false, true);
            (truth.holder.replace(taker), may)
        });
        if before.is_some_and(|before| before != taker) && !may {
            self.watch.violate(format!("a worker takes up the Job of {execution}, which a living one has"));
        }
        for caller in self.callers() {
            caller.server.ledger(|ledger| {
                if caller.machine == taker { ledger.adopts(task, execution) } else { ledger.loses(task, execution) }
            });
        }
    }
}
