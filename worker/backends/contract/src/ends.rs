//! Ends that the server is not known to have heard: what is kept of their tasks till then, so that a later worker can tell.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::warn;

/// An execution of a task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(String, Option<String>);

impl Key {
    pub fn new(task_id: &str, execution_id: Option<&str>) -> Self {
        Self(task_id.to_owned(), execution_id.map(str::to_owned))
    }
}

/// What is kept of ends, each until it is heard. Of a server that never proves that it has heard one, not more than so many.
pub struct Ends<T> {
    most: usize,
    state: Mutex<State<T>>,
}

struct State<T> {
    stages: BTreeMap<Key, Stage<T>>,
    /// How many ends were kept so far.
    kept: u64,
    /// Whether somebody was warned that there are too many.
    is_warned: bool,
}

enum Stage<T> {
    /// It goes on.
    Open,
    /// It goes on, and an end of it was heard already: a worker that leaves waits for no task for ever.
    Heard,
    /// It has ended, as the one of this number.
    Ended(u64, T),
}

/// An execution that goes on, until this is dropped.
pub struct Open<'a, T> {
    ends: &'a Ends<T>,
    key: Key,
}

impl<T> Ends<T> {
    /// Keeps at most so many.
    pub const fn new(most: usize) -> Self {
        let state = State { stages: BTreeMap::new(), kept: 0, is_warned: false };
        Self { most, state: Mutex::new(state) }
    }

    /// An execution begins, or is taken up.
    pub fn open(&self, key: Key) -> Open<'_, T> {
        self.state().stages.entry(key.clone()).or_insert(Stage::Open);
        Open { ends: self, key }
    }

    /// The end of an execution is heard, or not told any more: gives what was kept of it.
    pub fn heard(&self, key: &Key) -> Option<T> {
        let mut state = self.state();
        match state.stages.get_mut(key)? {
            Stage::Ended(..) => {}
            going_on => {
                *going_on = Stage::Heard;
                return None;
            }
        }
        state.stages.remove(key).and_then(Stage::kept)
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Open<'_, T> {
    /// It has ended, and is about to be told: keeps this until that is heard. Gives what is not to be kept any longer.
    pub fn end(&self, kept: T) -> Option<T> {
        let mut state = self.ends.state();
        if matches!(state.stages.get(&self.key), Some(Stage::Heard)) {
            return Some(kept);
        }
        state.kept += 1;
        let number = state.kept;
        let before = state.stages.insert(self.key.clone(), Stage::Ended(number, kept)).and_then(Stage::kept);
        before.or_else(|| state.too_many(self.ends.most))
    }
}

impl<T> Drop for Open<'_, T> {
    fn drop(&mut self) {
        let mut state = self.ends.state();
        if !matches!(state.stages.get(&self.key), Some(Stage::Ended(..))) {
            state.stages.remove(&self.key);
        }
    }
}

impl<T> State<T> {
    /// What was kept first, when there is more than there is to be.
    fn too_many(&mut self, most: usize) -> Option<T> {
        let ended = |(key, stage)| match stage {
            &Stage::Ended(number, _) => Some((number, key)),
            Stage::Open | Stage::Heard => None,
        };
        if self.stages.iter().filter_map(ended).count() <= most {
            return None;
        }
        let (_, first) = self.stages.iter().filter_map(ended).min()?;
        let first = Key::clone(first);
        if !std::mem::replace(&mut self.is_warned, true) {
            warn!(
                "the server has not confirmed how {most} tasks ended: of more, nothing stays for a later worker to tell"
            );
        }
        self.stages.remove(&first).and_then(Stage::kept)
    }
}

impl<T> Stage<T> {
    fn kept(self) -> Option<T> {
        match self {
            Self::Open | Self::Heard => None,
            Self::Ended(_, kept) => Some(kept),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(task_id: &str) -> Key {
        Key::new(task_id, Some("e"))
    }

    #[test]
    fn what_has_ended_is_kept_until_that_is_heard() {
        let ends = Ends::new(10);
        assert_eq!(ends.open(key("a")).end(1), None);
        assert_eq!(ends.heard(&key("b")), None);
        assert_eq!(ends.heard(&key("a")), Some(1));
        assert_eq!(ends.heard(&key("a")), None);
    }

    #[test]
    fn an_end_that_is_heard_before_the_backend_knows_of_one_keeps_nothing() {
        let ends = Ends::new(10);
        let open = ends.open(key("a"));
        assert_eq!(ends.heard(&key("a")), None);
        assert_eq!(open.end(1), Some(1));
        drop(open);
        // Of the next one of that name nothing was heard.
        assert_eq!(ends.open(key("a")).end(2), None);
    }

    #[test]
    fn of_too_many_the_first_goes() {
        let ends = Ends::new(2);
        for (task_id, number) in [("c", 1), ("b", 2)] {
            assert_eq!(ends.open(key(task_id)).end(number), None);
        }
        let goes_on = ends.open(key("d"));
        assert_eq!(ends.open(key("a")).end(3), Some(1));
        assert_eq!(ends.heard(&key("b")), Some(2));
        assert_eq!(goes_on.end(4), None);
        assert_eq!(ends.heard(&key("a")), Some(3));
    }

    #[test]
    fn what_has_no_end_leaves_nothing() {
        let ends = Ends::<u8>::new(1);
        drop(ends.open(key("a")));
        ends.heard(&key("a"));
        assert!(ends.state().stages.is_empty());
    }
}
