//! One worker on its machine, and the server that it dials.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_channel::Receiver;
use oz_worker::link::{Link, Target};
use oz_worker::run::RunLoop;
use oz_worker::settings::secret::ApiKey;
use oz_worker_backends::Backend;
use oz_worker_backends::command::{CommandBackend, CommandSettings};
use oz_worker_backends::contract::Common;
use oz_worker_backends::direct::{DirectBackend, DirectSettings, Job, Workspaces};
use oz_worker_core::agent::AgentSettings;
use oz_worker_core::{AfterKill, Config, Worker};
use oz_worker_runtime::{Environment, Owner, Runtime};
use oz_worker_telemetry::{Identity, Recorder, Telemetry};
use prometheus::Registry;
use prometheus::proto::MetricType;

use crate::executor::{Executor, Machine};
use crate::journal::Journal;
use crate::ledger::Ledger;
use crate::machine::{Clock, Simulated};
use crate::network::Network;
use crate::server::Server;
use crate::watch::Watch;

pub const MACHINE: Machine = Machine(1);
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

impl Operator {
    /// Decisions drawn from the seed.
    pub fn draw(executor: &Executor) -> Self {
        let seconds = |from, to| executor.duration(Duration::from_secs(from), Duration::from_secs(to));
        Self {
            limit: executor.random(|random| random.u32(0..5)),
            drain: if executor.chance(50) { Duration::ZERO } else { seconds(1, 600) },
            grace: executor.duration(Duration::from_millis(100), Duration::from_secs(30)),
            dispatches: executor.chance(30),
            scripts: executor.chance(50),
            cleanup: executor.chance(80),
            shares_directory: executor.chance(20),
            proxy: executor.chance(20),
            drift: executor.random(|random| random.i32(-500..=500)),
        }
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
    pub machine: Simulated,
    pub operator: Operator,
    /// Closed when the worker has left.
    pub left: Receiver<()>,
    registry: Registry,
    /// The instruments live as long as it does.
    telemetry: Arc<Telemetry>,
}

impl Scene {
    /// A worker that starts, on a machine on which nothing ever ran.
    pub fn new(executor: &Executor, operator: Operator) -> Self {
        let journal = Journal::new(executor);
        journal.note(|| format!("{operator:?}"));
        let watch = Watch::new(&journal, operator.limit as usize);
        let (network, accepted) = Network::new(executor, &journal);
        let ledger = Ledger::new(operator.limit as usize, operator.dispatches);
        let server = Server::start(executor, &journal, &watch, ledger, operator.proxy, accepted);
        let clock = Clock { start: Duration::from_secs(1000), drift: operator.drift };
        let machine = Simulated::new(MACHINE, clock, &network, &watch, &journal);
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .without_counter_suffixes()
            .without_units()
            .build()
            .unwrap();
        let (worker, telemetry) = worker(&machine, &operator, exporter);
        let (leaves, left) = async_channel::bounded(1);
        executor.spawn(MACHINE, async move {
            worker.await;
            leaves.close();
        });
        let executor = executor.clone();
        Self {
            executor,
            journal,
            watch,
            network,
            server,
            machine,
            operator,
            left,
            registry,
            telemetry: telemetry.into(),
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
        for family in self.registry.gather() {
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
        drop(self.telemetry);
    }
}

/// The worker above [`Runtime`], and what its instruments live in.
fn worker(
    machine: &Simulated,
    operator: &Operator,
    reader: opentelemetry_prometheus::PrometheusExporter,
) -> (impl Future<Output = ()> + Send + use<>, Telemetry) {
    let identity = Identity {
        version: "1".into(),
        worker_id: "w1".into(),
        backend: if operator.dispatches { "command" } else { "direct" }.into(),
        max_concurrent_tasks: operator.limit,
        host_name: "simulated".into(),
        status_page: false,
    };
    let (recorder, telemetry) = Telemetry::builder(identity).reader(reader).start();
    (run_loop(machine, operator, recorder), telemetry)
}

/// The worker above [`Runtime`], to its end.
pub(crate) fn run_loop(
    machine: &Simulated,
    operator: &Operator,
    recorder: Recorder,
) -> impl Future<Output = ()> + Send + use<> {
    let config = Config {
        worker_id: "w1".into(),
        max_concurrent_tasks: operator.limit,
        drain_timeout: operator.drain,
        stop_timeout: operator.grace + Duration::from_secs(10),
        stops_tasks_on_shutdown: true,
        after_kill: if operator.dispatches { AfterKill::IsCancelled } else { AfterKill::Fails },
        journal: false,
        agent: AgentSettings::default(),
    };
    let key = ApiKey::from_text("key").unwrap();
    let env =
        |name: &str| (operator.proxy && name == "HTTP_PROXY").then(|| format!("http://{PROXY_USER}@proxy.example"));
    let target = Target::new("ws://oz.example/ws?worker_id=w1", key, env).unwrap();
    let link = Link::new(machine.clone(), target);
    let signals = machine.stop_signals().unwrap();
    let seed = machine.executor.random(|random| random.u64(..));
    RunLoop::new(machine.clone(), link, backend(machine, operator), recorder, signals).run(Worker::new(config, seed))
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
