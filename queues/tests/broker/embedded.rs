//! The contract on the embedded broker, and the further guarantees of the embedded broker.

use std::sync::Arc;
use std::time::Duration;

use dissent_domain::error::chain;
use dissent_domain::event::EventType;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{EventLog, LogError};
use dissent_queues::{
    Broker, BrokerError, Consumer, EmbeddedBroker, EmbeddedOptions, Proposal, ProposalReply, Subscription,
};

use crate::contract::{Harness, OTHER, WANTED, contract, for_every_claim, subscription};
use crate::memory_log::{Durability, MemoryLog, new_event};

/// The embedded broker over a log in memory.
pub(crate) struct Embedded {
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) broker: EmbeddedBroker,
}

pub(crate) fn options() -> EmbeddedOptions {
    // Store every change at once: the log decides whether a crash loses it.
    EmbeddedOptions { record_interval: Duration::ZERO, ..EmbeddedOptions::default() }
}

impl Embedded {
    pub(crate) fn new(durability: Durability) -> Self {
        let log = MemoryLog::new(durability);
        let broker = EmbeddedBroker::new(Arc::clone(&log) as Arc<dyn EventLog>, options());
        Self { log, broker }
    }

    pub(crate) fn restart(&mut self) {
        self.log = self.log.crash();
        self.broker = EmbeddedBroker::new(Arc::clone(&self.log) as Arc<dyn EventLog>, options());
    }

    /// Waits until every group has read the whole log or is full.
    pub(crate) async fn all_read(&self) {
        let room = options().page_events / 2;
        let behind = |head| {
            let groups = self.broker.status();
            groups.iter().any(|group| group.read_to < head && group.waiting < room)
        };
        while behind(self.log.head()) {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn consumer(&self, prefetch: usize, delivery_limit: u32) -> Consumer {
        self.broker.subscribe(Subscription { delivery_limit, ..subscription(prefetch) }).unwrap()
    }

    fn checkpoint(&self) -> u64 {
        self.broker.status()[0].checkpoint
    }
}

impl Harness for Embedded {
    fn broker(&self) -> Arc<dyn Broker> {
        Arc::new(self.broker.clone())
    }

    fn publish_for(&self, experiment: &ExperimentId, kind: EventType, count: usize) -> Vec<u64> {
        self.log.put_for(experiment, kind, count)
    }

    async fn quiesce(&self) {
        self.all_read().await;
    }

    async fn crash(&mut self) {
        self.restart();
    }
}

macro_rules! contract_tests {
    ($($claim:ident)*) => {
        $(#[tokio::test(start_paused = true)]
        async fn $claim() {
            crate::contract::$claim(Embedded::new(Durability::Immediate)).await;
        })*
    };
}
for_every_claim!(contract_tests);

#[tokio::test]
async fn only_durable_events_are_delivered() {
    let world = Embedded::new(Durability::Manual);
    world.log.put(WANTED, 1);
    world.log.commit();
    let mut consumer = world.consumer(8, 3);
    consumer.next().await.unwrap().ack().await.unwrap();
    let sent = world.log.put(WANTED, 1);
    for _ in 0..1000 {
        assert!(consumer.try_next().is_none());
        tokio::task::yield_now().await;
    }
    world.log.commit();
    assert_eq!(consumer.next().await.unwrap().event.position, sent[0]);
}

#[tokio::test]
async fn a_clean_restart_resumes_where_it_stopped() {
    let mut world = Embedded::new(Durability::Manual);
    world.log.put(WANTED, 4);
    world.log.commit();
    let mut consumer = world.consumer(8, 3);
    let first = consumer.next().await.unwrap();
    consumer.next().await.unwrap().ack().await.unwrap();
    consumer.next().await.unwrap().retry("later").await.unwrap();
    first.ack().await.unwrap();
    world.broker.close();
    world.broker.drained().await.unwrap();
    world.restart();
    let mut consumer = world.consumer(8, 3);
    let third = consumer.next().await.unwrap();
    assert_eq!((third.event.position, third.attempt, third.redelivered), (3, 2, true));
    let fourth = consumer.next().await.unwrap();
    assert_eq!((fourth.event.position, fourth.attempt, fourth.redelivered), (4, 1, false));
    assert_eq!(world.log.flushes(), 0, "a start waits for no disk");
}

#[tokio::test]
async fn dropping_the_last_handle_stores_acknowledgements() {
    let mut world = Embedded::new(Durability::Manual);
    world.log.put(WANTED, 2);
    world.log.commit();
    let mut consumer = world.consumer(8, 3);
    let (one, two) = (consumer.next().await.unwrap(), consumer.next().await.unwrap());
    one.ack().await.unwrap();
    let log: Arc<dyn EventLog> = Arc::clone(&world.log) as Arc<dyn EventLog>;
    world.broker = EmbeddedBroker::new(MemoryLog::new(Durability::Immediate), options());
    assert_eq!(two.ack().await, Err(BrokerError::Closed), "too late");
    assert!(consumer.next().await.is_none());
    world.broker = EmbeddedBroker::new(log, options());
    let mut consumer = world.consumer(8, 3);
    let again = consumer.next().await.unwrap();
    assert_eq!((again.event.position, again.attempt, again.redelivered), (2, 1, true));
}

#[tokio::test]
async fn deliveries_that_outlive_the_broker_do_not_keep_the_log_open() {
    let Embedded { log, broker } = Embedded::new(Durability::Immediate);
    log.put(WANTED, 1);
    let mut consumer = broker.subscribe(subscription(1)).unwrap();
    let held = consumer.next().await.unwrap();
    drop(broker);
    assert_eq!(Arc::strong_count(&log), 1);
    drop((held, consumer));
}

#[tokio::test]
async fn a_hundred_kills_with_unsettled_deliveries_park_nothing() {
    let mut world = Embedded::new(Durability::Manual);
    let sent = world.log.put(WANTED, 6);
    world.log.commit();
    for _ in 0..100 {
        let mut consumer = world.consumer(6, 1);
        let mut parked = world.broker.parked(&contract()).unwrap();
        let mut held = Vec::new();
        while held.len() < sent.len() {
            let delivery = consumer.next().await.unwrap();
            assert_eq!(delivery.attempt, 1, "event {}", delivery.event.position);
            held.push(delivery);
        }
        assert!(parked.try_next().is_none());
        // The part of the record that is written by now survives.
        world.log.commit();
        world.restart();
    }
    let mut consumer = world.consumer(6, 1);
    let mut parked = world.broker.parked(&contract()).unwrap();
    while world.checkpoint() < 6 {
        consumer.next().await.unwrap().ack().await.unwrap();
    }
    assert!(parked.try_next().is_none());
}

#[tokio::test]
async fn parked_messages_survive_a_restart_with_their_reason() {
    let mut world = Embedded::new(Durability::Manual);
    world.log.put(WANTED, 1);
    world.log.commit();
    let mut consumer = world.consumer(1, 1);
    consumer.next().await.unwrap().retry(&"long ".repeat(100)).await.unwrap();
    world.broker.close();
    world.broker.drained().await.unwrap();
    world.restart();
    let mut parked = world.broker.parked(&contract()).unwrap();
    let mut consumer = world.consumer(1, 1);
    let message = parked.next().await.unwrap();
    assert!(message.parked.reason.starts_with("long long") && message.parked.reason.len() <= 96);
    message.ack().await.unwrap();
    assert!(consumer.try_next().is_none());
}

#[tokio::test(start_paused = true)]
async fn unacknowledged_parked_messages_block_and_lose_nothing() {
    let world = Embedded::new(Durability::Immediate);
    let sent = world.log.put(WANTED, 400);
    let mut consumer = world.consumer(64, 1);
    let mut failed = 0;
    // A record holds at most 32 parked and 256 unfinished messages.
    while failed < 32 + 256 {
        consumer.next().await.unwrap().retry("no").await.unwrap();
        failed += 1;
    }
    assert!(consumer.try_next().is_none());
    let mut parked = world.broker.parked(&contract()).unwrap();
    let mut given_up = Vec::new();
    while given_up.len() < sent.len() {
        if let Some(delivery) = consumer.try_next() {
            delivery.retry("no").await.unwrap();
        }
        if let Some(message) = parked.try_next() {
            given_up.push(message.parked.event.position);
            message.ack().await.unwrap();
        }
        tokio::task::yield_now().await;
    }
    given_up.sort_unstable();
    assert_eq!(given_up, sent);
}

#[tokio::test]
async fn a_slow_message_does_not_block_others() {
    let world = Embedded::new(Durability::Immediate);
    let sent = world.log.put(WANTED, 5000);
    let mut consumer = world.consumer(2, 3);
    let long = consumer.next().await.unwrap();
    for &position in &sent[1..] {
        let delivery = consumer.next().await.unwrap();
        assert_eq!(delivery.event.position, position);
        delivery.ack().await.unwrap();
    }
    assert_eq!(world.checkpoint(), 0);
    long.ack().await.unwrap();
    assert_eq!(world.checkpoint(), 5000);
}

#[tokio::test]
async fn events_of_other_types_advance_the_checkpoint() {
    let world = Embedded::new(Durability::Immediate);
    let _consumer = world.consumer(1, 3);
    world.log.put(OTHER, 1000);
    world.all_read().await;
    assert_eq!(world.checkpoint(), 1000);
}

#[tokio::test]
async fn proposers_wait_while_the_journal_is_behind() {
    let log = MemoryLog::new(Durability::Immediate);
    let broker = EmbeddedBroker::new(log, EmbeddedOptions { proposals_max: 2, ..options() });
    let mut journal = broker.proposals().unwrap();
    let proposal = Proposal {
        experiment: ExperimentId::new("x").unwrap(),
        cause: None,
        events: vec![new_event(OTHER, 1)],
    };
    let mut proposers = Vec::new();
    for _ in 0..3 {
        let (broker, proposal) = (broker.clone(), proposal.clone());
        proposers.push(tokio::spawn(async move { broker.propose(proposal).await }));
        tokio::task::yield_now().await;
    }
    let (one, two) = (journal.try_next().unwrap(), journal.try_next().unwrap());
    assert!(journal.try_next().is_none(), "the third waits for room");
    let three = journal.next().await.unwrap();
    one.answer(ProposalReply::Recorded(Vec::new())).await.unwrap();
    two.answer(ProposalReply::Queued).await.unwrap();
    drop(three);
    let mut answers = Vec::new();
    for proposer in proposers {
        answers.push(proposer.await.unwrap());
    }
    assert_eq!(answers[0], Ok(ProposalReply::Recorded(Vec::new())));
    assert_eq!(answers[1], Ok(ProposalReply::Queued));
    assert_eq!(answers[2], Err(BrokerError::Closed), "dropped undecided");
    drop(journal);
    assert_eq!(broker.propose(proposal).await, Err(BrokerError::Closed), "the journal has stopped");
}

#[tokio::test]
async fn a_failed_log_ends_consumers_with_its_error() {
    let world = Embedded::new(Durability::Immediate);
    let mut consumer = world.consumer(1, 3);
    world.all_read().await;
    let _next_session = world.log.crash();
    world.log.put(WANTED, 1);
    assert!(consumer.next().await.is_none());
    assert!(matches!(consumer.failure(), Some(BrokerError::Log(_))));
    assert!(matches!(world.broker.subscribe(subscription(1)), Err(BrokerError::Log(_))));
    assert!(world.broker.unpark("contract", 1).await.is_err());
    let refused = world.broker.drained().await;
    assert!(matches!(refused, Err(BrokerError::Log(_))), "{refused:?}");
}

#[tokio::test]
async fn a_damaged_or_foreign_record_is_an_error() {
    let world = Embedded::new(Durability::Immediate);
    let ahead = [1, 0x93, 99, 0x90, 0x90];
    for (bytes, hint) in [(&[9, 9][..], "format 9"), (&ahead[..], "after the log's last event 0")] {
        world.log.store_cursor("contract", bytes.to_vec()).unwrap();
        world.log.commit();
        let Err(error) = world.broker.subscribe(subscription(1)) else { panic!("{hint}: it was accepted") };
        let BrokerError::Log(damage @ LogError::Corrupt { .. }) = &error else { panic!("{hint}: {error:?}") };
        let text = chain(damage);
        assert!(text.contains(hint), "{text}");
    }
}

/// A log of many experiments, one after the other.
fn log_of(experiments: usize, events: usize) -> Arc<MemoryLog> {
    let log = MemoryLog::new(Durability::Immediate);
    for number in 0..experiments {
        log.put_for(&ExperimentId::new(format!("experiment-{number}")).unwrap(), WANTED, events);
    }
    log
}

fn of_experiment(number: usize) -> Subscription {
    let experiment = Some(ExperimentId::new(format!("experiment-{number}")).unwrap());
    Subscription { group: format!("step.{number}"), experiment, ..subscription(8) }
}

#[tokio::test]
async fn a_new_group_reads_only_its_experiment() {
    let log = log_of(100, 1000);
    let broker = EmbeddedBroker::new(Arc::clone(&log) as Arc<dyn EventLog>, options());
    for number in [99, 50, 0] {
        let read = log.events_read();
        let mut consumer = broker.subscribe(of_experiment(number)).unwrap();
        let first = number as u64 * 1000 + 1;
        for position in first..first + 1000 {
            let delivery = consumer.next().await.unwrap();
            assert_eq!(delivery.event.position, position);
            delivery.ack().await.unwrap();
        }
        let read = log.events_read() - read;
        assert!(read < 1000 + 3 * 256, "experiment {number}: {read} events were read");
    }
}

#[tokio::test]
async fn a_group_that_is_far_behind_catches_up_by_its_experiment() {
    let log = log_of(2, 700);
    let broker = EmbeddedBroker::new(Arc::clone(&log) as Arc<dyn EventLog>, options());
    let mut consumer = broker.subscribe(of_experiment(0)).unwrap();
    for _ in 0..300 {
        consumer.next().await.unwrap().ack().await.unwrap();
    }
    drop(consumer);
    broker.leave(&ExperimentId::new("experiment-0").unwrap()).await.unwrap();
    assert!(broker.status().is_empty(), "its memory is freed");
    log.put_for(&ExperimentId::new("experiment-1").unwrap(), WANTED, 50_000);
    let last = log.put_for(&ExperimentId::new("experiment-0").unwrap(), WANTED, 1);
    let read = log.events_read();
    let mut consumer = broker.subscribe(of_experiment(0)).unwrap();
    for position in (301..=700).chain(last) {
        let delivery = consumer.next().await.unwrap();
        assert_eq!(delivery.event.position, position);
        delivery.ack().await.unwrap();
    }
    let read = log.events_read() - read;
    assert!(read < 401 + 2 * 256 + 64, "{read} events were read");
}

#[tokio::test]
async fn leaving_waits_for_deliveries_only_for_a_time() {
    let log = log_of(1, 2);
    let leave_timeout = Duration::from_millis(50);
    let options = EmbeddedOptions { leave_timeout, ..options() };
    let broker = EmbeddedBroker::new(Arc::clone(&log) as Arc<dyn EventLog>, options);
    let experiment = ExperimentId::new("experiment-0").unwrap();
    let mut consumer = broker.subscribe(of_experiment(0)).unwrap();
    let (done, held) = (consumer.next().await.unwrap(), consumer.next().await.unwrap());
    let leaving = {
        let (broker, experiment) = (broker.clone(), experiment.clone());
        tokio::spawn(async move { broker.leave(&experiment).await })
    };
    assert!(consumer.next().await.is_none());
    let refused = broker.subscribe(of_experiment(0)).map(drop);
    assert_eq!(refused, Err(BrokerError::Leaving { experiment }));
    done.ack().await.unwrap();
    assert_eq!(leaving.await.unwrap(), Ok(()));
    assert_eq!(held.ack().await, Err(BrokerError::Closed), "too late");
    let mut consumer = broker.subscribe(of_experiment(0)).unwrap();
    let again = consumer.next().await.unwrap();
    assert_eq!((again.event.position, again.redelivered), (2, true));
}
