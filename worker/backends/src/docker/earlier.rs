//! What earlier workers of the same id left on the engine: containers to take up, and what filled a volume when its worker
//! was killed.

use std::time::Duration;

use oz_worker_runtime::{Files, Host, Lane, Machine, Owner};
use tracing::warn;

use super::calls::{Listed, list, remove, unless_missing};
use super::engine::{Call, Engine, escaped};
use super::error::EngineError;
use super::labels::{self, EXECUTION_ID, Holder, INSTANCE, TASK_ID, WORKER_ID};
use crate::contract::Earlier;

/// A task that an earlier worker started, and its container.
pub struct Left {
    pub task: Earlier,
    pub container: String,
}

/// Finds what dead workers with this id left, and takes it. Nothing of a live worker, of another one, or of anybody else is
/// touched.
///
/// # Errors
/// What the engine says.
pub async fn take_up<R: Host>(engine: &Engine<R>, owner: &Owner, worker_id: &str) -> Result<Vec<Left>, EngineError> {
    let all: Vec<Listed> = engine.ask(&list(&format!("{WORKER_ID}={worker_id}"))).await?;
    let mut tasks: Vec<Left> = Vec::new();
    let mut rest = Vec::new();
    for listed in all {
        let mark = match labels::holder(listed.names()) {
            Holder::Nobody => continue,
            Holder::Later(mark) => mark,
            Holder::Maker => listed.label(INSTANCE),
        };
        if mark.is_empty() || !is_dead(engine, owner, mark).await {
            continue;
        }
        let task_id = listed.label(TASK_ID);
        if !task_id.is_empty() {
            let execution_id = listed.label(EXECUTION_ID);
            let task = Earlier {
                task_id: task_id.to_owned(),
                execution_id: (!execution_id.is_empty()).then(|| execution_id.to_owned()),
                started: Duration::from_secs(u64::try_from(listed.created).unwrap_or(0)),
            };
            tasks.push(Left { task, container: listed.id });
        } else if labels::whole_volume(listed.names()).is_none() {
            rest.push(listed.id);
        }
    }
    // The last execution of a task is the one that the server asks for.
    tasks.sort_by_key(|left| std::cmp::Reverse((left.task.started, left.container.clone())));
    let mut taken: Vec<Left> = Vec::new();
    for left in tasks {
        let task_id = &left.task.task_id;
        if taken.iter().any(|other| other.task.task_id == *task_id) {
            warn!(task_id, "removing the container of an earlier execution, which a crashed worker left");
            rest.push(left.container);
            continue;
        }
        let name = escaped(&labels::taken_up(owner.mark(), &left.container));
        match engine.tell(&Call::post(format!("/containers/{}/rename?name={name}", left.container))).await {
            Ok(()) => taken.push(left),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    for id in rest {
        unless_missing(engine.tell(&remove(&id)).await)?;
    }
    taken.reverse();
    Ok(taken)
}

async fn is_dead<R: Host>(engine: &Engine<R>, owner: &Owner, mark: &str) -> bool {
    let (owner, mark) = (owner.clone(), mark.to_owned());
    engine.runtime().on(Lane::Start, move |machine| machine.files().is_stale(&owner, &mark)).await
}
