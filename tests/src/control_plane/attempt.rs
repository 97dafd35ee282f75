//! One task on the first worker that connects: what `helm test` does.

use std::{
    sync::mpsc::Receiver,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::json;

use super::ControlPlane;

/// Why the task did not complete.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    #[error("the task was {state}: {detail}")]
    Ended { state: &'static str, detail: String },
    #[error("the control plane is over")]
    Over,
}

/// Runs one task in this image on the first worker that connects. `events` says that something happened.
///
/// # Errors
/// When it ended otherwise than completed.
pub fn run(plane: &ControlPlane, events: &Receiver<()>, image: &str) -> Result<(), Failed> {
    // A worker may take up what an earlier attempt left, and tells how that ended: this is another task.
    let moment = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let task_id = format!("try-{}", moment.as_millis());
    let assignment = json!({
        "task_id": task_id, "execution_id": task_id, "docker_image": image,
        "task": {"id": task_id, "title": "A task that tries the worker"},
    });
    while plane.assign(assignment.clone()).is_err() {
        events.recv().map_err(|_| Failed::Over)?;
    }
    loop {
        let task = plane.tasks().into_iter().find(|task| task.task_id == task_id);
        match task.map(|task| (task.state, task.detail)) {
            Some(("completed", _)) => return Ok(()),
            Some((state @ ("rejected" | "cancelled" | "failed"), detail)) => {
                return Err(Failed::Ended { state, detail });
            }
            _ => events.recv().map_err(|_| Failed::Over)?,
        }
    }
}
