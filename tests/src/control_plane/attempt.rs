//! One task on the first worker that connects: what `helm test` does.

use std::{
    sync::mpsc::Receiver,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::json;

use super::{ControlPlane, Event};
use crate::connection::Received;

/// How long a worker may take until it asks whether the end of its task was heard.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the task did not complete.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    #[error("the task was {state}: {detail}")]
    Ended { state: &'static str, detail: String },
    #[error("the control plane is over")]
    Over,
}

/// Runs one task in this image on the first worker that connects. `events` is what happens at `plane`.
///
/// # Errors
/// When it ended otherwise than completed.
pub fn run(plane: &ControlPlane, events: &Receiver<Event>, image: &str) -> Result<(), Failed> {
    // A worker may take up what an earlier attempt left, and tells how that ended: this is another task.
    let moment = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let task_id = format!("try-{}", moment.as_millis());
    let assignment = json!({
        "task_id": task_id, "execution_id": task_id, "docker_image": image,
        "task": {"id": task_id, "title": "A task that tries the worker"},
    });
    while plane.assign(assignment.clone()).is_err() {
        let _ = events.recv().map_err(|_| Failed::Over)?;
    }
    loop {
        let task = plane.tasks().into_iter().find(|task| task.task_id == task_id);
        match task.map(|task| (task.state, task.detail)) {
            Some(("completed", _)) => {
                // What it leaves behind it clears away once it knows that its message was heard. Nothing depends on that here.
                while events.recv_timeout(PATIENCE).is_ok_and(|event| !is_ping(&event)) {}
                return Ok(());
            }
            Some((state @ ("rejected" | "cancelled" | "failed"), detail)) => {
                return Err(Failed::Ended { state, detail });
            }
            _ => drop(events.recv().map_err(|_| Failed::Over)?),
        }
    }
}

const fn is_ping(event: &Event) -> bool {
    matches!(event, Event::Came { frame: Received::Ping(..) })
}
