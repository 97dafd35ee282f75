//! The core's own moment in time: handed in with every input, never read from a clock.

use core::time::Duration;

/// A moment, as the time since an arbitrary fixed one. Whoever drives the core reads it from a clock that never goes
/// back and, if it can be had, goes on while the machine is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(Duration);

impl Instant {
    /// The moment `since` the fixed one.
    pub const fn new(since: Duration) -> Self {
        Self(since)
    }

    /// The time since the fixed moment.
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// The time from `earlier` to this moment; zero when `earlier` is the later one.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `after` this one; the last moment there is when that would overflow.
    #[must_use]
    pub const fn plus(self, after: Duration) -> Self {
        Self(self.0.saturating_add(after))
    }
}
