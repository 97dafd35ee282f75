//! What an engine is asked: one call, and those that more than one part of the backend makes, with what is read of their answers.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use oz_worker_contract::query::escaped;
use oz_worker_core::secret::Secret;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::EngineError;

/// How long an engine may be silent in the middle of a call. One that stands still for a minute fails no task.
pub const SILENCE: Duration = Duration::from_secs(90);
/// The same while it pulls or fills, when a registry or a disk may be what stands still.
pub const LONG_SILENCE: Duration = Duration::from_secs(300);

/// One call.
pub struct Call {
    pub(super) method: Method,
    /// Below the version, with its query.
    pub(super) path: String,
    pub(super) body: Option<Value>,
    pub(super) registry_auth: Option<Secret>,
    pub(super) silence: Option<Duration>,
    pub(super) is_lasting: bool,
}

impl Call {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), body: None, registry_auth: None, silence: Some(SILENCE), is_lasting: false }
    }

    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    pub fn put(path: impl Into<String>) -> Self {
        Self::new(Method::PUT, path)
    }

    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path)
    }

    pub fn json(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }

    pub fn registry_auth(self, value: Option<Secret>) -> Self {
        Self { registry_auth: value, ..self }
    }

    /// How long nothing may come; without limit when none is given.
    pub fn silence(self, limit: Option<Duration>) -> Self {
        Self { silence: limit, ..self }
    }

    /// That its answer may take as long as a task: every running task costs the memory of one.
    pub fn lasting(self) -> Self {
        Self { silence: None, is_lasting: true, ..self }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(call: &Call) -> (String, Option<Duration>, bool) {
        (format!("{} {}", call.method, call.path), call.silence, call.is_lasting)
    }

    #[test]
    fn a_call_says_what_it_asks_for_and_how_long_nothing_may_come() {
        let usual = Some(SILENCE);
        let longer = Some(Duration::from_secs(600));
        for (call, line, silence, is_lasting) in [
            (Call::get("/info"), "GET /info", usual, false),
            (Call::put("/x").silence(longer), "PUT /x", longer, false),
            (Call::post("/x").lasting(), "POST /x", None, true),
            (remove("a/b"), "DELETE /containers/a%2Fb?force=1&v=1", usual, false),
            (remove_unstarted("a"), "DELETE /containers/a?v=1", usual, false),
            (create(None, json!({})), "POST /containers/create", usual, false),
            (create(Some("a b"), json!({})), "POST /containers/create?name=a%20b", usual, false),
            (list("a=b"), "GET /containers/json?all=1&filters=%7B%22label%22%3A%5B%22a%3Db%22%5D%7D", usual, false),
        ] {
            assert_eq!(parts(&call), (line.to_owned(), silence, is_lasting));
        }
        let call = create(None, json!({"Image": "i"})).registry_auth(Some("canary".into()));
        assert_eq!((call.body, call.registry_auth), (Some(json!({"Image": "i"})), Some("canary".into())));
    }

    #[test]
    fn a_listed_container_has_what_the_engine_leaves_out_as_well() {
        let listed = |text: &str| serde_json::from_str::<Listed>(text).expect("a container");
        let whole = listed(r#"{"Id":"1","Names":["/a"],"Labels":{"l":"v"},"Created":5,"State":"running"}"#);
        assert_eq!((whole.names(), whole.label("l"), whole.label("m")), (&["/a".to_owned()][..], "v", ""));
        assert!(whole.is_running() && whole.created == 5);
        let bare = listed(r#"{"Id":"1","Names":null,"Labels":null,"State":"exited"}"#);
        assert!(bare.names().is_empty() && bare.label("l").is_empty() && !bare.is_running());
    }

    #[test]
    fn what_is_gone_need_not_be_removed_and_any_other_refusal_is_one() {
        let said = |status| EngineError::Status { status, message: String::new() };
        assert!(unless_missing(Ok(())).is_ok());
        assert!(unless_missing(Err(said(404))).is_ok());
        assert!(unless_missing(Err(said(500))).is_err());
    }
}
