//! Sends a request until it is answered for good: exponential backoff with jitter, within the time of one export.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::otlp::closing::Closing;
use crate::otlp::failure::ExportFailure;

/// The longest wait before the second attempt; it doubles with each further one.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait of all, but for what a collector asks for.
const LONGEST: Duration = Duration::from_secs(5);

/// The longest pause that a collector is granted: whoever asks for a year has a clock that is wrong.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Until when a collector wants to be left alone (`Retry-After`, `RetryInfo`), over the end of the export that it told so.
#[derive(Debug, Default)]
pub(super) struct Pause(Mutex<Option<Instant>>);

impl Pause {
    fn ask(&self, time: Duration) {
        *self.lock() = Some(Instant::now() + time.min(LONGEST_PAUSE));
    }

    /// What is left of it.
    fn left(&self) -> Duration {
        self.lock().map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls `attempt`, with the time that is left for it, until it succeeds, fails for good, or `timeout` would be over
/// before the next attempt; `once` tries it once. Nothing is tried while the collector wants a `pause`. Ends early when the
/// worker leaves meanwhile.
///
/// # Errors
/// Those of the last attempt that was not cut by the end of the time: this one says nothing of the collector.
pub(super) fn until_answered<T>(
    timeout: Duration,
    closing: &Closing,
    once: bool,
    pause: &Pause,
    mut attempt: impl FnMut(Duration) -> Result<T, ExportFailure>,
) -> Result<T, ExportFailure> {
    let leaving = closing.is_closing();
    let end = closing.earlier(Instant::now() + timeout);
    let wait = |wait: Duration| wait < end.saturating_duration_since(Instant::now()) && closing.wait(wait, leaving);
    let left = pause.left();
    if !left.is_zero() && !wait(left) {
        return Err(ExportFailure::Paused);
    }
    let mut backoff = FIRST;
    let mut before = None;
    loop {
        let failure = match attempt(end.saturating_duration_since(Instant::now())) {
            Ok(answer) => return Ok(answer),
            Err(ExportFailure::Timeout) => return Err(before.unwrap_or(ExportFailure::Timeout)),
            Err(failure) => failure,
        };
        let Some(asked) = failure.retry() else { return Err(failure) };
        pause.ask(asked);
        if once || !wait(jittered(backoff).max(asked)) {
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

    use oz_worker_net::AnswerError;

    use super::*;

    /// Longer than any attempt takes, shorter than half of [`FIRST`].
    const SHORT: Duration = Duration::from_millis(400);

    fn unreachable() -> ExportFailure {
        AnswerError::Empty.into()
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
            let outcome = until_answered(Duration::from_secs(3600), &closing, once, &Pause::default(), |time| {
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
        let outcome = until_answered(Duration::from_secs(3600), &Closing::default(), false, &Pause::default(), |_| {
            attempts += 1;
            Err::<(), _>(ExportFailure::Nonsense("nonsense"))
        });
        assert!(matches!(outcome, Err(ExportFailure::Nonsense(_))));
        assert_eq!(attempts, 1);
    }

    #[test]
    fn nothing_is_tried_that_would_begin_after_the_time_is_over() {
        let begin = Instant::now();
        let outcome =
            until_answered(SHORT, &Closing::default(), false, &Pause::default(), |_| Err::<(), _>(unreachable()));
        assert!(outcome.is_err() && begin.elapsed() < SHORT);
    }

    #[test]
    fn an_attempt_that_succeeds_later_is_a_success_and_has_less_time() {
        let mut times = Vec::new();
        let answer = until_answered(Duration::from_secs(60), &Closing::default(), false, &Pause::default(), |time| {
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
            until_answered(Duration::from_secs(60), &Closing::default(), false, &Pause::default(), attempt).unwrap_err()
        };
        let cause = failed_like(vec![unreachable(), ExportFailure::Timeout]);
        assert!(matches!(cause, ExportFailure::Answer(_)), "{cause}");
        assert!(matches!(failed_like(vec![ExportFailure::Timeout]), ExportFailure::Timeout));
    }

    fn busy(retry_after: Duration) -> ExportFailure {
        ExportFailure::Http { status: http::StatusCode::TOO_MANY_REQUESTS, retry_after: Some(retry_after) }
    }

    #[test]
    fn a_pause_that_the_collector_asks_for_outlives_the_export() {
        let (pause, closing) = (Pause::default(), Closing::default());
        let mut attempts = 0;
        let mut export = |timeout, answer: fn() -> Result<(), ExportFailure>| {
            until_answered(timeout, &closing, false, &pause, |_| {
                attempts += 1;
                answer()
            })
        };
        // Longer than this export lasts, and than the next two.
        export(SHORT, || Err(busy(Duration::from_secs(1)))).unwrap_err();
        for _ in 0..2 {
            assert!(matches!(export(SHORT / 8, || Ok(())), Err(ExportFailure::Paused)));
        }
        // This one has the time to wait for its end.
        let begin = Instant::now();
        export(Duration::from_secs(60), || Ok(())).unwrap();
        assert!(begin.elapsed() > SHORT / 2, "{:?}", begin.elapsed());
        assert_eq!(attempts, 2);
        assert!(pause.left().is_zero());
    }

    #[test]
    fn no_pause_is_longer_than_an_hour() {
        let pause = Pause::default();
        pause.ask(Duration::MAX);
        assert!(pause.left() <= LONGEST_PAUSE && pause.left() > LONGEST_PAUSE / 2);
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
            busy(far / 2)
        };
        let begin = Instant::now();
        let outcome = until_answered(far, &closing, false, &Pause::default(), |_| {
            attempts += 1;
            Err::<(), _>(asked(&closing))
        });
        assert!(outcome.is_err() && begin.elapsed() < far / 2);
        assert_eq!(attempts, 1);
    }
}
