//! The core's notices in words: one line of the log each.

use std::time::Duration;

use oz_worker_core::metrics::TaskResult;
use oz_worker_core::{BadFrame, Notice};
use tracing::{debug, error, info, warn};

use oz_worker_text::duration;

/// Writes a notice to the log. `trace_id` is that of the task that it is about, when tracing is on.
pub(super) fn log(notice: Notice, trace_id: Option<&str>) {
    match notice {
        // The one before brought nothing. Of a row of such the log has one line each, that of its end.
        Notice::Connected { is_repeated: true, .. } => debug!("connected"),
        Notice::Connected { unproven_ends: 0, .. } => info!("connected"),
        Notice::Connected { unproven_ends, .. } => {
            info!(unproven_ends, "connected; sending again what the server may not have received");
        }
        Notice::ConnectionStays => info!("connected, and this connection does better than the one before"),
        Notice::DialFailed { cause, retry_in } => {
            warn!(retry_in = %rounded(retry_in), "dial failed: {cause}");
        }
        Notice::Disconnected { cause, retry_in } => {
            warn!(retry_in = %rounded(retry_in), "disconnected: {cause}");
        }
        Notice::BadFrame(BadFrame { message_type: Some(message_type), size, problem }) => {
            warn!(message_type, size, "ignored a frame: {problem}");
        }
        Notice::BadFrame(BadFrame { message_type: None, size, problem }) => warn!(size, "ignored a frame: {problem}"),
        Notice::MalformedAssignment { task_id, size, flaw, is_answered: true } => {
            warn!(task_id, trace_id, size, "answered an assignment with task_failed: {flaw}");
        }
        Notice::MalformedAssignment { task_id, size, flaw, is_answered: false } => {
            warn!(task_id, trace_id, size, "an assignment cannot be understood: {flaw}");
        }
        Notice::Claimed { task_id, execution_id, title, active } => {
            let execution_id = execution_id.unwrap_or_default();
            info!(task_id, trace_id, execution_id, title, active, "task claimed");
        }
        Notice::Rejected { is_repeated: true, task_id, .. } => {
            debug!(task_id, trace_id, "task rejected, as the one before");
        }
        Notice::Rejected { task_id, reason, active, .. } => {
            info!(task_id, trace_id, reason = reason.as_str(), active, "task rejected");
        }
        Notice::AssignedAgain { task_id } => {
            info!(task_id, trace_id, "task was assigned again; it is known already and not started a second time");
        }
        Notice::CancelRequested { task_id } => info!(task_id, trace_id, "task cancelled by the user; stopping it"),
        Notice::CancelTooLate { task_id } => {
            info!(task_id, trace_id, "task cancelled by the user after it had finished; its result stands");
        }
        Notice::CancelUnknown { task_id } => {
            warn!(task_id, trace_id, "cannot cancel a task that is not active on this worker");
        }
        Notice::CancelFailed { task_id, problem } => {
            warn!(task_id, trace_id, "cancelling the dispatched task failed: {problem}");
        }
        Notice::NotReady { task_id } => {
            warn!(task_id, trace_id, "not ready: the task was claimed 10 s ago and has not started; no other is taken");
        }
        Notice::Ready => info!("ready again: every task that was claimed has started, or has ended"),
        Notice::Resumed { task_id, execution_id, age: _, active } => {
            let execution_id = execution_id.unwrap_or_default();
            info!(
                task_id,
                trace_id, execution_id, active, "task taken up; it was claimed before the worker was killed"
            );
        }
        Notice::Interrupted { task_id, result } => {
            warn!(task_id, trace_id, "task {result}: it ran when the worker was killed");
        }
        Notice::TooOldToTell { task_id, age } => {
            let age = rounded(age);
            error!(task_id, trace_id, %age, "the server is not told how this task ended: that is too long ago");
        }
        Notice::Ended { task_id, result, duration, failure, active } => {
            let duration = rounded(duration);
            match (result, failure) {
                (TaskResult::Failed, Some(failure)) => warn!(
                    task_id,
                    trace_id,
                    %duration,
                    reason = failure.reason.as_str(),
                    exit_code = failure.exit_code,
                    active,
                    "task failed: {}",
                    failure.message
                ),
                (result, _) => info!(task_id, trace_id, %duration, active, "task {result}"),
            }
        }
        Notice::CleanupFailed { task_id, failure } => {
            warn!(task_id, trace_id, reason = failure.reason.as_str(), "cleanup failed: {}", failure.message);
        }
        Notice::Draining { signal, active, timeout } => {
            let timeout = rounded(timeout);
            info!(signal, active, %timeout, "draining: no new task is taken, running ones may finish; again to skip");
        }
        Notice::DrainTimedOut { active } => warn!(active, "drain timed out; stopping the tasks that still run"),
        Notice::Stopping { signal, active } => info!(signal, active, "stopping"),
        Notice::LeavingUnproven { task_id } => {
            error!(task_id, trace_id, "leaving although the server may not have received how this task ended");
        }
    }
}

/// A duration in one word, as a person wants to read it: `1.2s`, `2h5m10s`.
fn rounded(exact: Duration) -> String {
    if exact < Duration::from_secs(60) {
        return format!("{:.1}s", exact.as_secs_f64());
    }
    duration::show(Duration::from_secs(exact.as_secs())).replace(' ', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_one_word() {
        for (millis, word) in [(0, "0.0s"), (1234, "1.2s"), (59_900, "59.9s"), (7_510_400, "2h5m10s")] {
            assert_eq!(rounded(Duration::from_millis(millis)), word);
        }
    }
}
