//! Volumes of an engine: whether one is a worker's, the making of one, and the removal of one that is.

use std::collections::BTreeMap;

use oz_worker_contract::query::escaped;
use oz_worker_runtime::Host;
use serde::Deserialize;
use serde_json::json;

use super::calls::Call;
use super::engine::Engine;
use super::error::EngineError;
use super::labels::SIDECAR;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Volume {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

impl Volume {
    /// Whether a worker made it.
    fn is_ours(&self) -> bool {
        self.labels.as_ref().is_some_and(|labels| labels.contains_key(SIDECAR))
    }
}

/// Makes a volume for the files of the image with this digest. False: there is one of that name already, and it is another's.
pub async fn make<R: Host>(engine: &Engine<R>, name: &str, digest: &str) -> Result<bool, EngineError> {
    let wanted = json!({"Name": name, "Labels": {SIDECAR: digest}});
    // One that is there already is given as it is.
    Ok(engine.ask::<Volume>(&Call::post("/volumes/create").json(wanted)).await?.is_ours())
}

/// Removes a volume that a worker made. False: a container has it, or it is another's.
pub async fn remove<R: Host>(engine: &Engine<R>, name: &str) -> Result<bool, EngineError> {
    let path = format!("/volumes/{}", escaped(name));
    let mut patience = engine.patience();
    loop {
        // Looked at before every try: it may be gone by the one before, whose answer was lost, and another's by now.
        match engine.ask::<Volume>(&Call::get(&path)).await {
            Ok(found) if !found.is_ours() => return Ok(false),
            Ok(_) => {}
            Err(error) if error.is_missing() => return Ok(true),
            Err(error) => return Err(error),
        }
        match engine.once(&Call::delete(&path)).await {
            Ok(_) => return Ok(true),
            Err(error) if error.is_missing() => return Ok(true),
            Err(error) if error.is_conflict() => return Ok(false),
            Err(error) if error.is_passing() && patience.has_more(engine).await => {}
            Err(error) => return Err(error),
        }
    }
}
