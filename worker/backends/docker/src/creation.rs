//! Making a container once, however often the engine must be asked.
//!
//! When the answer to a creation is lost nobody knows whether there is a container now, or will be in a moment. So each has a
//! name that is its own: an engine gives a name once, and who asks again learns which container has it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use oz_worker_contract::query::escaped;
use oz_worker_runtime::Host;
use serde::Deserialize;
use serde_json::Value;

use super::calls::{Call, Created, create};
use super::engine::Engine;
use super::error::EngineError;
use super::{labels, removal};

/// How often, and how many times, somebody looks for a container that an engine may have made.
const LATER: Duration = Duration::from_secs(30);
const MOST_LOOKS: u32 = 10;

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
    mut description: Value,
) -> Result<Created, EngineError> {
    let number = engine.number().to_string();
    if let Some(labels) = description.get_mut("Labels").and_then(Value::as_object_mut) {
        labels.insert(labels::CREATION.into(), number.clone().into());
    }
    let mut own = Own { name: name.to_owned(), instance: instance.to_owned(), number, kept: None };
    let call = create(Some(name), description);
    let (mut patience, mut is_doubtful) = (engine.patience(), false);
    let made = loop {
        let error = match engine.once(&call).await {
            Ok(answer) => {
                let created = serde_json::from_slice::<Created>(&answer);
                is_doubtful |= created.is_err();
                break created.map_err(|_| EngineError::Form);
            }
            Err(error) if error.is_conflict() && is_doubtful => match find(engine, name).await {
                Ok(found) if own.is(&found) => break Ok(Created { id: found.id, warnings: None }),
                Ok(_) => break Err(error),
                // The name is taken before the container is there.
                Err(missing) if missing.is_missing() => error,
                Err(error) => error,
            },
            Err(error) if error.is_passing() => {
                is_doubtful |= error.is_transport();
                error
            }
            Err(error) => break Err(error),
        };
        if !patience.has_more(engine).await {
            break Err(error);
        }
    };
    if is_doubtful {
        own.kept = made.as_ref().ok().map(|created| created.id.clone());
        own.remove_later(Arc::clone(engine));
    }
    made
}

/// A container as it was described to the engine, if that has made it.
struct Own {
    name: String,
    instance: String,
    number: String,
    /// The one that somebody has.
    kept: Option<String>,
}

impl Own {
    fn is(&self, found: &Inspected) -> bool {
        let number = found.config.labels.as_ref().and_then(|labels| labels.get(labels::CREATION));
        found.instance() == Some(&self.instance) && number == Some(&self.number)
    }

    /// Removes beside everything else what the engine made of it and nobody has, or makes later: a request that was given up
    /// may still be done, as soon as the container that has the name is renamed or removed.
    fn remove_later<R: Host>(self, engine: Arc<Engine<R>>) {
        let runtime = engine.runtime().clone();
        runtime.spawn(async move {
            let mut looks = 0;
            while looks < MOST_LOOKS {
                engine.pause(LATER).await;
                match find(&engine, &self.name).await {
                    Ok(found) if self.is(&found) && self.kept.as_ref() != Some(&found.id) => {
                        looks += u32::from(removal::remove(&engine, &found.id).await.is_ok());
                    }
                    Err(error) if !error.is_missing() => {}
                    Ok(_) | Err(_) => looks += 1,
                }
            }
        });
    }
}
