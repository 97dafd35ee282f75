//! The Helm chart, and what Helm makes of it.
// Looking into rendered objects by name is no look outside.
#![allow(clippy::indexing_slicing)]

pub mod readme;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{peers::Peer, process::with_input};

/// The release's name and namespace in every rendering.
pub const RELEASE: (&str, &str) = ("r", "ns");

pub fn folder() -> PathBuf {
    repository().join("charts/oz-agent-worker")
}

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

/// A file of the repository, as text.
pub fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The least that the chart must be told, and this beside it.
pub fn values(more: &Value) -> Value {
    let mut values = json!({"image": {"tag": "1.2.3"}, "worker": {"workerId": "w1"}});
    merge(&mut values, more);
    values
}

/// The value files of `tests/chart/values` by name, each with the least that the chart must be told.
pub fn value_files() -> Vec<(String, Value)> {
    let folder = repository().join("tests/chart/values");
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("a readable folder").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let with_values = |name: String| {
        let given = yaml(&read(&format!("tests/chart/values/{name}")));
        (name.trim_end_matches(".yaml").to_owned(), values(&given))
    };
    names.into_iter().map(with_values).collect()
}

/// Lays one tree of values over another, as Helm does.
pub fn merge(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                merge(under.entry(key.as_str()).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over.clone(),
    }
}

/// Helm, which can be had.
#[derive(Debug, Clone, Copy)]
pub struct Helm {
    program: &'static Path,
}

impl Helm {
    /// `None` when it cannot be had: the calling test has nothing to do but return.
    pub fn here() -> Option<Self> {
        Some(Self { program: Peer::Helm.programs()?.first()? })
    }

    pub fn command(self) -> Command {
        Command::new(self.program)
    }

    /// What a release with exactly these values consists of.
    ///
    /// # Errors
    /// What Helm says is wrong.
    pub fn try_render(self, values: &Value) -> Result<Rendering, String> {
        self.try_render_for("1.36.0", values)
    }

    /// The same for this version of Kubernetes.
    ///
    /// # Errors
    /// What Helm says is wrong.
    pub fn try_render_for(self, kubernetes: &str, values: &Value) -> Result<Rendering, String> {
        let mut command = self.command();
        command.args(["template", RELEASE.0]).arg(folder());
        command.args(["--namespace", RELEASE.1, "--kube-version", kubernetes, "--values", "-"]);
        let ended = with_input(&mut command, &values.to_string());
        if !ended.status.success() {
            return Err(String::from_utf8_lossy(&ended.stderr).trim().to_owned());
        }
        let text = String::from_utf8(ended.stdout).map_err(|error| error.to_string())?;
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).map_err(|error| format!("{error}: {text}"))?;
        Ok(Rendering { objects, text })
    }

    /// What a release with the least values and these consists of.
    pub fn render(self, more: &Value) -> Rendering {
        self.try_render(&values(more)).unwrap_or_else(|error| panic!("{more}: {error}"))
    }
}

#[derive(Debug)]
pub struct Rendering {
    /// One after the other, hooks included.
    pub objects: Vec<Value>,
    /// As YAML.
    pub text: String,
}

impl Rendering {
    /// The objects of the release itself, without those of `helm test`, each as `Kind/name`.
    pub fn names(&self) -> Vec<String> {
        let installed =
            self.objects.iter().filter(|object| object["metadata"]["annotations"]["helm.sh/hook"].is_null());
        installed.map(|object| format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]))).collect()
    }

    /// The one object of this kind that is no hook. Null when there is none.
    pub fn the(&self, kind: &str) -> &Value {
        let is_it =
            |object: &&Value| object["kind"] == kind && object["metadata"]["annotations"]["helm.sh/hook"].is_null();
        self.objects.iter().find(is_it).unwrap_or(&Value::Null)
    }

    /// The Pod that the Deployment makes.
    pub fn pod(&self) -> &Value {
        &self.the("Deployment")["spec"]["template"]
    }

    pub fn container(&self) -> &Value {
        &self.pod()["spec"]["containers"][0]
    }

    pub fn file(&self) -> Value {
        let map = self.objects.iter().find(|object| object["data"]["config.yaml"].is_string());
        yaml(text(&map.expect("the worker's file")["data"]["config.yaml"]))
    }

    /// The value of one of the worker's variables, the last one of that name: what Kubernetes does with two.
    pub fn variable(&self, name: &str) -> Option<&Value> {
        self.container()["env"].as_array()?.iter().rfind(|variable| variable["name"] == name)
    }
}

/// A text; an empty one for anything else.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
