//! A Docker Engine: images, volumes and containers behind the real bytes of its API, and what may befall it.
//!
//! What workers call is in `calls` and `streams`, what others do to it in `doings`. It knows whose everything is, and what is whole.

mod calls;
mod containers;
mod doings;
pub(crate) mod http;
mod images;
mod laws;
mod streams;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_channel::{Receiver, Sender};

use crate::executor::{Executor, OUTSIDE};
use crate::journal::Journal;
use crate::network::{Network, Stream};
use crate::process::Kind;
use crate::watch::Watch;
use containers::{Container, EXECUTION_ID, Status, TASK_ID, Volume};
use images::{Images, is_whole};
pub use images::{MISSING, SIDECARS, TASK_IMAGES};
pub use laws::Truths;

/// When the engine was first started, in seconds since 1970: later than any real clock shows, so that no age hangs on one.
pub const EPOCH: u64 = 4_102_444_800;
/// The worker whose tasks come through the server, and the other one on the same engine.
pub const OURS: &str = "w1";
pub const OTHER: &str = "w2";

/// The engine. A clone is another handle to the same.
#[derive(Clone)]
pub struct Engine {
    executor: Executor,
    journal: Journal,
    watch: Watch,
    truths: Truths,
    /// The ways of both workers to it.
    pub ways: [Network; 2],
    state: Arc<Mutex<State>>,
}

#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
struct State {
    faulty: bool,
    /// Whether nothing is wrong any more, and nothing of what was has an effect.
    is_calm: bool,
    images: Images,
    containers: BTreeMap<String, Container>,
    volumes: BTreeMap<String, Volume>,
    serial: u64,
    /// The newest and the oldest version of its API, both 1.x.
    newest: u32,
    oldest: u32,
    hangs_until: Duration,
    /// Until when it says of every call that it is starting.
    starts_until: Duration,
    /// Whether it refuses every other look at a container, by chance.
    is_shy: bool,
    /// Whether it has no bridge, and so renames no container that runs.
    is_bridgeless: bool,
    /// Whether a container that is taken up is gone at once.
    is_removing: bool,
    /// Closed when it is stopped: whatever it is doing breaks off.
    stopped: (Sender<()>, Receiver<()>),
    /// How often each worker was killed: what it asked for before is left undone by an engine that hung.
    deaths: [u32; 2],
}

impl Engine {
    /// An engine on which nothing ever ran.
    pub fn new(executor: &Executor, journal: &Journal, watch: &Watch) -> Self {
        let accepting = [OURS, OTHER].map(|caller| (caller, Network::new(executor, journal)));
        let ways = [0, 1].map(|way: usize| accepting[way].1.0.clone());
        for way in &ways {
            way.set_sturdy();
        }
        let state = State {
            faulty: false,
            is_calm: false,
            images: Images::default(),
            containers: BTreeMap::new(),
            volumes: BTreeMap::new(),
            serial: 0,
            newest: 41,
            oldest: 24,
            hangs_until: Duration::ZERO,
            starts_until: Duration::ZERO,
            is_shy: false,
            is_bridgeless: false,
            is_removing: false,
            stopped: async_channel::bounded(1),
            deaths: [0; 2],
        };
        let engine = Self {
            executor: executor.clone(),
            journal: journal.clone(),
            watch: watch.clone(),
            truths: Truths::default(),
            ways,
            state: Arc::new(Mutex::new(state)),
        };
        watch.judge_by(engine.truths.clone());
        for (caller, (_, accepted)) in accepting {
            let own = engine.clone();
            executor.spawn(OUTSIDE, async move {
                while let Ok(stream) = accepted.recv().await {
                    let engine = own.clone();
                    own.executor.spawn(OUTSIDE, async move { engine.serve(stream, caller).await });
                }
            });
        }
        engine
    }

    pub fn truths(&self) -> &Truths {
        &self.truths
    }

    /// Whether it, the registry and the ways to it misbehave from now on, by chance.
    pub fn set_faulty(&self, faulty: bool) {
        self.state().faulty = faulty;
        self.ways.iter().for_each(|way| way.set_faulty(faulty));
    }

    /// All faults are over.
    pub fn heal(&self) {
        let mut state = self.state();
        (state.faulty, state.is_calm, state.hangs_until) = (false, true, Duration::ZERO);
        drop(state);
        self.ways.iter().for_each(Network::heal);
    }

    /// For so long it says of every call that it is starting.
    pub fn refuse(&self, length: Duration) {
        self.state().starts_until = self.executor.now() + length;
    }

    /// From now on it refuses every other look at a container, by chance.
    pub fn refuse_looks(&self) {
        self.state().is_shy = true;
    }

    /// From now on it has no bridge.
    pub fn lose_bridge(&self) {
        self.state().is_bridgeless = true;
    }

    /// From now on a container that a worker takes up is gone at once: the worker before had asked for its removal.
    pub fn lose_what_is_taken_up(&self) {
        self.state().is_removing = true;
    }

    /// The container of this execution fails now, if it runs; gives whether it did.
    pub fn fail(&self, execution: &str) -> bool {
        let id = {
            let state = self.state();
            let is_it = |one: &Container| one.execution() == Some(execution) && one.status == Status::Running;
            state.containers.iter().find(|(_, one)| is_it(one)).map(|(id, _)| id.clone())
        };
        if let Some(id) = &id {
            self.end(id, 3, false);
        }
        id.is_some()
    }

    /// A worker was killed, or has left.
    pub fn lost(&self, caller: &str) {
        let mut state = self.state();
        state.deaths[usize::from(caller == OTHER)] += 1;
        if caller == OURS {
            // Of what its server has not heard of it may be given again, and there is no record of it.
            let is_left = |one: &Container| !one.name.starts_with("oz-agent-worker.told.");
            let has = |execution: &str| {
                state.containers.values().any(|one| is_left(one) && one.execution() == Some(execution))
            };
            self.truths.orphan(|execution| !execution.starts_with('N'), has);
        }
    }

    /// What of a worker is left that should not be. `cleanup`: whether ended containers are removed.
    pub fn left(&self, caller: &str, cleanup: bool) -> Vec<String> {
        let state = self.state();
        let mut left = Vec::new();
        for (id, container) in &state.containers {
            let is_unheard = || container.execution().is_some_and(|execution| self.watch.is_unheard(execution));
            let is_over = container.execution().is_some() && container.status != Status::Running;
            let is_kept =
                container.name.starts_with("oz-agent-worker.whole.") || (is_over && (!cleanup || is_unheard()));
            if container.maker() == Some(caller) && !is_kept {
                left.push(format!("container {:.12} {} of {caller}", id, container.name));
            }
        }
        for (name, volume) in &state.volumes {
            let is_had = state.containers.values().any(|container| container.anonymous.contains(name));
            if volume.anonymous_of.as_deref() == Some(caller) && !is_had {
                left.push(format!("anonymous volume {name:.12} of {caller}"));
            }
        }
        left
    }

    /// Whether a container of this execution is there whose end nobody has marked as told.
    pub fn has(&self, execution: &str) -> bool {
        let state = self.state();
        let mut of_it = state.containers.values().filter(|container| container.execution() == Some(execution));
        of_it.any(|container| !container.name.starts_with("oz-agent-worker.told."))
    }

    /// Law: how a container ended is there to be seen until the server has heard it. `owed`: what it has not heard of, and has
    /// not asked to stop.
    pub fn keeps(&self, owed: &[String]) {
        for execution in owed {
            if self.truths.of(execution).is_its_workers() && !self.has(execution) {
                self.watch.violate(format!("how {execution} ended is lost with its worker"));
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn serve(&self, mut stream: Stream, caller: &'static str) {
        let stopped = self.state().stopped.1.clone();
        let breaks = async {
            let _ = stopped.recv().await;
        };
        let answered = async {
            let _ = self.answer(&mut stream, caller).await;
        };
        futures_lite::FutureExt::or(answered, breaks).await;
    }

    /// A container begins to run.
    fn run(&self, id: &str) {
        let (labels, mounts, plan, is_ours) = {
            let mut state = self.state();
            let Some(container) = state.containers.get_mut(id) else { return };
            container.status = Status::Running;
            let mounts: Vec<String> = container.mounts.iter().map(|mount| mount.volume.clone()).collect();
            (container.labels.clone(), mounts, container.plan, container.maker() == Some(OURS))
        };
        let Some(execution) = labels.get(EXECUTION_ID) else {
            return self.watch.violate(format!("container {id:.12} was started, which is no task's"));
        };
        self.journal.note(|| format!("engine: {id:.12} of {execution} starts: {plan:?}"));
        self.truths.note(execution, |truth| truth.starts += 1);
        if is_ours {
            self.watch.started(Kind::Container, &labels[TASK_ID], execution);
        }
        for volume in mounts {
            self.check_whole(id, execution, &volume);
        }
        if let Some(length) = plan.length {
            self.end_after(id, length, plan.exit_code, plan.is_oom);
        }
    }

    /// Law: a volume is never used half filled, nor is a copy that is a task's own another's too. A container that was never
    /// started uses nothing: a worker looks whether its volumes are still whole before it starts it.
    fn check_whole(&self, id: &str, execution: &str, name: &str) {
        let state = self.state();
        let files = state.volumes.get(name).map(|volume| volume.files.clone()).unwrap_or_default();
        let others = state.containers.iter().filter(|(other, container)| {
            let has = |of: &Container, written: bool| {
                of.mounts.iter().any(|m| m.volume == name && (m.read_write || !written))
            };
            let own_writes = state.containers.get(id).is_some_and(|own| has(own, true));
            let was_started = container.status != Status::Created;
            *other != id && was_started && container.execution().is_some() && has(container, !own_writes)
        });
        let others: Vec<_> = others.map(|(_, other)| other.execution().unwrap_or_default().to_owned()).collect();
        drop(state);
        if !is_whole(&files) {
            self.watch.violate(format!("{execution} uses volume {name}, which is not whole: {} bytes", files.len()));
        } else if !name.contains(&String::from_utf8_lossy(&files[7..19]).into_owned()) {
            self.watch.violate(format!("{execution} uses volume {name}, which has the files of another image"));
        }
        if !others.is_empty() {
            self.watch.violate(format!("{execution} shares volume {name} with {others:?}, and one of them writes"));
        }
    }

    fn end_after(&self, id: &str, length: Duration, exit_code: i64, is_oom: bool) {
        let (own, id) = (self.clone(), id.to_owned());
        self.executor.spawn(OUTSIDE, async move {
            own.executor.sleep(length).await;
            own.end(&id, exit_code, is_oom);
        });
    }

    /// A container ends, if it runs.
    fn end(&self, id: &str, exit_code: i64, is_oom: bool) {
        let mut state = self.state();
        let is_calm = state.is_calm;
        let Some(container) = state.containers.get_mut(id).filter(|container| container.status == Status::Running)
        else {
            return;
        };
        (container.status, container.exit_code, container.is_oom) = (Status::Exited, exit_code, is_oom);
        container.ended.0.close();
        let (task, execution) = (container.label(TASK_ID).to_owned(), container.label(EXECUTION_ID).to_owned());
        let is_ours = container.maker() == Some(OURS);
        drop(state);
        self.truths.note(&execution, |truth| truth.end = Some((exit_code, is_oom)));
        self.journal.note(|| format!("engine: {id:.12} of {execution} ended: {exit_code} {is_oom}"));
        if is_ours && is_calm && exit_code == 0 {
            self.watch.succeeded(&task);
        }
    }

    /// A container is gone, with the volumes that nobody named if `volumes`.
    fn vanish(&self, id: &str, volumes: bool) {
        self.end(id, 137, false);
        let mut state = self.state();
        let Some(container) = state.containers.remove(id) else { return };
        self.journal.note(|| format!("engine: {id:.12} {} is removed", container.name));
        container.ended.0.close();
        for volume in container.anonymous.iter().filter(|_| volumes) {
            state.volumes.remove(volume);
        }
    }
}
