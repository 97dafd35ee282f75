//! The calls that more than one part of the backend makes, and what is read of their answers.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::engine::Call;
use super::error::EngineError;
use crate::query::escaped;

/// A container in a list of them.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Listed {
    pub id: String,
    #[serde(default)]
    pub names: Option<Vec<String>>,
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
    /// When it was made, in seconds since 1970.
    #[serde(default)]
    pub created: i64,
    /// What it does, in one word.
    #[serde(default)]
    state: String,
}

impl Listed {
    pub fn label(&self, name: &str) -> &str {
        self.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str).unwrap_or_default()
    }

    pub fn is_running(&self) -> bool {
        self.state == "running"
    }

    pub fn names(&self) -> &[String] {
        self.names.as_deref().unwrap_or_default()
    }
}

/// The list of containers with this label, or with this value of it.
pub fn list(label: &str) -> Call {
    let filters = json!({"label": [label]}).to_string();
    Call::get(format!("/containers/json?all=1&filters={}", escaped(&filters)))
}

/// The removal of a container, with the volumes that nobody named.
pub fn remove(id: &str) -> Call {
    Call::delete(format!("/containers/{}?force=1&v=1", escaped(id)))
}

/// The same without force: an engine removes nothing so that runs, and starts nothing that it removes.
pub fn remove_unstarted(id: &str) -> Call {
    Call::delete(format!("/containers/{}?v=1", escaped(id)))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Created {
    pub id: String,
    #[serde(default)]
    pub warnings: Option<Vec<String>>,
}

/// The creation of a container, with a name when it has one.
pub fn create(name: Option<&str>, description: Value) -> Call {
    let name = name.map(|name| format!("?name={}", escaped(name))).unwrap_or_default();
    Call::post(format!("/containers/create{name}")).json(description)
}

/// What is gone need not be removed.
pub fn unless_missing(removed: Result<(), EngineError>) -> Result<(), EngineError> {
    match removed {
        Err(error) if error.is_missing() => Ok(()),
        result => result,
    }
}
