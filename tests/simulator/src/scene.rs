//! One worker on its machine, and the server that it dials.

use std::collections::BTreeMap;
use std::iter;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_channel::Receiver;
use oz_worker::link::{Link, Target};
use oz_worker::run::RunLoop;
use oz_worker::settings::secret::ApiKey;
use oz_worker_backends::command::{CommandBackend, CommandSettings};
use oz_worker_backends::contract::Common;
use oz_worker_backends::direct::{DirectBackend, DirectSettings, Job, Workspaces};
use oz_worker_backends::docker::DockerSettings;
use oz_worker_backends::kubernetes::{KubernetesSettings, Untyped};
use oz_worker_backends::{Backend, BackendSettings};
use oz_worker_core::agent::AgentSettings;
use oz_worker_core::{AfterKill, Config, Worker};
use oz_worker_runtime::{Environment, Owner, Runtime};
use oz_worker_telemetry::{Identity, Recorder, Telemetry};
use prometheus::Registry;
use prometheus::proto::MetricType;
use serde_json::json;

use crate::cluster::{self, Cluster};
use crate::contained;
use crate::engine::{Engine, OURS};
use crate::executor::{Executor, Machine};
use crate::journal::Journal;
use crate::ledger::Ledger;
use crate::machine::{Clock, Simulated};
use crate::network::Network;
use crate::server::Server;
use crate::watch::{Listener, Watch};

pub const MACHINE: Machine = Machine(1);
/// Where the second worker of the same id runs: beside the first, on the same host.
const SECOND: Machine = Machine(3);
/// Where its tasks get their directories.
pub const ROOT: &str = "/workspaces";
/// Who may use the proxy; in an `Authorization` header: `dTpw`.
const PROXY_USER: &str = "u:p";

#[allow(clippy::struct_excessive_bools)] // each is a switch of its own
#[derive(Debug, Clone)]
pub struct Operator {
    /// `--max-concurrent-tasks`.
    pub limit: u32,
    /// `--drain-timeout`.
    pub drain: Duration,
    /// `--cancel-grace-period`.
    pub grace: Duration,
    /// Whether the backend is `command`, and not `direct`.
    pub dispatches: bool,
    /// Whether the backend is `docker`.
    pub contains: bool,
    /// What of the backend `kubernetes` is configured, if it is that.
    pub orchestrates: Option<Orchestration>,
    /// Whether a second worker of the same id comes and goes.
    pub overlaps: bool,
    /// Whether there are setup and teardown commands (direct), or a cancel command (command).
    pub scripts: bool,
    /// Whether workspaces are removed.
    pub cleanup: bool,
    /// Whether all tasks share a `--target-dir` (direct).
    pub shares_directory: bool,
    /// Whether the server is reached through a proxy.
    pub proxy: bool,
    /// How much too fast the machine's clock is, in millionths.
    pub drift: i32,
}

/// What an operator decided about the backend `kubernetes`.
#[derive(Debug, Clone, Copy)]
pub struct Orchestration {
    /// In seconds.
    pub deadline: Option<u32>,
    /// In seconds.
    pub ttl: u32,
    /// Zero: for ever.
    pub unschedulable_timeout: Duration,
    /// Whether something else runs in every Pod: beside the task, and around it.
    pub injects: bool,
}

impl Orchestration {
    fn draw(random: &mut fastrand::Rng) -> Self {
        let deadline = (random.u32(..100) < 30).then(|| random.u32(1..3600));
        let timeouts = [0, 5, 30, 30, 300].map(Duration::from_secs);
        Self {
            deadline,
            ttl: random.choice([600, 86_400]).unwrap_or_default(),
            unschedulable_timeout: random.choice(timeouts).unwrap_or_default(),
            injects: random.u32(..100) < 30,
        }
    }
}

impl Operator {
    /// Decisions drawn from the seed.
    pub fn draw(executor: &Executor) -> Self {
        let seconds = |from, to| executor.duration(Duration::from_secs(from), Duration::from_secs(to));
        let contains = executor.chance(35);
        Self {
            limit: executor.random(|random| random.u32(0..5)),
            drain: if executor.chance(50) { Duration::ZERO } else { seconds(1, 600) },
            grace: executor.duration(Duration::from_millis(100), Duration::from_secs(30)),
            dispatches: !contains && executor.chance(45),
            contains,
            orchestrates: None,
            overlaps: false,
            scripts: executor.chance(50),
            cleanup: executor.chance(80),
            shares_directory: executor.chance(20),
            proxy: executor.chance(20),
            drift: executor.random(|random| random.i32(-500..=500)),
        }
    }

    const fn backend(&self) -> &'static str {
        match (self.contains, self.dispatches) {
            _ if self.orchestrates.is_some() => "kubernetes",
            (true, _) => "docker",
            (_, true) => "command",
            _ => "direct",
        }
    }

    /// The same of an operator whose tasks run on a cluster.
    pub fn on_a_cluster(executor: &Executor) -> Self {
        let orchestrates = Some(executor.random(Orchestration::draw));
        Self { contains: false, dispatches: false, orchestrates, ..Self::draw(executor) }
    }

    /// The settings of a backend whose tasks run elsewhere.
    pub fn settings(&self) -> BackendSettings {
        let Some(Orchestration { deadline, ttl, unschedulable_timeout, injects }) = self.orchestrates else {
            return BackendSettings::Docker(DockerSettings::default());
        };
        let template = json!({
            "initContainers": [{"name": "proxy", "image": "mesh:1", "restartPolicy": "Always"}],
            "containers": [{"name": "mesh", "image": "mesh:1"}],
        });
        BackendSettings::Kubernetes(Box::new(KubernetesSettings {
            namespace: cluster::NAMESPACE.into(),
            active_deadline_seconds: deadline,
            ttl_seconds_after_finished: ttl,
            unschedulable_timeout,
            pod_template: injects.then_some(Untyped(template)),
            setup_command: self.scripts.then(|| "setup".into()),
            teardown_command: self.scripts.then(|| "teardown".into()),
            ..KubernetesSettings::default()
        }))
    }

    /// How long the worker may take to leave once it was asked to, whatever the server does and however its tasks behave:
    /// `docs/guarantees.md`.
    pub fn shutdown_bound(&self) -> Duration {
        // The tasks' grace and teardown, their reports, the closing handshake, the end of what still runs.
        self.drain + self.grace + Duration::from_secs(10 + 10 + 2 + 6)
    }
}

/// The whole scene. A clone is another handle to the same.
#[derive(Clone)]
pub struct Scene {
    pub executor: Executor,
    pub journal: Journal,
    pub watch: Watch,
    /// Between worker and server.
    pub network: Network,
    pub server: Server,
    /// Where containers run, for a worker that wants one.
    pub engine: Option<Engine>,
    /// Where Jobs run, for a worker that wants that.
    pub cluster: Option<Cluster>,
    pub machine: Simulated,
    pub operator: Operator,
    /// The same of a second worker of the same id, on the same host and cluster.
    pub second: Option<Box<Scene>>,
    life: Arc<Mutex<Life>>,
}

/// One process of the worker.
#[derive(Default)]
struct Life {
    registry: Registry,
    /// The instruments live as long as it does.
    telemetry: Option<Telemetry>,
    /// Closed when its backend is ready.
    ready: Option<Receiver<()>>,
    /// Closed when it has left.
    left: Option<Receiver<()>>,
}

impl Scene {
    /// A worker that starts, on a machine on which nothing ever ran.
    pub fn new(executor: &Executor, operator: Operator) -> Self {
        let journal = Journal::new(executor);
        journal.note(|| format!("{operator:?}"));
        let (watch, network, server) = surroundings(executor, &journal, &operator);
        let clock = Clock { start: Duration::from_secs(1000), drift: operator.drift };
        let mut machine = Simulated::new(MACHINE, clock, &network, &watch, &journal);
        let engine = operator.contains.then(|| Engine::new(executor, &journal, &watch));
        if let Some(engine) = &engine {
            machine.engine = engine.ways[0].clone();
        }
        let cluster = operator.orchestrates.map(|_| Cluster::new(executor, &journal, &watch));
        if let Some(cluster) = &cluster {
            machine.engine = cluster.admit(MACHINE, &watch, &server);
        }
        let (executor, second, life) = (executor.clone(), None, Arc::default());
        let mut scene =
            Self { executor, journal, watch, network, server, engine, cluster, machine, operator, second, life };
        scene.second = scene.operator.overlaps.then(|| Box::new(scene.beside()));
        scene.start();
        scene
    }

    /// The same of another worker of the same id, which has not started yet.
    fn beside(&self) -> Self {
        let journal = self.journal.about("second: ");
        let (watch, network, server) = surroundings(&self.executor, &journal, &self.operator);
        let mut machine = self.machine.beside(SECOND, &network, &watch, &journal);
        if let Some(cluster) = &self.cluster {
            machine.engine = cluster.admit(SECOND, &watch, &server);
        }
        Self { journal, watch, network, server, machine, life: Arc::default(), ..self.clone() }
    }

    /// Every worker that there is or will be.
    fn workers(&self) -> impl Iterator<Item = &Self> {
        iter::once(self).chain(self.second.as_deref())
    }

    /// Who listens to their logs.
    pub fn listener(&self) -> Listener {
        Listener(self.workers().map(|worker| (worker.machine.machine, worker.watch.clone())).collect())
    }

    /// What must never happen and did.
    pub fn violations(&self) -> Vec<String> {
        self.workers().flat_map(|worker| worker.watch.violations()).collect()
    }

    /// How many executions of tasks ran.
    pub fn runs(&self) -> usize {
        self.workers().map(|worker| worker.watch.runs()).sum()
    }

    /// Starts the worker.
    pub fn start(&self) {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .without_counter_suffixes()
            .without_units()
            .build()
            .unwrap();
        let (recorder, telemetry) = telemetry(&self.operator, exporter);
        let (leaves, left) = async_channel::bounded(1);
        let (prepared, ready) = async_channel::bounded(1);
        let life = Life { registry, telemetry: Some(telemetry), ready: Some(ready), left: Some(left) };
        *self.life.lock().unwrap() = life;
        let runs: Pin<Box<dyn Future<Output = ()> + Send>> = if self.runs_elsewhere() {
            Box::pin(contained::run(self.clone(), recorder, prepared))
        } else {
            prepared.close();
            Box::pin(run_loop(&self.machine, &self.operator, recorder))
        };
        self.executor.spawn(self.machine.machine, async move {
            runs.await;
            leaves.close();
        });
    }

    /// Ends the worker where it stands, unless it has left already, and everything that it began.
    pub fn kill(&self) {
        self.journal.note(|| "host: the worker is gone".to_owned());
        let machine = self.machine.machine;
        self.executor.resume(machine);
        self.executor.kill(machine);
        self.machine.disk.dies(machine);
        self.machine.lanes.clear();
        while self.machine.signals.1.try_recv().is_ok() {}
        if let Some(engine) = &self.engine {
            engine.keeps(&self.server.ledger(|ledger| ledger.owed()));
        }
        self.server.lost();
        self.server.ledger(Ledger::killed);
        self.watch.restarts();
        if let Some(engine) = &self.engine {
            engine.lost(OURS);
        }
        if let Some(cluster) = &self.cluster {
            cluster.lost(machine);
        }
    }

    /// Closed when the worker has left, or was killed.
    pub fn left(&self) -> Receiver<()> {
        self.life.lock().unwrap().left.clone().unwrap_or_else(|| async_channel::bounded(1).1)
    }

    /// Whether the worker has begun and is still there.
    pub fn is_running(&self) -> bool {
        !self.left().is_closed()
    }

    /// Whether tasks run on an engine or a cluster.
    pub const fn runs_elsewhere(&self) -> bool {
        self.engine.is_some() || self.cluster.is_some()
    }

    /// Ends when the worker's backend is ready.
    pub async fn ready(&self) {
        let ready = self.life.lock().unwrap().ready.clone();
        if let Some(ready) = ready {
            let _ = ready.recv().await;
        }
    }

    pub fn signal(&self, signal: &'static str) {
        self.journal.note(|| format!("host: {signal}"));
        self.server.ledger(|ledger| ledger.stopping = true);
        let _ = self.machine.signals.0.try_send(signal);
    }

    /// Every series with its value, as a scrape finds it.
    pub fn scrape(&self) -> BTreeMap<String, f64> {
        let mut shown = BTreeMap::new();
        let registry = self.life.lock().unwrap().registry.clone();
        for family in registry.gather() {
            for metric in family.get_metric() {
                let labels = metric.get_label().iter().filter(|label| !label.name().starts_with("otel_"));
                let labels: Vec<_> = labels.map(|label| format!("{}={}", label.name(), label.value())).collect();
                let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
                let (name, value) = match family.get_field_type() {
                    MetricType::COUNTER => (family.name().to_owned(), metric.get_counter().get_value()),
                    MetricType::HISTOGRAM => {
                        #[allow(clippy::cast_precision_loss)] // nothing counts that far
                        let count = metric.get_histogram().get_sample_count() as f64;
                        (format!("{}_count", family.name()), count)
                    }
                    _ => (family.name().to_owned(), metric.get_gauge().get_value()),
                };
                shown.insert(format!("{name}{labels}"), value);
            }
        }
        shown
    }

    /// Holds a scrape against the log.
    pub fn check_metrics(&self) {
        self.watch.check_metrics(&self.scrape());
    }

    pub fn close(self) {
        self.executor.close();
        self.workers().for_each(|worker| worker.life.lock().unwrap().telemetry = None);
    }
}

/// What is around a worker: who watches it, its network, and the server behind that.
fn surroundings(executor: &Executor, journal: &Journal, operator: &Operator) -> (Watch, Network, Server) {
    let watch = Watch::new(journal, operator.limit as usize);
    let (network, accepted) = Network::new(executor, journal);
    let ledger = Ledger::new(operator.limit as usize, operator.dispatches);
    let server = Server::start(executor, journal, &watch, ledger, operator.proxy, accepted);
    (watch, network, server)
}

/// What the instruments of a worker live in.
fn telemetry(operator: &Operator, reader: opentelemetry_prometheus::PrometheusExporter) -> (Recorder, Telemetry) {
    let identity = Identity {
        version: "1".into(),
        worker_id: "w1".into(),
        backend: operator.backend().into(),
        max_concurrent_tasks: operator.limit,
        host_name: "simulated".into(),
        status_page: false,
    };
    Telemetry::builder(identity).reader(reader).start()
}

/// The worker above [`Runtime`], to its end.
pub(crate) fn run_loop(
    machine: &Simulated,
    operator: &Operator,
    recorder: Recorder,
) -> impl Future<Output = ()> + Send + use<> {
    let link = link(machine, operator);
    let signals = machine.stop_signals().unwrap();
    let seed = machine.executor.random(|random| random.u64(..));
    let worker = Worker::new(config(operator), seed);
    RunLoop::new(machine.clone(), link, backend(machine, operator), recorder, signals).run(worker)
}

pub(crate) fn config(operator: &Operator) -> Config {
    Config {
        worker_id: "w1".into(),
        max_concurrent_tasks: operator.limit,
        drain_timeout: operator.drain,
        stop_timeout: operator.grace + Duration::from_secs(10),
        stops_tasks_on_shutdown: operator.orchestrates.is_none(),
        after_kill: match operator.backend() {
            "docker" | "kubernetes" => AfterKill::Resumes,
            "command" => AfterKill::IsCancelled,
            _ => AfterKill::Fails,
        },
        journal: false,
        agent: AgentSettings::default(),
    }
}

/// The worker's way to the server.
pub(crate) fn link(machine: &Simulated, operator: &Operator) -> Link<Simulated> {
    let key = ApiKey::from_text("key").unwrap();
    let env =
        |name: &str| (operator.proxy && name == "HTTP_PROXY").then(|| format!("http://{PROXY_USER}@proxy.example"));
    let target = Target::new("ws://oz.example/ws?worker_id=w1", key, env).unwrap();
    Link::new(machine.clone(), target)
}

fn backend(machine: &Simulated, operator: &Operator) -> Backend<Simulated> {
    let script = |name: &str| operator.scripts.then(|| name.to_owned());
    let owner = Owner::of_process("w1", 0, b"simulated", 1, 1);
    if operator.dispatches {
        let settings = CommandSettings {
            dispatch_command: "dispatch".into(),
            cancel_command: script("cancel"),
            dispatch_timeout: Duration::from_secs(60),
        };
        let common = Common {
            runtime: machine.clone(),
            owner,
            worker_id: "w1".into(),
            server_root_url: String::new(),
            cleanup: operator.cleanup,
            cancel_grace_period: operator.grace,
            environment: Environment::default(),
            host_env: Environment::default(),
        };
        return Backend::Command(CommandBackend::new(settings, common.into()));
    }
    let job = Job {
        oz: "/bin/oz".into(),
        workspaces: Workspaces::new(ROOT, owner),
        settings: DirectSettings {
            target_dir: operator.shares_directory.then(|| "/shared".into()),
            setup_command: script("setup"),
            teardown_command: script("teardown"),
            ..DirectSettings::default()
        },
        cleanup: operator.cleanup,
        cancel_grace_period: operator.grace,
        host_env: Environment::default(),
    };
    Backend::Direct(DirectBackend::new(machine.clone(), job))
}
