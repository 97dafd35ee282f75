//! What must hold on an engine: a result is the container's true end, volumes are whole, nobody touches another's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::watch::Judge;

/// What really became of each execution. A clone is another handle to the same.
#[derive(Clone, Default)]
pub struct Truths(Arc<Mutex<BTreeMap<String, Truth>>>);

#[derive(Default, Clone, Copy)]
pub struct Truth {
    /// How often a container of it was started.
    pub starts: u32,
    /// The exit code, and whether memory ran out.
    pub end: Option<(i64, bool)>,
    /// Whether somebody who is no worker removed its container.
    pub is_gone: bool,
    /// Whether the worker that made its container was killed, or has left.
    pub is_orphan: bool,
}

impl Truth {
    /// Whether it ran, and nobody but its worker can have removed its container.
    pub const fn is_its_workers(self) -> bool {
        self.starts > 0 && !self.is_gone
    }
}

impl Truths {
    pub fn note(&self, execution: &str, what: impl FnOnce(&mut Truth)) {
        what(self.0.lock().unwrap().entry(execution.to_owned()).or_default());
    }

    /// A worker is gone. Of what it had, only these have a container that the next one can find.
    pub fn orphan(&self, is_its: impl Fn(&str) -> bool, is_left: impl Fn(&str) -> bool) {
        let mut all = self.0.lock().unwrap();
        all.retain(|execution, _| !is_its(execution) || is_left(execution));
        all.iter_mut().filter(|(execution, _)| is_its(execution)).for_each(|(_, truth)| truth.is_orphan = true);
    }

    pub(super) fn of(&self, execution: &str) -> Truth {
        self.0.lock().unwrap().get(execution).copied().unwrap_or_default()
    }
}

impl Judge for Truths {
    fn judge(&self, execution: &str, reason: &str, exit_code: i64) -> Option<String> {
        let Truth { starts, end, is_gone, is_orphan, .. } = self.of(execution);
        let is_true = match reason {
            "" => end.is_some_and(|(code, _)| code == 0),
            // Why it was killed, only the container itself could say.
            "container_exit" => end.is_some_and(|(code, is_oom)| code == exit_code && (!is_oom || is_gone)),
            "container_oom" => end == Some((exit_code, true)),
            "container_wait" => is_gone,
            "cancelled" => true,
            // What nobody can find any more is run anew, when the server gives it to the next worker again.
            "image_pull" | "sidecar_prep" | "container_create" | "container_start" => {
                starts == 0 || (is_orphan && is_gone)
            }
            _ => false,
        };
        let told = if reason.is_empty() { "success" } else { reason };
        let seen = format!("its container was started {starts} times, ended {end:?}, and was removed: {is_gone}");
        (!is_true).then(|| format!("{execution} is told to have ended by {told} {exit_code}, but {seen}"))
    }
}
