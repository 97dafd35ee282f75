//! A map that stays small: of too many entries the oldest is forgotten.

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;

/// The last values by name, at most so many.
#[derive(Debug, Clone)]
pub struct Recent<V> {
    limit: usize,
    values: BTreeMap<String, V>,
    /// Every name once, oldest first.
    order: VecDeque<String>,
}

impl<V> Recent<V> {
    /// An empty map that remembers `limit` entries.
    pub const fn new(limit: usize) -> Self {
        Self { limit, values: BTreeMap::new(), order: VecDeque::new() }
    }

    /// Remembers a value. One whose name is known already takes the other's place, and is no younger than that.
    pub fn insert(&mut self, name: &str, value: V) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push_back(name.to_owned());
        }
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.values.remove(&oldest);
        }
    }

    /// The value of this name, while it is remembered.
    pub fn get(&self, name: &str) -> Option<&V> {
        self.values.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_when_there_are_too_many() {
        let mut recent = Recent::new(3);
        for (name, value) in [("a", 0), ("b", 1), ("c", 2), ("b", 3)] {
            recent.insert(name, value);
        }
        // One that is known already takes no further place.
        assert_eq!(recent.get("a"), Some(&0));
        recent.insert("d", 4);
        assert_eq!(["a", "b", "c", "d"].map(|name| recent.get(name).copied()), [None, Some(3), Some(2), Some(4)]);
        assert_eq!((recent.values.len(), recent.order.len()), (3, 3));
    }
}
