//! The tasks that were handed to a remote runtime, as far as a cancellation must still find them.

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;

/// How many dispatched tasks are remembered so that a cancellation still finds them; the oldest is forgotten first.
/// A dispatched task's end is never reported to the worker, so something has to bound them.
const DISPATCHED_LIMIT: usize = 4096;

/// The tasks that a remote runtime has, oldest first.
#[derive(Debug, Default)]
pub(super) struct Dispatched {
    executions: BTreeMap<String, Option<String>>,
    order: VecDeque<String>,
}

impl Dispatched {
    /// One more; forgets the oldest when there are too many.
    pub(super) fn insert(&mut self, task_id: &str, execution_id: Option<String>) {
        if self.executions.insert(task_id.to_owned(), execution_id).is_none() {
            self.order.push_back(task_id.to_owned());
        }
        if self.order.len() > DISPATCHED_LIMIT
            && let Some(oldest) = self.order.pop_front()
        {
            self.executions.remove(&oldest);
        }
    }

    /// The execution of a task that was dispatched.
    pub(super) fn execution(&self, task_id: &str) -> Option<&Option<String>> {
        self.executions.get(task_id)
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    #[test]
    fn the_oldest_is_forgotten_when_there_are_too_many() {
        let mut dispatched = Dispatched::default();
        let name = |n: usize| format!("T{n}");
        for n in 0..DISPATCHED_LIMIT {
            dispatched.insert(&name(n), None);
        }
        // One that is dispatched again takes no further place.
        dispatched.insert(&name(1), Some("e2".into()));
        assert_eq!(dispatched.execution(&name(0)), Some(&None));
        dispatched.insert(&name(DISPATCHED_LIMIT), None);
        assert_eq!(dispatched.execution(&name(0)), None);
        assert_eq!(dispatched.execution(&name(1)), Some(&Some("e2".into())));
    }
}
