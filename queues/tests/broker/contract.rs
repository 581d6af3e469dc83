//! The contract of every broker: functions over a [`Harness`], one for each claim.

use std::sync::Arc;
use std::time::Duration;

use dissent_domain::event::EventType;
use dissent_domain::id::ExperimentId;
use dissent_queues::{
    Broker, BrokerError, Consumer, Delivery, PREFETCH_MAX, Proposal, ProposalReply, Subscription,
};
use tokio::time::Instant;

use crate::memory_log::new_event;

/// The event type that the contract's group subscribes to.
pub(crate) const WANTED: EventType = EventType::PromptAdmitted;
/// An event type that it does not subscribe to.
pub(crate) const OTHER: EventType = EventType::RoundOpened;

/// A broker and its environment.
pub(crate) trait Harness {
    /// Returns the current broker.
    fn broker(&self) -> Arc<dyn Broker>;
    /// Makes events of a type durable; returns their positions.
    fn publish(&self, kind: EventType, count: usize) -> Vec<u64> {
        self.publish_for(&contract(), kind, count)
    }
    /// Makes events of an experiment and a type durable; returns their positions.
    fn publish_for(&self, experiment: &ExperimentId, kind: EventType, count: usize) -> Vec<u64>;
    /// Waits until the broker has read everything published and settled everything.
    async fn quiesce(&self);
    /// Kills the broker without warning and starts another on the durable state.
    async fn crash(&mut self);
}

/// Returns the contract's experiment.
pub(crate) fn contract() -> ExperimentId {
    ExperimentId::new("contract").unwrap()
}

/// Returns the contract's subscription: limit 3, 1 s of delay.
pub(crate) fn subscription(prefetch: usize) -> Subscription {
    Subscription {
        group: "contract".to_owned(),
        experiment: Some(contract()),
        kinds: &[WANTED],
        prefetch,
        delivery_limit: 3,
        retry_delay: Duration::from_secs(1),
    }
}

fn consumer(harness: &impl Harness, prefetch: usize) -> Consumer {
    harness.broker().subscribe(subscription(prefetch)).unwrap()
}

fn positions(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.event.position).collect()
}

async fn take(consumer: &mut Consumer, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(consumer.next().await.unwrap());
    }
    taken
}

pub(crate) async fn unacknowledged_messages_are_redelivered_after_a_crash_which_does_not_count(
    mut harness: impl Harness,
) {
    let sent = harness.publish(WANTED, 5);
    let mut before = consumer(&harness, 10);
    let mut held = take(&mut before, 5).await;
    for _ in 0..2 {
        held.remove(0).ack().await.unwrap();
    }
    std::mem::forget(held);
    harness.crash().await;
    drop(before);
    let mut after = consumer(&harness, 10);
    let mut seen = Vec::new();
    while seen.last() != sent.last() {
        let delivery = after.next().await.unwrap();
        assert_eq!(delivery.attempt, 1, "event {}", delivery.event.position);
        seen.push(delivery.event.position);
        delivery.ack().await.unwrap();
    }
    assert!(sent[2..].iter().all(|position| seen.contains(position)), "{seen:?}");
}

pub(crate) async fn prefetch_1_keeps_the_log_order(harness: impl Harness) {
    let sent = harness.publish(WANTED, 40);
    let mut consumer = consumer(&harness, 1);
    for position in sent {
        let delivery = consumer.next().await.unwrap();
        assert_eq!((delivery.event.position, delivery.attempt), (position, 1));
        assert!(!delivery.redelivered);
        delivery.ack().await.unwrap();
    }
}

pub(crate) async fn an_acknowledged_message_is_not_redelivered(harness: impl Harness) {
    harness.publish(WANTED, 3);
    let mut first = consumer(&harness, 8);
    for delivery in take(&mut first, 3).await {
        delivery.ack().await.unwrap();
    }
    drop(first);
    let mut second = consumer(&harness, 8);
    harness.quiesce().await;
    assert!(second.try_next().is_none());
}

pub(crate) async fn a_retry_is_redelivered_later_as_the_next_attempt(harness: impl Harness) {
    let sent = harness.publish(WANTED, 1);
    let mut consumer = consumer(&harness, 4);
    let begun = Instant::now();
    consumer.next().await.unwrap().retry("first").await.unwrap();
    assert!(consumer.try_next().is_none(), "not before the delay");
    let second = consumer.next().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!((second.event.position, second.attempt, second.redelivered), (sent[0], 2, true));
    second.retry("second").await.unwrap();
    let third = consumer.next().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(3), "the delay doubles: {:?}", begun.elapsed());
    assert_eq!(third.attempt, 3);
    third.ack().await.unwrap();
}

pub(crate) async fn the_limit_parks_and_does_not_block(harness: impl Harness) {
    let sent = harness.publish(WANTED, 3);
    let mut parked = harness.broker().parked(&contract()).unwrap();
    let mut consumer = consumer(&harness, 1);
    let mut acked = Vec::new();
    let mut failures = 0;
    while failures < 3 || acked.len() < 2 {
        let delivery = consumer.next().await.unwrap();
        if delivery.event.position == sent[0] {
            failures += 1;
            assert_eq!(delivery.attempt, failures);
            delivery.retry("it is poison").await.unwrap();
        } else {
            acked.push(delivery.event.position);
            delivery.ack().await.unwrap();
        }
    }
    assert_eq!(acked, sent[1..]);
    let message = parked.next().await.unwrap();
    assert_eq!(message.parked.event.position, sent[0]);
    assert_eq!(message.parked.group, "contract");
    assert_eq!((message.parked.attempts, message.parked.reason.as_str()), (3, "it is poison"));
    drop(message);
    parked.next().await.expect("a dropped parked message is redelivered").ack().await.unwrap();
    harness.quiesce().await;
    assert!(parked.try_next().is_none() && consumer.try_next().is_none());
}

pub(crate) async fn a_parked_message_can_be_replayed(harness: impl Harness) {
    let sent = harness.publish(WANTED, 1);
    let mut parked = harness.broker().parked(&contract()).unwrap();
    let mut consumer = consumer(&harness, 1);
    for _ in 0..3 {
        consumer.next().await.unwrap().retry("not yet repaired").await.unwrap();
    }
    parked.next().await.unwrap().ack().await.unwrap();
    harness.broker().unpark("contract", sent[0]).await.unwrap();
    let again = consumer.next().await.unwrap();
    assert_eq!((again.event.position, again.attempt), (sent[0], 1));
    let refused = harness.broker().unpark("contract", sent[0]).await;
    assert!(matches!(refused, Err(BrokerError::NotReplayable { .. })), "unsettled: {refused:?}");
    again.ack().await.unwrap();
    for (group, position) in [("contract", 0), ("contract", 99), ("nobody", sent[0])] {
        let refused = harness.broker().unpark(group, position).await;
        assert!(matches!(refused, Err(BrokerError::NotReplayable { .. })), "{group} {position}: {refused:?}");
    }
}

pub(crate) async fn release_and_drop_do_not_count(harness: impl Harness) {
    harness.publish(WANTED, 1);
    let mut consumer = consumer(&harness, 1);
    for turn in 0..10 {
        let delivery = consumer.next().await.unwrap();
        assert_eq!((delivery.attempt, delivery.redelivered), (1, turn > 0));
        if turn % 2 == 0 {
            delivery.release();
        } else {
            drop(delivery);
        }
    }
    consumer.next().await.unwrap().ack().await.unwrap();
}

pub(crate) async fn competing_consumers_share(harness: impl Harness) {
    let sent = harness.publish(WANTED, 20);
    let (mut left, mut right) = (consumer(&harness, 5), consumer(&harness, 5));
    let mut seen = Vec::new();
    while seen.len() < sent.len() {
        let (a, b) = (take(&mut left, 5).await, take(&mut right, 5).await);
        for delivery in a.into_iter().chain(b) {
            seen.push(delivery.event.position);
            delivery.ack().await.unwrap();
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, sent, "each went to exactly one");
}

pub(crate) async fn a_leaving_consumer_passes_its_messages_to_the_others(harness: impl Harness) {
    let sent = harness.publish(WANTED, 4);
    let (mut left, mut right) = (consumer(&harness, 4), consumer(&harness, 4));
    let held = take(&mut left, 4).await;
    let waiting = tokio::spawn(async move { take(&mut right, 4).await });
    drop((held, left));
    // Released messages have no order.
    let mut rest = positions(&waiting.await.unwrap());
    rest.sort_unstable();
    assert_eq!(rest, sent);
}

pub(crate) async fn prefetch_bounds_unsettled_deliveries(harness: impl Harness) {
    let sent = harness.publish(WANTED, 10);
    let mut consumer = consumer(&harness, 3);
    let mut held = take(&mut consumer, 3).await;
    harness.quiesce().await;
    assert!(consumer.try_next().is_none(), "three are unsettled");
    held.pop().unwrap().ack().await.unwrap();
    assert_eq!(consumer.next().await.unwrap().event.position, sent[3]);
}

pub(crate) async fn other_event_types_are_not_delivered(harness: impl Harness) {
    harness.publish(OTHER, 3);
    let mut sent = harness.publish(WANTED, 1);
    harness.publish(OTHER, 300);
    sent.extend(harness.publish(WANTED, 1));
    let mut consumer = consumer(&harness, 8);
    let held = take(&mut consumer, 2).await;
    assert_eq!(positions(&held), sent);
    harness.quiesce().await;
    assert!(consumer.try_next().is_none());
}

pub(crate) async fn another_experiments_events_are_not_delivered(harness: impl Harness) {
    let sent = harness.publish(WANTED, 2);
    let filtered = |experiment: &str| Subscription {
        group: experiment.to_owned(),
        experiment: Some(ExperimentId::new(experiment).unwrap()),
        ..subscription(8)
    };
    let mut ours = harness.broker().subscribe(filtered("contract")).unwrap();
    let mut theirs = harness.broker().subscribe(filtered("theirs")).unwrap();
    assert_eq!(positions(&take(&mut ours, 2).await), sent);
    harness.quiesce().await;
    assert!(theirs.try_next().is_none());
}

pub(crate) async fn a_group_of_all_experiments_gets_the_events_of_each(harness: impl Harness) {
    let other = ExperimentId::new("other").unwrap();
    let mut sent = harness.publish(WANTED, 2);
    sent.extend(harness.publish_for(&other, WANTED, 2));
    let all = Subscription { group: "all".to_owned(), experiment: None, ..subscription(8) };
    let mut all = harness.broker().subscribe(all).unwrap();
    assert_eq!(positions(&take(&mut all, 4).await), sent);
}

fn subscription_of(experiment: &ExperimentId, group: &str) -> Subscription {
    let (group, experiment) = (format!("{group}.{experiment}"), Some(experiment.clone()));
    Subscription { group, experiment, ..subscription(4) }
}

pub(crate) async fn an_experiment_that_left_resumes_and_the_others_never_stop(harness: impl Harness) {
    let broker = harness.broker();
    let (one, other) = (contract(), ExperimentId::new("other").unwrap());
    let (sent, others) = (harness.publish(WANTED, 6), harness.publish_for(&other, WANTED, 3));
    broker.host(&one).unwrap();
    broker.host(&other).unwrap();
    let mut leaving = broker.subscribe(subscription_of(&one, "step")).unwrap();
    let mut staying = broker.subscribe(subscription_of(&other, "step")).unwrap();
    let mut parked = broker.parked(&one).unwrap();
    for delivery in take(&mut leaving, 3).await {
        delivery.ack().await.unwrap();
    }
    drop(take(&mut leaving, 1).await);
    drop(leaving);
    broker.leave(&one).await.unwrap();
    assert!(parked.next().await.is_none(), "its parked messages end");
    let more = harness.publish(WANTED, 2);
    assert_eq!(positions(&take(&mut staying, 3).await), others);
    broker.host(&one).unwrap();
    let mut again = broker.subscribe(subscription_of(&one, "step")).unwrap();
    let mut rest = Vec::new();
    while rest.len() < 5 {
        let delivery = again.next().await.unwrap();
        rest.push(delivery.event.position);
        delivery.ack().await.unwrap();
    }
    rest.sort_unstable();
    assert_eq!(rest, [&sent[3..], &more].concat(), "what was acknowledged stays done");
    harness.quiesce().await;
    assert!(again.try_next().is_none());
    broker.leave(&ExperimentId::new("unknown").unwrap()).await.unwrap();
}

pub(crate) async fn parked_messages_go_to_the_consumer_of_their_experiment(harness: impl Harness) {
    let broker = harness.broker();
    let (one, other) = (contract(), ExperimentId::new("other").unwrap());
    let (sent, others) = (harness.publish(WANTED, 1), harness.publish_for(&other, WANTED, 1));
    let (mut of_one, mut of_other) = (broker.parked(&one).unwrap(), broker.parked(&other).unwrap());
    for experiment in [&one, &other] {
        let once = Subscription { delivery_limit: 1, ..subscription_of(experiment, "step") };
        let mut consumer = broker.subscribe(once).unwrap();
        consumer.next().await.unwrap().retry("it fails").await.unwrap();
    }
    for (parked, position) in [(&mut of_one, sent[0]), (&mut of_other, others[0])] {
        let message = parked.next().await.unwrap();
        assert_eq!(message.parked.event.position, position);
        message.ack().await.unwrap();
    }
    harness.quiesce().await;
    assert!(of_one.try_next().is_none() && of_other.try_next().is_none());
}

pub(crate) async fn groups_are_independent(harness: impl Harness) {
    let sent = harness.publish(WANTED, 3);
    let mut one = consumer(&harness, 8);
    let other = Subscription { group: "other".to_owned(), ..subscription(8) };
    let mut other = harness.broker().subscribe(other).unwrap();
    assert_eq!(positions(&take(&mut one, 3).await), sent);
    assert_eq!(positions(&take(&mut other, 3).await), sent);
}

fn proposal(events: u64) -> Proposal {
    Proposal {
        experiment: contract(),
        cause: None,
        events: (0..events).map(|number| new_event(OTHER, number)).collect(),
    }
}

pub(crate) async fn a_proposer_gets_the_journals_reply(harness: impl Harness) {
    let broker = harness.broker();
    let mut journal = broker.proposals().unwrap();
    assert!(matches!(broker.proposals(), Err(BrokerError::ProposalsTaken)), "there is one journal");
    let asked = tokio::spawn(async move { broker.propose(proposal(2)).await });
    let taken = journal.next().await.unwrap();
    assert_eq!(taken.proposal, proposal(2));
    let no = ProposalReply::Rejected { reason: "the round is closed".to_owned() };
    taken.answer(no.clone()).await.unwrap();
    let answer = asked.await.unwrap().unwrap();
    assert!(answer == no || answer == ProposalReply::Queued, "{answer:?}");
    let empty = harness.broker().propose(proposal(0)).await;
    assert!(matches!(empty, Err(BrokerError::OutOfRange { .. })), "{empty:?}");
}

pub(crate) async fn close_ends_consumers_and_lets_deliveries_finish(harness: impl Harness) {
    harness.publish(WANTED, 3);
    let broker = harness.broker();
    let mut working = consumer(&harness, 1);
    let held = working.next().await.unwrap();
    let idle = Subscription { group: "idle".to_owned(), kinds: &[OTHER], ..subscription(1) };
    let mut idle = broker.subscribe(idle).unwrap();
    let mut parked = broker.parked(&contract()).unwrap();
    let idle = tokio::spawn(async move { (idle.next().await.is_none(), parked.next().await.is_none()) });
    harness.quiesce().await;
    broker.close();
    assert_eq!(idle.await.unwrap(), (true, true), "those that wait end");
    assert!(working.next().await.is_none() && working.failure().is_none());
    assert!(matches!(broker.subscribe(subscription(1)), Err(BrokerError::Closed)));
    let mut journal = broker.proposals().unwrap();
    let proposing = {
        let broker = Arc::clone(&broker);
        tokio::spawn(async move { broker.propose(proposal(1)).await })
    };
    journal.next().await.unwrap().answer(ProposalReply::Queued).await.unwrap();
    assert_eq!(proposing.await.unwrap(), Ok(ProposalReply::Queued), "workers can still propose");
    let drained = {
        let broker = Arc::clone(&broker);
        tokio::spawn(async move { broker.drained().await })
    };
    held.ack().await.unwrap();
    assert_eq!(drained.await.unwrap(), Ok(()));
}

pub(crate) async fn subscriptions_out_of_range_are_errors(harness: impl Harness) {
    let broker = harness.broker();
    let good = subscription(1);
    let _member = broker.subscribe(good.clone()).unwrap();
    for group in [String::new(), "No Spaces".to_owned(), "long".repeat(17)] {
        let refused = broker.subscribe(Subscription { group, ..good.clone() });
        assert!(matches!(refused, Err(BrokerError::InvalidName { .. })), "{refused:?}");
    }
    for subscription in [
        Subscription { kinds: &[], ..good.clone() },
        Subscription { prefetch: 0, ..good.clone() },
        Subscription { prefetch: PREFETCH_MAX + 1, ..good.clone() },
        Subscription { delivery_limit: 0, ..good.clone() },
    ] {
        let refused = broker.subscribe(subscription);
        assert!(matches!(refused, Err(BrokerError::OutOfRange { .. })), "{refused:?}");
    }
    let different =
        [Subscription { kinds: &[OTHER], ..good.clone() }, Subscription { delivery_limit: 9, ..good }];
    for subscription in different {
        let refused = broker.subscribe(subscription);
        assert!(matches!(refused, Err(BrokerError::DifferentSettings { .. })), "{refused:?}");
    }
}

/// Passes the names of all claims to another macro.
macro_rules! for_every_claim {
    ($then:ident) => {
        $then! {
            unacknowledged_messages_are_redelivered_after_a_crash_which_does_not_count
            prefetch_1_keeps_the_log_order
            an_acknowledged_message_is_not_redelivered
            a_retry_is_redelivered_later_as_the_next_attempt
            the_limit_parks_and_does_not_block
            a_parked_message_can_be_replayed
            release_and_drop_do_not_count
            competing_consumers_share
            a_leaving_consumer_passes_its_messages_to_the_others
            prefetch_bounds_unsettled_deliveries
            other_event_types_are_not_delivered
            another_experiments_events_are_not_delivered
            a_group_of_all_experiments_gets_the_events_of_each
            an_experiment_that_left_resumes_and_the_others_never_stop
            parked_messages_go_to_the_consumer_of_their_experiment
            groups_are_independent
            a_proposer_gets_the_journals_reply
            close_ends_consumers_and_lets_deliveries_finish
            subscriptions_out_of_range_are_errors
        }
    };
}
pub(crate) use for_every_claim;
