//! Another worker on the same engine: its backend alone, with tasks that no server assigns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use oz_worker_backends::contract::output::TaskLog;
use oz_worker_backends::contract::{Latch, Report, Resumed, Stop, Task, TaskEvent};
use oz_worker_backends::docker::DockerSettings;
use oz_worker_backends::{Backend, BackendSettings};
use oz_worker_core::Outcome;
use oz_worker_core::agent::{InstanceShape, Sidecar, TaskSpec};
use oz_worker_core::secret::Variables;
use oz_worker_telemetry::{Recorder, TaskTrace};

use crate::contained;
use crate::engine::{Engine, OTHER, SIDECARS, TASK_IMAGES};
use crate::executor::{Executor, Machine};
use crate::journal::Journal;
use crate::machine::{Clock, Simulated};
use crate::scene::Scene;
use crate::watch::{Judge, Watch};

pub const MACHINE: Machine = Machine(2);
/// What must not come into its log.
pub const SECRET: &str = "a-canary";
/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// The other worker. A clone is another handle to the same.
#[derive(Clone)]
pub struct Neighbour {
    executor: Executor,
    journal: Journal,
    watch: Watch,
    engine: Engine,
    machine: Simulated,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    tasks: u32,
    backend: Option<Arc<Backend<Simulated>>>,
    /// What asks each task to stop.
    running: BTreeMap<String, Latch>,
    told: BTreeSet<String>,
    /// Whether it lives.
    begun: bool,
}

impl Neighbour {
    /// A worker that starts, if there is an engine.
    pub fn start(scene: &Scene) -> Option<Self> {
        let Scene { executor, journal, watch, network, engine, .. } = scene.clone();
        let engine = engine?;
        let clock = Clock { start: Duration::from_secs(500), drift: 0 };
        let mut machine = Simulated::new(MACHINE, clock, &network, &watch, &journal);
        machine.engine = engine.ways[1].clone();
        let own = Self { executor, journal, watch, engine, machine, state: Arc::default() };
        own.begin();
        Some(own)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn begin(&self) {
        self.state().begun = true;
        let own = self.clone();
        self.executor.spawn(MACHINE, async move {
            let backend = Arc::new(
                contained::begin(&own.machine, BackendSettings::Docker(DockerSettings::default()), OTHER, true, GRACE)
                    .await,
            );
            own.state().backend = Some(Arc::clone(&backend));
            for earlier in backend.earlier() {
                let (task_id, execution_id) = (earlier.task_id, earlier.execution_id);
                let execution = execution_id.clone().unwrap_or_default();
                let Some((stop, report)) = own.enter(&task_id, &execution) else { return };
                let (own, backend) = (own.clone(), Arc::clone(&backend));
                own.journal.note(|| format!("other worker: takes up {execution}"));
                own.executor.clone().spawn(MACHINE, async move {
                    let log = own.log(&execution);
                    backend
                        .resume(Resumed { task_id, execution_id, trace: TaskTrace::default(), stop, report, log })
                        .await;
                    own.is_done(&execution);
                });
            }
        });
    }

    /// A task is handed to it, if it is ready.
    pub fn assign(&self) {
        self.assign_with(Variables::default());
    }

    /// The same with these variables.
    pub fn assign_with(&self, env: Variables) {
        let mut state = self.state();
        let Some(backend) = state.backend.clone() else { return };
        state.tasks += 1;
        let number = state.tasks;
        drop(state);
        let (task_id, execution) = (format!("O{number}"), format!("N{number}"));
        let Some((stop, report)) = self.enter(&task_id, &execution) else { return };
        let sidecar = |image: &str, mount_path: &str, read_write| Sidecar {
            image: image.to_owned(),
            mount_path: mount_path.to_owned(),
            read_write,
        };
        let mut sidecars = vec![sidecar(SIDECARS[0], "/agent", false)];
        if self.executor.chance(50) {
            let image = self.executor.random(|random| random.choice(SIDECARS)).unwrap_or(SIDECARS[0]);
            sidecars.push(sidecar(image, "/mnt/x", self.executor.chance(30)));
        }
        let spec = TaskSpec {
            task_id,
            execution_id: Some(execution.clone()),
            title: String::new(),
            harness: None,
            args: Vec::new(),
            env,
            image: self.executor.random(|random| random.choice(TASK_IMAGES)).unwrap_or(TASK_IMAGES[0]).to_owned(),
            sidecars,
            shape: InstanceShape::default(),
            task: "{}".into(),
        };
        self.journal.note(|| format!("other worker: runs {execution}: {} {:?}", spec.image, spec.sidecars));
        let trace = Recorder::disabled().claimed(&spec);
        let own = self.clone();
        self.executor.spawn(MACHINE, async move {
            let log = own.log(&execution);
            backend.run(Task { spec: Box::new(spec), trace, stop, report, log }).await;
            own.is_done(&execution);
        });
    }

    fn log(&self, execution: &str) -> Arc<dyn TaskLog> {
        let (journal, watch) = (self.journal.clone(), self.watch.clone());
        Arc::new(Log { execution: execution.to_owned(), journal, watch })
    }

    fn is_done(&self, execution: &str) {
        let mut state = self.state();
        state.running.remove(execution);
        if !state.told.contains(execution) {
            drop(state);
            self.watch.violate(format!("{execution} of the other worker has no end"));
        }
    }

    fn enter(&self, task_id: &str, execution: &str) -> Option<(Stop, Report)> {
        let stop = Latch::default();
        let mut state = self.state();
        if !state.begun {
            return None;
        }
        state.running.insert(execution.to_owned(), stop.clone());
        drop(state);
        let (own, task_id, of) = (self.clone(), task_id.to_owned(), execution.to_owned());
        let report = Report::new(move |event| {
            if let TaskEvent::Finished(outcome) = event {
                own.hear(&of, outcome);
                own.proves(&task_id, &of);
            }
        });
        // It never leaves by itself.
        Some((Stop::new(stop, Latch::default()), report))
    }

    fn hear(&self, execution: &str, outcome: Outcome) {
        self.journal.note(|| format!("other worker: {execution} ended: {outcome:?}"));
        if !self.state().told.insert(execution.to_owned()) {
            self.watch.violate(format!("{execution} of the other worker ended twice"));
        }
        let wrong = match outcome {
            Outcome::Completed => self.engine.truths().judge(execution, "", 0),
            Outcome::Failed(failure) => {
                self.engine.truths().judge(execution, failure.reason.as_str(), failure.exit_code.into())
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            self.watch.violate(wrong);
        }
    }

    /// Its server proves a while later that it has heard an end.
    fn proves(&self, task_id: &str, execution: &str) {
        let Some(backend) = self.state().backend.clone() else { return };
        let (executor, task_id, execution) = (self.executor.clone(), task_id.to_owned(), execution.to_owned());
        self.executor.spawn(MACHINE, async move {
            executor.sleep(executor.duration(Duration::from_millis(1), Duration::from_secs(60))).await;
            if let Some(settling) = backend.settle(&task_id, Some(&execution)) {
                settling.await;
            }
        });
    }

    /// Asks one of its tasks to stop, or all.
    pub fn stop(&self, all: bool) {
        let mut running: Vec<_> = self.state().running.values().cloned().collect();
        if !all {
            running = self.executor.random(|random| random.choice(running)).into_iter().collect();
        }
        for stop in running {
            stop.set();
        }
    }

    /// Kills it where it stands; another one begins after a while.
    pub fn kill(&self) {
        self.journal.note(|| "other worker: killed".to_owned());
        self.executor.kill(MACHINE);
        self.engine.lost(OTHER);
        let mut state = self.state();
        *state = State { tasks: state.tasks, ..State::default() };
        drop(state);
        let own = self.clone();
        let after = self.executor.duration(Duration::from_secs(1), Duration::from_secs(600));
        self.executor.spawn(crate::executor::OUTSIDE, async move {
            own.executor.sleep(after).await;
            if !own.state().begun {
                own.begin();
            }
        });
    }

    /// Whether it lives and has nothing to do any more.
    pub fn is_idle(&self) -> bool {
        let state = self.state();
        state.backend.is_some() && state.running.is_empty()
    }
}

/// The lines of one task.
struct Log {
    execution: String,
    journal: Journal,
    watch: Watch,
}

impl TaskLog for Log {
    fn has_room(&self) -> bool {
        true
    }

    fn line(&self, line: &[u8], _: u64) {
        let line = String::from_utf8_lossy(line);
        self.journal.note(|| format!("other worker: {} wrote: {line:.80}", self.execution));
        // Law: what a task wrote is shown without its secrets.
        if line.contains(SECRET) {
            self.watch.violate(format!("a secret of {} is in the log", self.execution));
        }
    }

    fn end(&self) {}
}
