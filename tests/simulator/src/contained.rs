//! A worker whose tasks run elsewhere, from its start: it has an engine or a cluster to reach, and what an earlier one left to
//! take up.

use std::time::Duration;

use async_channel::Sender;
use futures_lite::FutureExt;
use futures_lite::future::poll_fn;
use oz_worker::run::RunLoop;
use oz_worker_backends::contract::{Common, Earlier};
use oz_worker_backends::{Backend, BackendSettings};
use oz_worker_core::Worker;
use oz_worker_core::record::Record;
use oz_worker_runtime::{Environment, Owner, Runtime, StopSignals};
use oz_worker_telemetry::Recorder;

use crate::disk::KUBECONFIG_PATH;
use crate::engine::EPOCH;
use crate::machine::Simulated;
use crate::scene::{Scene, config, link};

/// After how long a worker that cannot start is started again.
const RESTART: Duration = Duration::from_secs(5);

/// Runs a worker to its end. `prepared` is closed when its backend is ready.
pub async fn run(scene: Scene, recorder: Recorder, prepared: Sender<()>) {
    let Scene { executor, machine, operator, server, watch, .. } = scene.clone();
    let mut signals = machine.stop_signals().unwrap();
    let backend = async { Some(begin(&machine, operator.settings(), "w1", operator.cleanup, operator.grace).await) };
    let asked = async {
        poll_fn(|cx| signals.poll_next(cx)).await;
        None
    };
    let Some(backend) = backend.or(asked).await else { return };
    let earlier = backend.earlier();
    let taken: Vec<_> = earlier.iter().map(|one| (one.task_id.clone(), execution(one))).collect();
    server.ledger(|ledger| {
        // Law: every container of a task is taken up whose end nobody has told.
        for (task, execution) in ledger.active() {
            let is_taken = taken.iter().any(|taken| taken.0 == task);
            if !is_taken && scene.engine.as_ref().is_some_and(|engine| engine.has(execution)) {
                watch.violate(format!("a container of {execution} is there, and nobody takes it up"));
            }
        }
        ledger.taken_up(&taken);
    });
    let now = Duration::from_secs(EPOCH) + executor.now();
    let records = earlier.into_iter().map(|Earlier { task_id, execution_id, started }| {
        (now.saturating_sub(started), Record::Claimed { task_id, execution_id })
    });
    let seed = executor.random(|random| random.u64(..));
    let worker = Worker::restored(config(&operator), seed, machine.now(), records);
    prepared.close();
    RunLoop::new(machine.clone(), link(&machine, &operator), backend, recorder, signals).run(worker).await;
}

fn execution(earlier: &Earlier) -> String {
    earlier.execution_id.clone().unwrap_or_default()
}

/// The backend of a worker on `machine`, started again and again until the engine or the cluster is there.
pub async fn begin(
    machine: &Simulated,
    settings: BackendSettings,
    worker_id: &str,
    cleanup: bool,
    grace: Duration,
) -> Backend<Simulated> {
    loop {
        let owner = Owner::of_process(worker_id, 0, b"simulated", machine.next_process(), 1);
        machine.disk.lives(machine.machine, &owner);
        let mut host_env = Environment::default();
        host_env.set("DOCKER_HOST", "unix:///engine.sock");
        host_env.set("KUBECONFIG", KUBECONFIG_PATH);
        let common = Common {
            runtime: machine.clone(),
            owner,
            worker_id: worker_id.to_owned(),
            server_root_url: String::new(),
            cleanup,
            cancel_grace_period: grace,
            environment: Environment::default(),
            host_env,
        };
        match settings.clone().prepare(common).await {
            Ok(backend) => return backend,
            Err(problem) => machine.note(|| format!("{worker_id} cannot start: {problem}")),
        }
        machine.sleep_until(machine.now().plus(RESTART)).await;
    }
}
