//! What an engine says happens to the containers of tasks.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{docker::Engine, images::TASK, service::Service};

/// The name of a container's task, as the worker labels it.
const TASK_ID: &str = "oz-agent-worker.task-id";

/// Hears from now on what happens, until it is dropped.
pub struct Events<'engine> {
    engine: &'engine Engine,
    log: Service,
}

/// How often a task's container was made and started.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Happened {
    pub created: usize,
    pub started: usize,
}

impl<'engine> Events<'engine> {
    pub fn of_tasks(engine: &'engine Engine) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that was set").as_secs();
        let format = format!("{{{{.Action}}}} {{{{index .Actor.Attributes \"{TASK_ID}\"}}}}.");
        let mut command = engine.command();
        command.args(["events", "--since", &now.to_string(), "--filter", "type=container", "--format", &format]);
        command.args(["--filter", "event=create", "--filter", "event=start", "--filter", &format!("label={TASK_ID}")]);
        Self { engine, log: Service::start("the engine's events", &mut command) }
    }

    /// All that has happened to the containers of a task; `everything` must have been called before.
    pub fn of(&self, task_id: &str) -> Happened {
        let count = |what: &str| self.log.lines_with(&format!("{what} {task_id}.")).len();
        Happened { created: count("create"), started: count("start") }
    }

    /// Waits until everything is heard that has happened so far.
    pub fn everything(&self) {
        let label = format!("{TASK_ID}=heard");
        let container = self.engine.docker(["create", "--network", "none", "--label", &label, TASK, "/bin/true"]);
        self.log.wait_for_line("create heard.");
        self.engine.docker(["rm", &container]);
    }
}
