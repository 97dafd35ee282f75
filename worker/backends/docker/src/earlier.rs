//! What earlier workers of the same id left on the engine: containers to take up, and what filled a volume when its worker
//! was killed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use oz_worker_contract::Earlier;
use oz_worker_contract::earlier::{Left, newest};
use oz_worker_contract::query::escaped;
use oz_worker_runtime::Host;
use tracing::warn;

use super::calls::{Call, Listed, list, remove, unless_missing};
use super::engine::Engine;
use super::error::EngineError;
use super::instance::Instance;
use super::labels::{self, EXECUTION_ID, Holder, INSTANCE, TASK_ID, WORKER_ID};
use super::wait::ContainerEnd;
use super::{removal, wait};

/// When it is looked for what an engine made late: soon, after as long as one may stand still, and once more.
const LATER: [Duration; 3] = [Duration::from_secs(10), Duration::from_secs(180), Duration::from_secs(600)];

/// A container that was taken up.
#[derive(Debug, Clone)]
pub struct TakenUp {
    pub container: String,
    /// How it had ended by then. Its worker may have been killed while the engine removed it for that one: then it is gone in
    /// a moment, and nobody else knows.
    pub end: Option<ContainerEnd>,
}

/// Finds what dead workers with this id left, and takes it: tasks and their containers. Nothing of a live worker, of another one, or of anybody else is
/// touched.
///
/// # Errors
/// What the engine says.
pub async fn take_up<R: Host>(
    engine: &Arc<Engine<R>>,
    own: &Instance,
    worker_id: &str,
) -> Result<Vec<Left<TakenUp>>, EngineError> {
    let (mut tasks, mut rest) = (Vec::new(), Vec::new());
    let all = of_worker(engine, worker_id).await?;
    // Its end was told, and its worker died before it could be stopped.
    for told in all.iter().filter(|listed| listed.is_running() && labels::holder(listed.names()) == Holder::Nobody) {
        removal::kill_beside(Arc::clone(engine), told.id.clone());
    }
    for listed in of_dead_workers(engine, own, all).await {
        let task_id = listed.label(TASK_ID);
        if task_id.is_empty() {
            rest.push(listed.id);
            continue;
        }
        let execution_id = listed.label(EXECUTION_ID);
        let task = Earlier {
            task_id: task_id.to_owned(),
            execution_id: (!execution_id.is_empty()).then(|| execution_id.to_owned()),
            started: Duration::from_secs(u64::try_from(listed.created).unwrap_or(0)),
        };
        tasks.push(Left { task, thing: listed.id });
    }
    let (tasks, others) = newest(tasks);
    for Left { task, thing: container } in others {
        warn!(task_id = task.task_id, "removing the container of an earlier execution, which a crashed worker left");
        rest.push(container);
    }
    let mut taken = Vec::new();
    for Left { task, thing: container } in tasks {
        // First of all: what is being removed can be read, and then it cannot.
        let Some(seen) = wait::look(engine, &container).await? else { continue };
        let name = escaped(&labels::taken_up(own.text(), &container));
        match engine.tell(&Call::post(format!("/containers/{container}/rename?name={name}"))).await {
            Ok(()) => {}
            // Not always the container: an engine without a bridge (29, `--bridge none`) finds no network of one that runs.
            Err(error) if error.is_missing() => {
                if wait::look(engine, &container).await?.is_none() {
                    continue;
                }
                let task_id = task.task_id.as_str();
                warn!(
                    task_id,
                    "the engine does not say who has this task now: {error}; start no second worker with this id"
                );
            }
            Err(error) => return Err(error),
        }
        taken.push(Left { task, thing: TakenUp { container, end: seen.end() } });
    }
    for id in rest {
        unless_missing(engine.tell(&remove(&id)).await)?;
    }
    Ok(taken)
}

/// Removes what an engine made for a worker that was dead by then: one that stood still comes to it later. Such a container was
/// never started, for nobody was there to do so.
pub async fn remove_late<R: Host>(engine: Arc<Engine<R>>, own: Instance, worker_id: String) {
    for pause in LATER {
        engine.pause(pause).await;
        let all = of_worker(&engine, &worker_id).await.unwrap_or_default();
        for listed in of_dead_workers(&engine, &own, all).await {
            removal::remove_unstarted(&engine, &listed.id).await;
        }
    }
}

/// The containers that workers with this id made.
async fn of_worker<R: Host>(engine: &Engine<R>, worker_id: &str) -> Result<Vec<Listed>, EngineError> {
    engine.ask(&list(&format!("{WORKER_ID}={worker_id}"))).await
}

/// Those of them that dead workers have, but for what keeps a volume whole.
async fn of_dead_workers<R: Host>(engine: &Engine<R>, own: &Instance, all: Vec<Listed>) -> Vec<Listed> {
    let (mut found, mut dead) = (Vec::new(), BTreeMap::new());
    for listed in all {
        let instance = match labels::holder(listed.names()) {
            Holder::Nobody => continue,
            Holder::Later(instance) => instance,
            Holder::Maker => listed.label(INSTANCE),
        };
        let keeps_volume = listed.label(TASK_ID).is_empty() && labels::whole_volume(listed.names()).is_some();
        if instance.is_empty() || keeps_volume {
            continue;
        }
        let is_dead = if let Some(is_dead) = dead.get(instance) {
            *is_dead
        } else {
            let is_dead = own.is_dead(engine, instance).await;
            dead.insert(instance.to_owned(), is_dead);
            is_dead
        };
        if is_dead {
            found.push(listed);
        }
    }
    found
}
