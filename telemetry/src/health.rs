//! `/livez` and `/readyz`: what an orchestrator asks a worker.

use std::time::Instant;

use crate::http::HttpReply;
use crate::status::Status;

/// An old answer would be a wrong one.
const HEADERS: &[(&str, &str)] = &[("Cache-Control", "no-store")];

/// 200 while the worker makes progress, connected or not: starting it anew helps only when it does not. Else a line for each
/// part that does not.
pub(crate) fn live(status: &Status) -> HttpReply {
    answer(&status.stuck(Instant::now()).iter().map(ToString::to_string).collect::<Vec<_>>())
}

/// 200 while a task could be taken now.
pub(crate) fn ready(status: &Status) -> HttpReply {
    answer(status.unready(Instant::now()).as_slice())
}

/// `reasons` why not, a line each.
fn answer(reasons: &[String]) -> HttpReply {
    let reply =
        if reasons.is_empty() { HttpReply::text(200, "ok\n") } else { HttpReply::text(503, reasons.join("\n") + "\n") };
    reply.with(HEADERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_a_line_and_none_is_ok() {
        assert_eq!(answer(&[]), HttpReply::text(200, "ok\n").with(HEADERS));
        let reasons = ["the run loop is stuck", "the executor is stuck"].map(ToOwned::to_owned);
        let expected = HttpReply::text(503, "the run loop is stuck\nthe executor is stuck\n").with(HEADERS);
        assert_eq!(answer(&reasons), expected);
    }
}
