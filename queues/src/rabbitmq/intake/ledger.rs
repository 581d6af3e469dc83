//! Which deliveries of a channel can be acknowledged, and with how few words.

use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    Open,
    Settled,
    /// RabbitMQ has been told.
    Told,
}

/// The tags of one channel, which count from 1 without gaps.
#[derive(Debug, Default)]
pub(in crate::rabbitmq) struct Ledger {
    /// RabbitMQ has been told of every tag up to here.
    told_to: u64,
    /// Those above that have been seen.
    tags: BTreeMap<u64, Tag>,
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

impl Ledger {
    /// A delivery has come.
    pub(in crate::rabbitmq) fn seen(&mut self, tag: u64) {
        self.tags.entry(tag).or_insert(Tag::Open);
    }

    /// It is to be acknowledged.
    pub(in crate::rabbitmq) fn settle(&mut self, tag: u64) {
        if self.tags.get(&tag) == Some(&Tag::Open) {
            self.tags.insert(tag, Tag::Settled);
            self.settled += 1;
        }
    }

    /// It was given back. False if it was settled before.
    pub(in crate::rabbitmq) fn give_back(&mut self, tag: u64) -> bool {
        let open = self.tags.get(&tag) == Some(&Tag::Open);
        if open {
            self.tags.insert(tag, Tag::Told);
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
        while let Some(&tag) = self.tags.get(&(self.told_to + 1))
            && tag != Tag::Open
        {
            self.told_to += 1;
            self.tags.remove(&self.told_to);
            if tag == Tag::Settled {
                acks.up_to = Some(self.told_to);
            }
        }
        for (&number, tag) in &mut self.tags {
            if *tag == Tag::Settled {
                *tag = Tag::Told;
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
        let mut ledger = Ledger::default();
        (1..=6).for_each(|tag| ledger.seen(tag));
        [1, 2, 4, 6].into_iter().for_each(|tag| ledger.settle(tag));
        assert_eq!(ledger.take(), Acks { up_to: Some(2), single: vec![4, 6] });
        assert_eq!(ledger.take(), Acks::default());
        ledger.settle(3);
        assert_eq!(ledger.take(), Acks { up_to: Some(3), single: vec![] });
        assert!(ledger.give_back(5));
        ledger.seen(7);
        ledger.settle(7);
        assert_eq!(ledger.take(), Acks { up_to: Some(7), single: vec![] });
    }

    #[test]
    fn what_has_not_come_yet_is_never_acknowledged() {
        let mut ledger = Ledger::default();
        ledger.seen(2);
        ledger.settle(2);
        assert_eq!(ledger.take(), Acks { up_to: None, single: vec![2] });
    }

    proptest! {
        #[test]
        fn each_settled_tag_is_acknowledged_once_and_no_other(
            orders in prop::collection::vec((1u64..40, 0u8..4), 0..200),
        ) {
            let mut ledger = Ledger::default();
            let (mut seen, mut settled, mut told) = (
                std::collections::BTreeSet::new(),
                std::collections::BTreeSet::new(),
                std::collections::BTreeSet::new(),
            );
            for (tag, order) in orders {
                match order {
                    0 | 1 => {
                        if seen.insert(tag) {
                            ledger.seen(tag);
                        }
                    }
                    2 => {
                        ledger.settle(tag);
                        if seen.contains(&tag) && !told.contains(&tag) {
                            settled.insert(tag);
                        }
                    }
                    _ => {
                        if seen.contains(&tag) && !settled.contains(&tag) && !told.contains(&tag) {
                            prop_assert!(ledger.give_back(tag));
                            told.insert(tag);
                        }
                    }
                }
                let acks = ledger.take();
                let covered: Vec<u64> = (1..=acks.up_to.unwrap_or(0)).filter(|tag| !told.contains(tag)).collect();
                for tag in covered.into_iter().chain(acks.single) {
                    prop_assert!(settled.contains(&tag), "{} was not settled", tag);
                    prop_assert!(told.insert(tag), "{} twice", tag);
                }
                prop_assert!(settled.is_subset(&told));
            }
        }
    }
}
