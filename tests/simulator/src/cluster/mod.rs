//! A cluster: an API server behind the real bytes of its API, and what acts on it, each in a file of its own.
//!
//! What workers call is in `api` and `watches`, who they are in `callers`, what it keeps in `store`. Pods come from the Job
//! controller (`jobs`), get a node from the `scheduler`, run on a `kubelet`; `nodes` fail and are made free; `doings` are those of
//! everybody else, and `creations` may be held up.

mod api;
mod callers;
mod creations;
mod doings;
mod jobs;
mod kubelet;
mod laws;
mod nodes;
mod plan;
mod scheduler;
mod store;
mod watches;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use async_channel::{Receiver, Sender};
use serde_json::{Value, json};

use crate::engine::EPOCH;
use crate::executor::Executor;
use crate::journal::Journal;
use crate::watch::Watch;
use callers::Caller;
use creations::Creations;
pub use laws::Truths;
use nodes::Node;
use plan::Plan;
use store::{Kind, Store};
use watches::Lists;

/// Where the workers make their Jobs.
pub const NAMESPACE: &str = "tasks";
/// The port of its API server.
pub const PORT: u16 = 6443;
/// How a worker is told to reach it.
pub const KUBECONFIG: &str = r#"{"clusters": [{"name": "c", "cluster": {"server": "http://10.0.0.1:6443"}}],
"users": [{"name": "u", "user": {"token": "t"}}],
"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"}"#;

/// What a worker notes on its Jobs: which execution they are of, who follows them, and that their end was told.
const TASK_ID: &str = "oz-agent-worker/task-id";
const EXECUTION_ID: &str = "oz-agent-worker/execution-id";
const INSTANCE: &str = "oz-agent-worker/instance";
const TOLD: &str = "oz-agent-worker/told";

/// How long a controller takes to notice something.
const LAG: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(800)];

/// The cluster. A clone is another handle to the same.
#[derive(Clone)]
pub struct Cluster {
    executor: Executor,
    journal: Journal,
    watch: Watch,
    truths: Truths,
    state: Arc<Mutex<State>>,
}

struct State {
    /// Whether the API server and the way to it misbehave, by chance.
    faulty: bool,
    /// Whether Pods do.
    rough: bool,
    store: Store,
    /// What is known of each Job that is or was there, by its UID.
    lives: BTreeMap<String, Life>,
    /// What was said about each object, by its UID.
    events: BTreeMap<String, Vec<Value>>,
    nodes: Vec<Node>,
    /// How many Pods the namespace may have.
    quota: usize,
    /// Closed when there is room that there was not.
    room: (Sender<()>, Receiver<()>),
    /// Closed when the API server is stopped: whatever it is doing breaks off.
    stopped: (Sender<()>, Receiver<()>),
    hangs_until: Duration,
    lists: Lists,
    callers: Vec<Caller>,
    creations: Creations,
    requests: u32,
}

/// What is known of a Job beyond what it shows.
struct Life {
    name: String,
    /// The Pod that was made last.
    pod: String,
    /// Task and execution, unless it is a preflight or a stranger's.
    of: Option<(String, String)>,
    is_foreign: bool,
    plan: Plan,
    pods: u32,
    /// When that was.
    made: Duration,
    /// Closed by the next change of the Job or its Pod.
    changed: (Sender<()>, Receiver<()>),
}

impl Cluster {
    /// A cluster on which nothing ever ran, and that no worker knows.
    pub fn new(executor: &Executor, journal: &Journal, watch: &Watch) -> Self {
        let state = State {
            faulty: false,
            rough: false,
            store: Store::new(),
            lives: BTreeMap::new(),
            events: BTreeMap::new(),
            nodes: Node::some(executor),
            quota: usize::MAX,
            room: async_channel::bounded(1),
            stopped: async_channel::bounded(1),
            hangs_until: Duration::ZERO,
            lists: Lists::default(),
            callers: Vec::new(),
            creations: Creations::default(),
            requests: 0,
        };
        Self {
            executor: executor.clone(),
            journal: journal.clone(),
            watch: watch.clone(),
            truths: Truths::new(journal),
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Whether the API server and the way to it misbehave from now on, by chance, and whether Pods do.
    pub fn set_faulty(&self, faulty: bool, rough: bool) {
        let mut state = self.state();
        (state.faulty, state.rough) = (faulty, rough);
        drop(state);
        self.truths.disturb(faulty);
        self.callers().iter().for_each(|caller| caller.way.set_faulty(faulty));
    }

    /// All faults are over.
    pub fn heal(&self) {
        self.truths.disturb(false);
        let mut state = self.state();
        (state.faulty, state.rough, state.hangs_until, state.quota) = (false, false, Duration::ZERO, usize::MAX);
        state.nodes.iter_mut().for_each(Node::heal);
        state.make_room();
        drop(state);
        self.callers().iter().for_each(|caller| caller.way.heal());
    }

    /// The Jobs that should not be there: not those that failed or are to be kept, once that is told.
    pub fn left(&self, cleanup: bool) -> Vec<String> {
        let state = self.state();
        let mut left = Vec::new();
        for (name, job) in state.store.all(Kind::Job) {
            let Some(life) = job["metadata"]["uid"].as_str().and_then(|uid| state.lives.get(uid)) else { continue };
            let Some((_, execution)) = &life.of else { continue };
            let truth = self.truths.of(execution);
            let told = truth.told.map(|(_, reason)| reason);
            let is_kept = match told.as_deref() {
                Some("success") => !cleanup,
                None
                | Some(
                    "cancelled" | "job_create" | "unschedulable" | "image_pull" | "container_create" | "volume_mount",
                ) => false,
                _ => true,
            };
            // What a worker that is gone by now was to delete nobody does; but the next one tells what it had not told.
            let is_nobodys = truth.is_orphan && (told.is_some() || !job["metadata"]["annotations"][TOLD].is_null());
            if !is_kept && !is_nobodys {
                let told =
                    told.map_or_else(|| "whose end nobody tells".to_owned(), |told| format!("told to be {told}"));
                left.push(format!("Job {name} of {execution}, {told}"));
            }
        }
        left
    }

    /// How many Jobs and Pods there are, of whomever.
    pub fn size(&self) -> [usize; 2] {
        let state = self.state();
        [Kind::Job, Kind::Pod].map(|kind| state.store.all(kind).count())
    }

    /// How many requests were made besides watches and questions about access.
    pub fn requests(&self) -> u32 {
        self.state().requests
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A moment as objects show it.
    fn moment(&self) -> String {
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(EPOCH) + self.executor.now()).to_string()
    }

    /// Something notices what has happened.
    async fn lag(&self) {
        self.executor.sleep(self.executor.duration(LAG[0], LAG[1])).await;
    }

    /// Changes an object of a Job's, and tells everybody who waits for that.
    fn update(&self, uid: &str, kind: Kind, change: impl FnOnce(&mut Value)) -> bool {
        let mut state = self.state();
        let Some(life) = state.lives.get(uid) else { return false };
        let name = if kind == Kind::Job { life.name.clone() } else { life.pod.clone() };
        let is_there = state.store.update(kind, &name, change);
        state.nudge(uid);
        is_there
    }

    /// Somebody says something about an object.
    fn say(&self, uid: &str, kind: &str, [reason, message]: [&str; 2]) {
        let moment = self.moment();
        let mut state = self.state();
        let all = state.events.entry(uid.to_owned()).or_default();
        all.retain(|event| event["message"] != message);
        all.push(json!({"type": kind, "reason": reason, "message": message, "lastTimestamp": moment}));
    }

    /// What is noted about the execution of a Job, if it is a task's.
    fn note(&self, uid: &str, what: impl FnOnce(&mut laws::Truth)) {
        let execution = self.state().lives.get(uid).and_then(|life| Some(life.of.clone()?.1));
        if let Some(execution) = execution.filter(|execution| self.truths.of(execution).job == uid) {
            self.truths.note(&execution, what);
        }
    }
}

impl State {
    /// Whoever waits for a change of this Job or its Pod looks.
    fn nudge(&mut self, uid: &str) {
        if let Some(life) = self.lives.get_mut(uid) {
            life.changed.0.close();
            life.changed = async_channel::bounded(1);
        }
    }

    /// Ends with the next change of this Job or its Pod.
    fn changed(&self, uid: &str) -> impl Future<Output = ()> + Send + use<> {
        let changed = self.lives.get(uid).map(|life| life.changed.1.clone());
        async move {
            if let Some(changed) = changed {
                let _ = changed.recv().await;
            }
        }
    }

    fn make_room(&mut self) {
        self.room.0.close();
        self.room = async_channel::bounded(1);
    }

    /// The Job with this UID, if it is still there.
    fn job(&self, uid: &str) -> Option<&Value> {
        self.store.get(Kind::Job, &self.lives.get(uid)?.name).filter(|job| job["metadata"]["uid"] == uid)
    }

    /// Its Pod, if it has one.
    fn pod(&self, uid: &str) -> Option<&Value> {
        self.store.get(Kind::Pod, &self.lives.get(uid)?.pod)
    }
}
