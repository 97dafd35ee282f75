//! How long the oldest task that holds a slot has been held: what a stuck task is known by, whatever it is stuck in.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oz_worker_core::Notice;

/// The tasks that hold a slot, and since when. Written by the run loop, read by whoever exports.
#[derive(Debug, Default)]
pub(crate) struct Oldest(Mutex<BTreeMap<Box<str>, Instant>>);

impl Oldest {
    /// Takes down what a notice says of slots.
    pub(crate) fn note(&self, now: Instant, notice: &Notice) {
        match notice {
            Notice::Claimed { task_id, .. } => drop(self.tasks().insert(task_id.as_str().into(), now)),
            Notice::Resumed { task_id, age, .. } => {
                let since = now.checked_sub(*age).unwrap_or(now);
                self.tasks().insert(task_id.as_str().into(), since);
            }
            Notice::Ended { task_id, .. } => drop(self.tasks().remove(task_id.as_str())),
            _ => {}
        }
    }

    /// How long ago the task was claimed that was claimed first; zero when none holds a slot.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        self.tasks().values().min().map_or(Duration::ZERO, |since| now.saturating_duration_since(*since))
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use oz_worker_core::metrics::TaskResult;

    use super::*;

    fn claimed(task_id: &str) -> Notice {
        Notice::Claimed { task_id: task_id.into(), execution_id: None, title: String::new(), active: 1 }
    }

    fn ended(task_id: &str) -> Notice {
        let (result, duration) = (TaskResult::Succeeded, Duration::ZERO);
        Notice::Ended { task_id: task_id.into(), result, duration, failure: None, active: 0 }
    }

    #[test]
    fn the_oldest_is_what_was_claimed_first_of_what_still_holds_a_slot() {
        let (oldest, start) = (Oldest::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(oldest.age(start), Duration::ZERO);
        oldest.note(start, &claimed("b"));
        oldest.note(at(10), &claimed("a"));
        assert_eq!(oldest.age(at(15)), Duration::from_secs(15));
        oldest.note(at(20), &ended("b"));
        assert_eq!(oldest.age(at(25)), Duration::from_secs(15));
        let (task_id, age) = ("c".to_owned(), Duration::from_secs(3));
        oldest.note(at(25), &Notice::Resumed { task_id, execution_id: None, age, active: 2 });
        oldest.note(at(25), &ended("a"));
        assert_eq!(oldest.age(at(30)), Duration::from_secs(8));
        oldest.note(at(30), &ended("c"));
        assert_eq!(oldest.age(at(99)), Duration::ZERO);
    }
}
