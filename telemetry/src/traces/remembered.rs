//! The traces of tasks whose spans have ended.

use std::collections::{BTreeMap, VecDeque};

use opentelemetry::trace::SpanContext;

/// How many are remembered; the oldest is forgotten first. As many as the core remembers dispatched tasks, which a
/// cancellation can still reach.
const LIMIT: usize = 4096;
/// The longest task id that is remembered, in bytes; the real ones have 36.
const LONGEST_ID: usize = 256;

/// Traces by task, the newest of each.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    traces: BTreeMap<String, SpanContext>,
    /// Oldest first.
    order: VecDeque<String>,
}

impl Remembered {
    pub(super) fn insert(&mut self, task_id: &str, trace: &SpanContext) {
        if task_id.len() > LONGEST_ID {
            return;
        }
        if self.traces.insert(task_id.to_owned(), trace.clone()).is_none() {
            self.order.push_back(task_id.to_owned());
        }
        if self.order.len() > LIMIT
            && let Some(oldest) = self.order.pop_front()
        {
            self.traces.remove(&oldest);
        }
    }

    pub(super) fn get(&self, task_id: &str) -> Option<&SpanContext> {
        self.traces.get(task_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first_and_an_endless_id_at_once() {
        let mut remembered = Remembered::default();
        for id in 0..=LIMIT {
            remembered.insert(&id.to_string(), &SpanContext::NONE);
        }
        assert!(remembered.get("0").is_none() && remembered.get("1").is_some());
        assert_eq!((remembered.traces.len(), remembered.order.len()), (LIMIT, LIMIT));
        let endless = "x".repeat(LONGEST_ID + 1);
        remembered.insert(&endless, &SpanContext::NONE);
        assert!(remembered.get(&endless).is_none());
    }
}
