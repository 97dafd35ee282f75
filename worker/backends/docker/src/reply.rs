//! What an engine answers: a body in pieces or whole, bounded in bytes and in time, or why it refuses.

use std::future::Future;
use std::time::Duration;

use futures_lite::FutureExt;
use http::StatusCode;
use oz_worker_net::{AnswerError, Body};
use oz_worker_runtime::{Host, Runtime};
use oz_worker_text::line::beginning;
use serde::Deserialize;

use super::error::EngineError;
use super::line::Line;

/// The largest answer that is read whole. An inspect has some 10 KiB, a list of a thousand containers 2 MiB.
const LARGEST_ANSWER: usize = 16 << 20;
/// The longest text of an engine's error that is passed on, in characters.
const LONGEST_TEXT: usize = 1000;

/// An answer whose body is still to be read.
pub struct Reply<R: Host> {
    body: Body<Line<R>>,
    runtime: R,
    silence: Option<Duration>,
}

impl<R: Host> Reply<R> {
    pub(super) const fn new(body: Body<Line<R>>, runtime: R, silence: Option<Duration>) -> Self {
        Self { body, runtime, silence }
    }

    /// The next piece, or none at the end.
    pub async fn chunk(&mut self) -> Result<Option<impl AsRef<[u8]> + use<R>>, EngineError> {
        let next = self.body.chunk();
        within(&self.runtime, self.silence, async { next.await.map_err(EngineError::from) }).await
    }

    /// The whole of it.
    pub async fn whole(mut self) -> Result<Vec<u8>, EngineError> {
        let mut whole = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            let chunk = chunk.as_ref();
            if chunk.len() > LARGEST_ANSWER - whole.len() {
                return Err(AnswerError::BodyTooLarge(LARGEST_ANSWER).into());
            }
            whole.extend_from_slice(chunk);
        }
        Ok(whole)
    }

    /// What an answer with this status says that is no good one.
    pub async fn refusal(self, status: StatusCode) -> EngineError {
        let text = self.whole().await.unwrap_or_default();
        let message = match serde_json::from_slice::<Refusal>(&text) {
            Ok(Refusal { message, cause }) if message.is_empty() && !cause.is_empty() => cause,
            Ok(Refusal { message, .. }) if !message.is_empty() => message,
            _ => String::from_utf8_lossy(&text).into_owned(),
        };
        let message = beginning(message.trim(), LONGEST_TEXT);
        EngineError::Status { status: status.as_u16(), message }
    }

    /// The body as a stream, for whoever bounds its time.
    pub fn into_body(self) -> Body<Line<R>> {
        self.body
    }
}

/// What `future` comes to, unless it takes longer than that.
pub async fn within<R: Runtime, T>(
    runtime: &R,
    limit: Option<Duration>,
    future: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    let Some(limit) = limit else { return future.await };
    let late = async {
        runtime.sleep_until(runtime.now().plus(limit)).await;
        Err(EngineError::Silent(limit))
    };
    future.or(late).await
}

/// How an engine words a refusal.
#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    message: String,
    /// Podman's word for it.
    #[serde(default)]
    cause: String,
}
