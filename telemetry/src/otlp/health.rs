//! How a collector does, and the one line in the log whenever that changes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::{info, warn};
use ureq::http::Uri;

use crate::otlp::answer::PartialSuccess;
use crate::otlp::failure::ExportFailure;
use crate::signal::OtelSignal;

/// The health of one collector, as one signal sees it.
#[derive(Debug)]
pub(super) struct Health {
    signal: OtelSignal,
    /// For the log: without credentials and query.
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
    pub(super) fn new(signal: OtelSignal, endpoint: &Uri) -> Self {
        Self { signal, endpoint: without_secrets(endpoint), state: Mutex::new(Condition::Well) }
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

/// Scheme, host, port and path of a URL.
fn without_secrets(url: &Uri) -> String {
    let port = url.port_u16().map_or(String::new(), |port| format!(":{port}"));
    format!("{}://{}{port}{}", url.scheme_str().unwrap_or("http"), url.host().unwrap_or_default(), url.path())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn credentials_and_query_of_an_endpoint_stay_out_of_the_log() {
        let url = "https://user:hunter2@collector:4318/v1/metrics?token=canary".parse().unwrap();
        assert_eq!(without_secrets(&url), "https://collector:4318/v1/metrics");
    }
}
