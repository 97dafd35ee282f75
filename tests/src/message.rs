//! The server's messages, as tests write them.
// Looking into one's own JSON by name is no look outside.
#![allow(clippy::indexing_slicing)]

use serde_json::{Map, Value, json};

/// A `task_assignment`. What the stand-in agent does for it travels in the assignment itself, as the task's environment
/// variable `SCRIPT` (see [`crate::agent::Agent`]).
#[derive(Debug, Clone)]
pub struct Assignment(Value);

impl Assignment {
    /// The smallest complete assignment of this task: its agent exits 0 at once.
    pub fn new(task_id: &str) -> Self {
        Self(json!({
            "type": "task_assignment",
            "data": {
                "task_id": task_id,
                "execution_id": format!("exec-of-{task_id}"),
                "task": {"id": task_id, "title": "A test's task", "task_definition": {"prompt": "do it"}},
            }
        }))
    }

    /// An assignment with this `data`, whatever it is.
    pub fn of(data: &Value) -> Self {
        Self(json!({"type": "task_assignment", "data": data}))
    }

    /// The agent runs this shell script.
    #[must_use]
    pub fn run(self, script: &str) -> Self {
        self.env("SCRIPT", script)
    }

    /// One more of the task's environment variables.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.data().entry("env_vars").or_insert_with(|| json!({}))[name] = value.into();
        self
    }

    /// Another execution of the same task.
    #[must_use]
    pub fn execution(self, execution_id: &str) -> Self {
        self.with("execution_id", execution_id.into())
    }

    /// Sets a field of `data`.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.data().insert(field.to_owned(), value);
        self
    }

    /// Leaves a field of `data` out.
    #[must_use]
    pub fn without(mut self, field: &str) -> Self {
        self.data().shift_remove(field);
        self
    }

    fn data(&mut self) -> &mut Map<String, Value> {
        self.0["data"].as_object_mut().expect("an assignment's data is an object")
    }
}

impl AsRef<Value> for Assignment {
    fn as_ref(&self) -> &Value {
        &self.0
    }
}

impl From<Assignment> for Value {
    fn from(assignment: Assignment) -> Self {
        assignment.0
    }
}

#[derive(Debug, Clone)]
pub struct Cancellation(Value);

impl Cancellation {
    /// The user cancels this task.
    pub fn of(task_id: &str) -> Self {
        Self(json!({"type": "task_cancellation", "data": {"task_id": task_id}}))
    }
}

impl AsRef<Value> for Cancellation {
    fn as_ref(&self) -> &Value {
        &self.0
    }
}
