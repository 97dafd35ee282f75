//! Removing containers: bounded, and tried again beside everything else when it cannot be done at once.

use std::sync::Arc;
use std::time::Duration;

use oz_worker_contract::query::escaped;
use oz_worker_runtime::Host;
use tracing::{info, warn};

use super::calls::{self, Call};
use super::engine::Engine;
use super::error::EngineError;
use super::labels;
use super::reply::within;
use super::state::Seen;
use super::wait;

/// How often a container is removed that is busy.
const TRIES: u32 = 3;
/// The wait between two tries.
const PAUSE: Duration = Duration::from_millis(500);
/// How long all of it may take while somebody waits.
const LIMIT: Duration = Duration::from_secs(8);
/// How often and how long a container is removed that could not be.
const LATER: Duration = Duration::from_secs(30);
const MOST_LATER: u32 = 120;

/// Removes a container with its anonymous volumes, within a limit. That it is gone, or about to be, is as good.
pub async fn remove<R: Host>(engine: &Engine<R>, id: &str) -> Result<(), EngineError> {
    let removed = async {
        let mut tried = 0;
        loop {
            tried += 1;
            match once(engine, id).await {
                Err(error) if tried < TRIES && !error.is_transport() => {}
                result => return result,
            }
            engine.pause(PAUSE).await;
        }
    };
    within(engine.runtime(), Some(LIMIT), removed).await
}

/// Removes a container that was made and never started, so that no start which is still under way can come to it. False: it
/// was started, or somebody else removed it. There is no limit.
pub async fn remove_unstarted<R: Host>(engine: &Engine<R>, id: &str) -> bool {
    let call = calls::remove_unstarted(id);
    let mut is_asked = false;
    loop {
        match wait::settled(engine, id).await {
            Some(Seen::Created) => {}
            // The answer may have been lost.
            None => return is_asked,
            Some(Seen::Running | Seen::Exited { .. } | Seen::Unknown) => return false,
        }
        if is_removed(&engine.once(&call).await) {
            return true;
        }
        is_asked = true;
        engine.pause(PAUSE).await;
    }
}

async fn once<R: Host>(engine: &Engine<R>, id: &str) -> Result<(), EngineError> {
    let answer = engine.once(&calls::remove(id)).await;
    if is_removed(&answer) { Ok(()) } else { answer.map(drop) }
}

/// Whether a container that was to be removed is gone, or about to be.
fn is_removed<T>(answer: &Result<T, EngineError>) -> bool {
    answer.as_ref().err().is_none_or(|error| {
        let words = error.words();
        error.is_missing() || (words.contains("removal") && words.contains("already in progress"))
    })
}

/// Removes a container for which nobody waits, and goes on with it beside everything else when it cannot be done at once.
pub async fn remove_or_later<R: Host>(engine: &Arc<Engine<R>>, id: &str) {
    if let Err(error) = remove(engine, id).await {
        warn!("cannot remove container {id}: {error}; it is tried again");
        remove_later(Arc::clone(engine), id.to_owned());
    }
}

/// Goes on removing a container beside everything else.
pub fn remove_later<R: Host>(engine: Arc<Engine<R>>, id: String) {
    let runtime = engine.runtime().clone();
    runtime.spawn(async move {
        for _ in 0..MOST_LATER {
            engine.pause(LATER).await;
            if once(&engine, &id).await.is_ok() {
                info!("removed container {id}, which could not be removed before");
                return;
            }
        }
        warn!("container {id} cannot be removed; docker rm --force --volumes {id} would");
    });
}

/// Whether a container that was sent SIGKILL is not running any more, or will not be in a moment. It may have ended by itself.
pub fn is_killed<T>(answer: &Result<T, EngineError>) -> bool {
    answer.as_ref().err().is_none_or(|error| error.is_gone() || error.status() == Some(409))
}

/// Kills a container beside everything else, for as long as it takes: one that is kept, and was not stopped.
pub fn kill_beside<R: Host>(engine: Arc<Engine<R>>, id: String) {
    let runtime = engine.runtime().clone();
    runtime.spawn(async move {
        let call = Call::post(format!("/containers/{id}/kill?signal=SIGKILL"));
        for _ in 0..MOST_LATER {
            if is_killed(&engine.once(&call).await) {
                return;
            }
            engine.pause(LATER).await;
        }
        warn!("container {id} cannot be stopped; docker kill {id} would");
    });
}

/// Marks a container that is kept as one whose end was told: no later worker takes it up.
pub async fn mark_as_told<R: Host>(engine: &Engine<R>, id: &str) {
    let call = Call::post(format!("/containers/{id}/rename?name={}", escaped(&labels::told(id))));
    if let Err(error) = within(engine.runtime(), Some(LIMIT), engine.once(&call)).await {
        warn!("cannot mark container {id} as one whose end was told: {error}");
    }
}
