//! Making a container once, however often the engine must be asked.
//!
//! When the answer to a creation is lost nobody knows whether there is a container now, or will be in a moment. So each has a
//! name that is its own: an engine gives a name once, and who asks again learns which container has it.

use std::collections::BTreeMap;
use std::sync::Arc;

use oz_worker_runtime::Host;
use serde::Deserialize;
use serde_json::Value;

use super::calls::{Created, create};
use super::engine::{Call, Engine, escaped};
use super::error::EngineError;
use super::{labels, removal};

/// A container that has a name.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspected {
    pub id: String,
    #[serde(default)]
    config: InspectedConfig,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct InspectedConfig {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

impl Inspected {
    /// The process that made it, when it was a worker's.
    pub fn instance(&self) -> Option<&str> {
        self.config.labels.as_ref()?.get(labels::INSTANCE).map(String::as_str)
    }
}

/// The container with this name.
pub async fn find<R: Host>(engine: &Engine<R>, name: &str) -> Result<Inspected, EngineError> {
    engine.ask(&Call::get(format!("/containers/{}/json", escaped(name)))).await
}

/// Makes a container that gets `name`; `instance` is this process, as in the container's labels. Nobody else in this process
/// asks for that name meanwhile.
pub async fn make<R: Host>(
    engine: &Arc<Engine<R>>,
    name: &str,
    instance: &str,
    description: Value,
) -> Result<Created, EngineError> {
    let call = create(Some(name), description);
    let (mut patience, mut is_doubtful) = (engine.patience(), false);
    loop {
        let error = match engine.once(&call).await {
            Ok(answer) => return serde_json::from_slice(&answer).map_err(|_| EngineError::Form),
            Err(error) if error.is_conflict() && is_doubtful => match find(engine, name).await {
                Ok(found) if found.instance() == Some(instance) => {
                    return Ok(Created { id: found.id, warnings: None });
                }
                Ok(_) => return Err(error),
                // The name is taken before the container is there.
                Err(missing) if missing.is_missing() => error,
                Err(error) => error,
            },
            Err(error) if error.is_passing() => {
                is_doubtful |= error.is_transport();
                error
            }
            Err(error) => return Err(error),
        };
        if !patience.has_more(engine).await {
            if is_doubtful {
                removal::remove_later(Arc::clone(engine), name.to_owned());
            }
            return Err(error);
        }
    }
}
