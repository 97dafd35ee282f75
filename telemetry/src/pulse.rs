//! A promise to move on, and how late it is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How late something may be before it counts as stuck. No input takes the run loop more than milliseconds; a machine that is
/// short of processors may take its share. The end of the worker, when it takes no input, lasts 11 s at most.
const GRACE: Duration = Duration::from_secs(15);

/// Something that says again and again that it lives.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// As a line for people has it: `the run loop`.
    name: &'static str,
    began: Instant,
    /// Until when it has said that it will say so again, in milliseconds from `began`.
    due: AtomicU64,
}

/// Something that should have moved on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overdue {
    pub(crate) name: &'static str,
    pub(crate) late: Duration,
}

impl Pulse {
    /// Of something that has just moved.
    pub(crate) fn new(name: &'static str, now: Instant) -> Self {
        let pulse = Self { name, began: now, due: AtomicU64::new(0) };
        pulse.beat(now, Duration::ZERO);
        pulse
    }

    /// It lives, and will say so again within `wait`. One atomic write.
    pub(crate) fn beat(&self, now: Instant, wait: Duration) {
        let due = self.age(now).saturating_add(wait).saturating_add(GRACE);
        self.due.store(u64::try_from(due.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// `None` while it is not late.
    pub(crate) fn stuck(&self, now: Instant) -> Option<Overdue> {
        let late = self.age(now).saturating_sub(Duration::from_millis(self.due.load(Ordering::Relaxed)));
        (!late.is_zero()).then_some(Overdue { name: self.name, late })
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }
}

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is stuck: it should have moved {} s ago", self.name, self.late.as_secs())
    }
}

/// What a task of an executor tells `/livez` and `/readyz` with. Dropping it ends the promise: whoever is gone is not late.
#[derive(Debug, Default)]
pub struct Heartbeat(pub(crate) Option<Arc<Pulse>>);

impl Heartbeat {
    /// The task lives, and will say so again within `wait`. One atomic write.
    pub fn alive(&self, wait: Duration) {
        if let Some(pulse) = &self.0 {
            pulse.beat(Instant::now(), wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_late_only_past_what_was_promised_and_grace() {
        let now = Instant::now();
        let pulse = Pulse::new("the run loop", now);
        let after = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(pulse.stuck(after(15)), None);
        assert_eq!(pulse.stuck(after(18)), Some(Overdue { name: "the run loop", late: Duration::from_secs(3) }));
        pulse.beat(after(20), Duration::from_secs(30));
        assert_eq!(pulse.stuck(after(65)), None);
        let words = pulse.stuck(after(67)).map(|stuck| stuck.to_string());
        assert_eq!(words.as_deref(), Some("the run loop is stuck: it should have moved 2 s ago"));
        let heartbeat = Heartbeat(now.checked_sub(GRACE * 2).map(|then| Arc::new(Pulse::new("executor", then))));
        let is_stuck = || heartbeat.0.as_ref().map(|pulse| pulse.stuck(now).is_some());
        assert_ne!(is_stuck(), Some(false));
        heartbeat.alive(Duration::ZERO);
        assert_ne!(is_stuck(), Some(true));
        pulse.beat(after(67), Duration::MAX);
        assert_eq!(pulse.stuck(after(1 << 30)), None);
    }
}
