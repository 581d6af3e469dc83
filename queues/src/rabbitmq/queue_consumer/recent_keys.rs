//! Keys of recently settled messages, so that their duplicates are dropped.

use std::collections::{HashSet, VecDeque};

/// A bounded set of the newest keys.
#[derive(Debug)]
pub(super) struct RecentKeys {
    most: usize,
    keys: HashSet<String>,
    order: VecDeque<String>,
}

impl RecentKeys {
    pub(super) fn new(most: usize) -> Self {
        Self { most, keys: HashSet::new(), order: VecDeque::new() }
    }

    pub(super) fn insert(&mut self, key: String) {
        if !self.keys.insert(key.clone()) {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.keys.contains(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_key_is_dropped_first() {
        let mut recent = RecentKeys::new(2);
        for key in ["a", "b", "a", "c"] {
            recent.insert(key.to_owned());
        }
        assert!(!recent.contains("a") && recent.contains("b") && recent.contains("c"));
    }
}
