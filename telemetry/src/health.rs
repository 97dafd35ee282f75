//! `/livez` and `/readyz`: what an orchestrator asks a worker.

use std::time::Instant;

use crate::http::Response;
use crate::status::Status;

/// An old answer would be a wrong one.
const HEADERS: &[(&str, &str)] = &[("Cache-Control", "no-store")];

/// 200 while the worker makes progress, connected or not: starting it anew helps only when it does not.
pub(crate) fn live(status: &Status) -> Response {
    let late = status.late(Instant::now());
    let response = if late.is_zero() {
        Response::text(200, "ok\n")
    } else {
        Response::text(503, format!("the run loop is stuck: it should have moved {} s ago\n", late.as_secs()))
    };
    response.with(HEADERS)
}

/// 200 while a task could be taken now.
pub(crate) fn ready(status: &Status) -> Response {
    let response = match status.unready(Instant::now()) {
        None => Response::text(200, "ok\n"),
        Some(reason) => Response::text(503, format!("{reason}\n")),
    };
    response.with(HEADERS)
}
