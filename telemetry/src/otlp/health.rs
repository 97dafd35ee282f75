//! How a collector does, and the one line in the log whenever that changes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use oz_worker_net::url::Url;
use tracing::{info, warn};

use crate::otlp::answer::PartialSuccess;
use crate::otlp::failure::ExportFailure;
use crate::signal::OtelSignal;

/// The health of one collector, as one signal sees it.
#[derive(Debug)]
pub(super) struct Health {
    signal: OtelSignal,
    /// For the log: scheme, host and port. A path or a query may hold a token.
    endpoint: String,
    state: Mutex<Condition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// Takes everything.
    Well,
    /// Takes requests, but not all that is in them, or not without a remark.
    Partial,
    /// Takes nothing.
    Down,
}

impl Health {
    pub(super) fn new(signal: OtelSignal, endpoint: &Url) -> Self {
        Self {
            signal,
            endpoint: format!("{}://{}", endpoint.scheme(), endpoint.authority()),
            state: Mutex::new(Condition::Well),
        }
    }

    pub(super) fn is_down(&self) -> bool {
        *self.lock() == Condition::Down
    }

    /// One export ended like this.
    pub(super) fn note(&self, outcome: Result<PartialSuccess, ExportFailure>) {
        let (endpoint, signal) = (&self.endpoint, self.signal);
        let now = match &outcome {
            Ok(partial) if *partial == PartialSuccess::default() => Condition::Well,
            Ok(_) => Condition::Partial,
            Err(_) => Condition::Down,
        };
        let mut state = self.lock();
        let before = std::mem::replace(&mut *state, now);
        if before == now {
            return;
        }
        match outcome {
            Err(cause) => {
                warn!(%endpoint, %cause, "{signal} do not reach the collector; trying again at every export");
            }
            Ok(PartialSuccess { rejected, message }) if rejected > 0 => {
                warn!(%endpoint, rejected, cause = %message, "the collector takes only a part of the {signal}");
            }
            Ok(PartialSuccess { message, .. }) if now == Condition::Partial => {
                warn!(%endpoint, cause = %message, "the collector takes the {signal} with a warning");
            }
            Ok(_) => info!(%endpoint, "{signal} reach the collector again"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Condition> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn nothing_of_an_endpoint_that_may_be_a_secret_is_in_the_log() {
        let url = "https://user:hunter2@collector:4318/canary/v1/metrics?token=canary";
        let health = Health::new(OtelSignal::Metrics, &Url::parse(url, &["https"]).unwrap());
        assert_eq!(health.endpoint, "https://collector:4318");
    }
}
