//! What an engine has: containers, volumes, and what becomes of them.

use std::collections::BTreeMap;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Created,
    Running,
    Exited,
}

/// How long a container runs and how it ends, drawn when it is made.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub length: Option<Duration>,
    pub exit_code: i64,
    pub is_oom: bool,
    /// How long after SIGTERM it ends; never when it ignores it.
    pub heeds: Option<Duration>,
}

pub struct Mounted {
    pub volume: String,
    pub read_write: bool,
}

#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub struct Container {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub image: String,
    pub digest: String,
    /// In seconds since 1970.
    pub created: u64,
    /// Whether there were no faults any more when it was made: nothing that was asked of it got lost.
    pub is_of_calm: bool,
    pub status: Status,
    pub exit_code: i64,
    pub is_oom: bool,
    pub mounts: Vec<Mounted>,
    /// The volumes that nobody named.
    pub anonymous: Vec<String>,
    pub env: Value,
    pub plan: Plan,
    pub is_foreign: bool,
    /// Whether it is being removed, and the engine says so to everybody else.
    pub is_going: bool,
    /// How often its removal still fails.
    pub busy: u32,
    /// When it was asked to end.
    pub asked: Option<Duration>,
    /// Closed when it has ended, or is gone.
    pub ended: (Sender<()>, Receiver<()>),
}

impl Container {
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map(String::as_str).unwrap_or_default()
    }

    /// The worker that made it; none of what is foreign, whatever its labels say.
    pub fn maker(&self) -> Option<&str> {
        self.labels.get(WORKER_ID).map(String::as_str).filter(|_| !self.is_foreign)
    }

    /// The execution that it is of, when it is a task's.
    pub fn execution(&self) -> Option<&str> {
        self.labels.get(EXECUTION_ID).map(String::as_str)
    }

    /// The variables that its maker gave it, a line each.
    pub fn told(&self) -> String {
        let pairs: Vec<&str> = self.env.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        pairs.join("\n")
    }

    pub fn state(&self) -> Value {
        let status = match self.status {
            Status::Created => "created",
            Status::Running => "running",
            Status::Exited => "exited",
        };
        let started = if self.status == Status::Created { "0001-01-01T00:00:00Z" } else { "2026-01-01T00:00:00Z" };
        json!({
            "Status": status,
            "Running": self.status == Status::Running,
            "ExitCode": self.exit_code,
            "OOMKilled": self.is_oom,
            "StartedAt": started,
        })
    }

    pub fn listed(&self, id: &str) -> Value {
        let (names, state) = ([format!("/{}", self.name)], &self.state()["Status"]);
        json!({"Id": id, "Names": names, "Labels": self.labels, "Created": self.created, "State": state})
    }

    pub fn inspected(&self, id: &str) -> Value {
        json!({
            "Id": id,
            "Name": format!("/{}", self.name),
            "State": self.state(),
            "Config": {"Image": self.image, "Labels": self.labels, "Env": self.env},
        })
    }
}

/// The labels by which a worker knows what is its own.
pub const WORKER_ID: &str = "oz-agent-worker.worker-id";
pub const TASK_ID: &str = "oz-agent-worker.task-id";
pub const EXECUTION_ID: &str = "oz-agent-worker.execution-id";

#[derive(Default)]
pub struct Volume {
    /// Which of all volumes of its name.
    pub number: u64,
    pub labels: BTreeMap<String, String>,
    pub is_foreign: bool,
    /// What was unpacked into it.
    pub files: Vec<u8>,
    /// Who made the container that it was made for without a name; nobody for one that has a name.
    pub anonymous_of: Option<String>,
}

/// The texts of a JSON object.
pub fn texts(object: &Value) -> BTreeMap<String, String> {
    let pairs = object.as_object().into_iter().flatten();
    pairs.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}
