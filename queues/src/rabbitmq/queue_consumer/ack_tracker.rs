//! The acknowledgements of a channel: which deliveries can be acknowledged, in as few frames as possible.

use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TagState {
    Unsettled,
    Settled,
    /// Acknowledged or requeued at RabbitMQ.
    Reported,
}

/// The delivery tags of one channel. They count from 1 without gaps.
#[derive(Debug, Default)]
pub(in crate::rabbitmq) struct AckTracker {
    /// Every tag up to here is reported to RabbitMQ.
    reported_to: u64,
    /// The tags above `reported_to` that were delivered.
    tags: BTreeMap<u64, TagState>,
    settled: usize,
}

/// Acknowledgements to send.
#[derive(Debug, PartialEq, Eq, Default)]
pub(in crate::rabbitmq) struct Acks {
    /// All tags up to this one.
    pub up_to: Option<u64>,
    /// Further tags.
    pub single: Vec<u64>,
}

impl AckTracker {
    /// Notes a delivery.
    pub(in crate::rabbitmq) fn seen(&mut self, tag: u64) {
        self.tags.entry(tag).or_insert(TagState::Unsettled);
    }

    /// Marks a delivery to be acknowledged.
    pub(in crate::rabbitmq) fn settle(&mut self, tag: u64) {
        if self.tags.get(&tag) == Some(&TagState::Unsettled) {
            self.tags.insert(tag, TagState::Settled);
            self.settled += 1;
        }
    }

    /// Marks a delivery as requeued. Returns false if it was settled before.
    pub(in crate::rabbitmq) fn requeue(&mut self, tag: u64) -> bool {
        let open = self.tags.get(&tag) == Some(&TagState::Unsettled);
        if open {
            self.tags.insert(tag, TagState::Reported);
        }
        open
    }

    /// Returns the number of deliveries to be acknowledged.
    pub(in crate::rabbitmq) fn settled(&self) -> usize {
        self.settled
    }

    /// Takes all acknowledgements that can be sent. `up_to` covers no tag that is unsettled or not yet
    /// delivered.
    pub(in crate::rabbitmq) fn take(&mut self) -> Acks {
        let mut acks = Acks::default();
        while let Some(&tag) = self.tags.get(&(self.reported_to + 1))
            && tag != TagState::Unsettled
        {
            self.reported_to += 1;
            self.tags.remove(&self.reported_to);
            if tag == TagState::Settled {
                acks.up_to = Some(self.reported_to);
            }
        }
        for (&number, tag) in &mut self.tags {
            if *tag == TagState::Settled {
                *tag = TagState::Reported;
                acks.single.push(number);
            }
        }
        self.settled = 0;
        acks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_lowest_tags_are_acknowledged_together_and_others_one_by_one() {
        let mut tracker = AckTracker::default();
        (1..=6).for_each(|tag| tracker.seen(tag));
        [1, 2, 4, 6].into_iter().for_each(|tag| tracker.settle(tag));
        assert_eq!(tracker.take(), Acks { up_to: Some(2), single: vec![4, 6] });
        assert_eq!(tracker.take(), Acks::default());
        tracker.settle(3);
        assert_eq!(tracker.take(), Acks { up_to: Some(3), single: vec![] });
        assert!(tracker.requeue(5));
        tracker.seen(7);
        tracker.settle(7);
        assert_eq!(tracker.take(), Acks { up_to: Some(7), single: vec![] });
    }

    #[test]
    fn undelivered_tags_are_never_acknowledged() {
        let mut tracker = AckTracker::default();
        tracker.seen(2);
        tracker.settle(2);
        assert_eq!(tracker.take(), Acks { up_to: None, single: vec![2] });
    }

    proptest! {
        #[test]
        fn each_settled_tag_is_acknowledged_once_and_no_other(
            actions in prop::collection::vec((1u64..40, 0u8..4), 0..200),
        ) {
            let mut tracker = AckTracker::default();
            let (mut seen, mut settled, mut reported) = (
                std::collections::BTreeSet::new(),
                std::collections::BTreeSet::new(),
                std::collections::BTreeSet::new(),
            );
            for (tag, action) in actions {
                match action {
                    0 | 1 => {
                        if seen.insert(tag) {
                            tracker.seen(tag);
                        }
                    }
                    2 => {
                        tracker.settle(tag);
                        if seen.contains(&tag) && !reported.contains(&tag) {
                            settled.insert(tag);
                        }
                    }
                    _ => {
                        if seen.contains(&tag) && !settled.contains(&tag) && !reported.contains(&tag) {
                            prop_assert!(tracker.requeue(tag));
                            reported.insert(tag);
                        }
                    }
                }
                let acks = tracker.take();
                let covered: Vec<u64> = (1..=acks.up_to.unwrap_or(0)).filter(|tag| !reported.contains(tag)).collect();
                for tag in covered.into_iter().chain(acks.single) {
                    prop_assert!(settled.contains(&tag), "{} was not settled", tag);
                    prop_assert!(reported.insert(tag), "{} twice", tag);
                }
                prop_assert!(settled.is_subset(&reported));
            }
        }
    }
}
