//! Waiting for the end of a container: by a call that lasts as long as it, and by looking when that breaks or falls silent.

use std::time::Duration;

use futures_lite::FutureExt;
use oz_worker_runtime::Host;
use serde::Deserialize;

use super::calls::Call;
use super::engine::Engine;
use super::error::EngineError;
use super::state::{ContainerState, Seen, WaitAnswer};

/// How long a wait may say nothing before it is looked whether there is still something to wait for: whatever stands between
/// may have forgotten the connection.
const WAIT_SILENCE: Duration = Duration::from_secs(600);
/// The first and the longest wait between two looks.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(10)];
/// How long a start may still be under way whose answer nobody heard.
const SETTLING: Duration = Duration::from_secs(2);
/// The longest answer to a wait.
const LONGEST_ANSWER: usize = 64 << 10;

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerEnd {
    Exited {
        exit_code: i32,
        is_oom: bool,
    },
    /// The engine does not know it any more.
    Gone,
}

impl Seen {
    /// How it has ended, if it has.
    pub const fn end(&self) -> Option<ContainerEnd> {
        match *self {
            Self::Exited { exit_code, is_oom } => Some(ContainerEnd::Exited { exit_code, is_oom }),
            Self::Created | Self::Running | Self::Unknown => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    state: ContainerState,
}

async fn state<R: Host>(engine: &Engine<R>, id: &str) -> Result<ContainerState, EngineError> {
    engine.ask(&Call::get(format!("/containers/{id}/json"))).await.map(|Inspected { state }| state)
}

/// What is known of a container now. None: nothing, it is gone.
pub async fn look<R: Host>(engine: &Engine<R>, id: &str) -> Result<Option<Seen>, EngineError> {
    match state(engine, id).await {
        Ok(state) => Ok(Some(state.seen())),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is known of a container, as soon as the engine says it. There is no limit.
pub async fn known<R: Host>(engine: &Engine<R>, id: &str) -> Option<Seen> {
    let [mut pause, longest] = PAUSES;
    loop {
        if let Ok(seen) = look(engine, id).await {
            return seen;
        }
        engine.pause(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// What is known of a container that somebody may be about to start: as soon as it is more than that it was made, and else
/// what it is after a while.
pub async fn settled<R: Host>(engine: &Engine<R>, id: &str) -> Option<Seen> {
    match known(engine, id).await {
        Some(Seen::Created | Seen::Unknown) => {
            engine.pause(SETTLING).await;
            known(engine, id).await
        }
        seen => seen,
    }
}

/// Whether the engine has no such container any more, or is about to have none.
pub async fn is_going<R: Host>(engine: &Engine<R>, id: &str) -> bool {
    state(engine, id).await.map_or_else(|error| error.is_gone(), |state| state.is_going())
}

/// Waits until a container that was started has ended. There is no limit: an engine that is away for an hour comes back with
/// the truth.
pub async fn end<R: Host>(engine: &Engine<R>, id: &str) -> ContainerEnd {
    let [first, longest] = PAUSES;
    let mut pause = first;
    loop {
        let waited = wait(engine, id).await;
        if let Ok(Some(0)) = waited {
            return ContainerEnd::Exited { exit_code: 0, is_oom: false };
        }
        match Box::pin(look(engine, id)).await {
            Ok(Some(Seen::Exited { exit_code, is_oom })) => return ContainerEnd::Exited { exit_code, is_oom },
            // Somebody removed it, and its wait was answered before.
            Ok(None) => {
                let exited = |exit_code| ContainerEnd::Exited { exit_code, is_oom: false };
                return waited.ok().flatten().map_or(ContainerEnd::Gone, exited);
            }
            Ok(Some(Seen::Running)) if waited.is_ok() => pause = first,
            Ok(Some(Seen::Running | Seen::Created | Seen::Unknown)) | Err(_) => {}
        }
        engine.pause(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// What a wait says. None when it says nothing of use.
async fn wait<R: Host>(engine: &Engine<R>, id: &str) -> Result<Option<i32>, EngineError> {
    let runtime = engine.runtime();
    let answered = async {
        // On the heap, with the call: what is needed to begin it is not needed for as long as it lasts.
        let begun = Box::pin(async {
            let call = Call::post(format!("/containers/{id}/wait?condition=not-running")).lasting();
            let rest = engine.open(&call).await?.into_body().into_rest(LONGEST_ANSWER).await?;
            Ok::<_, EngineError>(rest)
        });
        let answer = begun.await?.read_whole().await?;
        Ok(serde_json::from_slice::<WaitAnswer>(&answer).ok().and_then(|answer| answer.exit_code()))
    };
    let silent = async {
        runtime.sleep_until(runtime.now().plus(WAIT_SILENCE)).await;
        Ok(None)
    };
    answered.or(silent).await
}
