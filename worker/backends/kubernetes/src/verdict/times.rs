//! Times that stand still, and the next moment at which something is due.

use std::time::Duration;

use oz_worker_core::time::Instant;

/// Measures a time that stands still now and then.
#[derive(Debug, Default)]
pub struct Stopwatch {
    measured: Duration,
    since: Option<Instant>,
}

impl Stopwatch {
    /// Nothing measured yet.
    pub const NEW: Self = Self { measured: Duration::ZERO, since: None };

    pub fn run(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    pub fn pause(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.measured += now.since(since);
        }
    }

    /// When it will have measured `limit`, if it runs.
    pub fn reaches(&self, limit: Duration) -> Option<Instant> {
        self.since.map(|since| since.plus(limit.saturating_sub(self.measured)))
    }
}

/// The earliest of some moments.
pub struct Wake(Option<Instant>);

impl Wake {
    /// None so far.
    pub const NEVER: Self = Self(None);

    pub const fn at(&self) -> Option<Instant> {
        self.0
    }

    /// Whether `at` has come; otherwise it is waited for.
    pub fn is_due(&mut self, at: Instant, now: Instant) -> bool {
        if at <= now {
            return true;
        }
        self.0 = Some(self.0.map_or(at, |before| before.min(at)));
        false
    }
}
