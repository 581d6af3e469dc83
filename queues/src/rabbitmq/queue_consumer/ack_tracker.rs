//! Which deliveries of a channel can be acknowledged, and with how few words.

use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TagState {
    Open,
    Settled,
    /// RabbitMQ has been reported.
    Reported,
}

/// The tags of one channel, which count from 1 without gaps.
#[derive(Debug, Default)]
pub(in crate::rabbitmq) struct AckTracker {
    /// RabbitMQ has been reported of every tag up to here.
    reported_to: u64,
    /// Those above that have been seen.
    tags: BTreeMap<u64, TagState>,
    settled: usize,
}

/// Acknowledgements to send.
#[derive(Debug, PartialEq, Eq, Default)]
pub(in crate::rabbitmq) struct Acks {
    /// Everything up to this tag.
    pub up_to: Option<u64>,
    /// And these.
    pub single: Vec<u64>,
}

impl AckTracker {
    /// A delivery has come.
    pub(in crate::rabbitmq) fn seen(&mut self, tag: u64) {
        self.tags.entry(tag).or_insert(TagState::Open);
    }

    /// It is to be acknowledged.
    pub(in crate::rabbitmq) fn settle(&mut self, tag: u64) {
        if self.tags.get(&tag) == Some(&TagState::Open) {
            self.tags.insert(tag, TagState::Settled);
            self.settled += 1;
        }
    }

    /// It was given back. False if it was settled before.
    pub(in crate::rabbitmq) fn give_back(&mut self, tag: u64) -> bool {
        let open = self.tags.get(&tag) == Some(&TagState::Open);
        if open {
            self.tags.insert(tag, TagState::Reported);
        }
        open
    }

    /// How many are to be acknowledged.
    pub(in crate::rabbitmq) fn settled(&self) -> usize {
        self.settled
    }

    /// All that can be acknowledged. "Up to" includes no tag that is open, or that has not come yet.
    pub(in crate::rabbitmq) fn take(&mut self) -> Acks {
        let mut acks = Acks::default();
        while let Some(&tag) = self.tags.get(&(self.reported_to + 1))
            && tag != TagState::Open
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
    fn the_lowest_are_acknowledged_together_and_the_others_one_by_one() {
        let mut tracker = AckTracker::default();
        (1..=6).for_each(|tag| tracker.seen(tag));
        [1, 2, 4, 6].into_iter().for_each(|tag| tracker.settle(tag));
        assert_eq!(tracker.take(), Acks { up_to: Some(2), single: vec![4, 6] });
        assert_eq!(tracker.take(), Acks::default());
        tracker.settle(3);
        assert_eq!(tracker.take(), Acks { up_to: Some(3), single: vec![] });
        assert!(tracker.give_back(5));
        tracker.seen(7);
        tracker.settle(7);
        assert_eq!(tracker.take(), Acks { up_to: Some(7), single: vec![] });
    }

    #[test]
    fn what_has_not_come_yet_is_never_acknowledged() {
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
                            prop_assert!(tracker.give_back(tag));
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
