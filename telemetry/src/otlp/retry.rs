//! Sends a request until it is answered for good: exponential backoff with jitter, within the time of one export.

use std::time::{Duration, Instant};

use crate::otlp::closing::Closing;
use crate::otlp::failure::ExportFailure;

/// The longest wait before the second attempt; it doubles with each further one.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait of all, but for what a collector asks for.
const LONGEST: Duration = Duration::from_secs(5);

/// Calls `attempt`, with the time that is left for it, until it succeeds, fails for good, or `timeout` would be over
/// before the next attempt; `once` tries it once. Ends early when the worker leaves meanwhile.
///
/// # Errors
/// Those of the last attempt that was not cut by the end of the time: this one says nothing of the collector.
pub(super) fn until_answered<T>(
    timeout: Duration,
    closing: &Closing,
    once: bool,
    mut attempt: impl FnMut(Duration) -> Result<T, ExportFailure>,
) -> Result<T, ExportFailure> {
    let leaving = closing.is_closing();
    let end = closing.earlier(Instant::now() + timeout);
    let mut backoff = FIRST;
    let mut before = None;
    loop {
        let failure = match attempt(end.saturating_duration_since(Instant::now())) {
            Ok(answer) => return Ok(answer),
            Err(ExportFailure::Timeout) => return Err(before.unwrap_or(ExportFailure::Timeout)),
            Err(failure) => failure,
        };
        let Some(asked) = failure.retry().filter(|_| !once) else { return Err(failure) };
        let wait = jittered(backoff).max(asked);
        if wait >= end.saturating_duration_since(Instant::now()) || !closing.wait(wait, leaving) {
            return Err(failure);
        }
        backoff = next(backoff);
        before = Some(failure);
    }
}

fn next(backoff: Duration) -> Duration {
    (backoff * 2).min(LONGEST)
}

/// Between half of `wait` and all of it, so that a fleet does not come back in lockstep.
fn jittered(wait: Duration) -> Duration {
    let half = wait / 2;
    half + half.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::otlp::failure::ConnectionFault;

    /// Longer than any attempt takes, shorter than half of [`FIRST`].
    const SHORT: Duration = Duration::from_millis(400);

    fn unreachable() -> ExportFailure {
        ConnectionFault::Broken.into()
    }

    #[test]
    fn a_wait_is_between_half_and_all_of_the_backoff() {
        let waits: Vec<Duration> = (0..100).map(|_| jittered(FIRST)).collect();
        assert!(waits.iter().all(|wait| (FIRST / 2..=FIRST).contains(wait)));
        assert!(waits.iter().any(|wait| *wait != jittered(FIRST)));
    }

    #[test]
    fn the_backoff_doubles_up_to_the_longest() {
        let waits: Vec<_> = std::iter::successors(Some(FIRST), |wait| Some(next(*wait))).take(5).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5].map(Duration::from_secs));
    }

    #[test]
    fn who_leaves_already_tries_again_within_what_is_left_and_once_is_once() {
        let closing = Closing::default();
        closing.begin(Instant::now() + Duration::from_secs(3));
        let attempts = |once| {
            let mut attempts = 0;
            let outcome = until_answered(Duration::from_secs(3600), &closing, once, |time| {
                assert!(time <= Duration::from_secs(3));
                attempts += 1;
                if attempts < 2 { Err(unreachable()) } else { Ok(()) }
            });
            (attempts, outcome.is_ok())
        };
        assert_eq!(attempts(true), (1, false));
        assert_eq!(attempts(false), (2, true));
    }

    #[test]
    fn what_fails_for_good_is_not_tried_again() {
        let mut attempts = 0;
        let outcome = until_answered(Duration::from_secs(3600), &Closing::default(), false, |_| {
            attempts += 1;
            Err::<(), _>(ExportFailure::Nonsense("nonsense"))
        });
        assert!(matches!(outcome, Err(ExportFailure::Nonsense(_))));
        assert_eq!(attempts, 1);
    }

    #[test]
    fn nothing_is_tried_that_would_begin_after_the_time_is_over() {
        let begin = Instant::now();
        let outcome = until_answered(SHORT, &Closing::default(), false, |_| Err::<(), _>(unreachable()));
        assert!(outcome.is_err() && begin.elapsed() < SHORT);
    }

    #[test]
    fn an_attempt_that_succeeds_later_is_a_success_and_has_less_time() {
        let mut times = Vec::new();
        let answer = until_answered(Duration::from_secs(60), &Closing::default(), false, |time| {
            times.push(time);
            if times.len() < 2 { Err(unreachable()) } else { Ok(42) }
        });
        assert_eq!(answer.unwrap(), 42);
        assert!(matches!(*times, [first, second] if second + FIRST / 2 <= first), "{times:?}");
    }

    #[test]
    fn an_attempt_that_is_cut_does_not_hide_why_the_one_before_failed() {
        let failed_like = |failures: Vec<ExportFailure>| {
            let mut failures = failures.into_iter();
            let attempt = |_| Err::<(), _>(failures.next().unwrap());
            until_answered(Duration::from_secs(60), &Closing::default(), false, attempt).unwrap_err()
        };
        let cause = failed_like(vec![unreachable(), ExportFailure::Timeout]);
        assert!(matches!(cause, ExportFailure::Connection(ConnectionFault::Broken)), "{cause}");
        assert!(matches!(failed_like(vec![ExportFailure::Timeout]), ExportFailure::Timeout));
    }

    #[test]
    fn who_leaves_ends_the_wait_for_another_attempt() {
        let closing = Closing::default();
        let far = Duration::from_secs(3600);
        let mut attempts = 0;
        let asked = |closing: &Closing| {
            // As another thread would, between the attempt and the wait at the earliest.
            let closing = closing.clone();
            std::thread::spawn(move || closing.begin(Instant::now() + far));
            ExportFailure::Http { status: ureq::http::StatusCode::SERVICE_UNAVAILABLE, retry_after: Some(far / 2) }
        };
        let begin = Instant::now();
        let outcome = until_answered(far, &closing, false, |_| {
            attempts += 1;
            Err::<(), _>(asked(&closing))
        });
        assert!(outcome.is_err() && begin.elapsed() < far / 2);
        assert_eq!(attempts, 1);
    }
}
