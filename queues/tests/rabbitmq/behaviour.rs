//! The further guarantees of the broker over RabbitMQ.

use std::sync::Arc;
use std::time::Duration;

use dissent_domain::error::chain;
use dissent_domain::event::EventId;
use dissent_domain::log::EventLog as _;
use dissent_queues::{
    Broker, BrokerError, Consumer, DeadContent, Delivery, MessageContext, Proposal, ProposalDelivery,
    ProposalReply, RabbitBroker, RabbitOptions, Subscription,
};
use lapin::options::{BasicPublishOptions, QueueDeleteOptions};
use lapin::{BasicProperties, Channel};

use crate::contract::{Harness, OTHER, WANTED, contract as experiment, subscription};
use crate::memory_log::new_event;
use crate::node::Node;
use crate::required::required;
use crate::world::{World, until};
use crate::{Claims, attempt};

/// Returns the queue of the experiment's proposals.
fn proposals_queue(prefix: &str) -> String {
    format!("{prefix}.2.proposals.{}", EventId::of_experiment(&experiment()).0.simple())
}

fn proposal(number: u64) -> Proposal {
    Proposal { experiment: experiment(), cause: None, events: vec![new_event(OTHER, number)] }
}

async fn next(consumer: &mut Consumer) -> Delivery {
    consumer.next().await.unwrap()
}

async fn ack_all(consumer: &mut Consumer, count: usize) -> Vec<u64> {
    let mut positions = Vec::new();
    for _ in 0..count {
        let delivery = next(consumer).await;
        positions.push(delivery.event.position);
        delivery.ack().await.unwrap();
    }
    positions
}

/// Publishes bytes that the broker did not encode.
async fn smuggle(channel: &Channel, queue: &str, id: Option<&str>, body: &[u8]) {
    let properties = match id {
        Some(id) => BasicProperties::default().with_message_id(id.into()),
        None => BasicProperties::default(),
    };
    let options = BasicPublishOptions::default();
    channel.basic_publish("".into(), queue.into(), options, body, properties).await.unwrap().await.unwrap();
}

async fn workers_share_queues_that_the_server_declares(world: World) {
    let worker = world.worker().await;
    // It waits there first.
    let mut early = worker.subscribe(subscription(4)).unwrap();
    let sent = world.publish(WANTED, 10);
    assert!(early.try_next().is_none());
    world.server.declare_groups(&[subscription(1)]).await.unwrap();
    let second = world.worker().await;
    let mut late = second.subscribe(subscription(4)).unwrap();
    let mut seen = Vec::new();
    while seen.len() < sent.len() {
        let delivery = tokio::select! {
            delivery = early.next() => delivery.unwrap(),
            delivery = late.next() => delivery.unwrap(),
        };
        seen.push(delivery.event.position);
        delivery.ack().await.unwrap();
    }
    seen.sort_unstable();
    assert_eq!(seen, sent);
    let refused = worker.declare_groups(&[subscription(1)]).await;
    assert_eq!(refused, Err(BrokerError::ServerOnly));
    assert!(worker.proposals().is_err() && worker.parked(&experiment()).is_err());
}

async fn a_workers_proposal_is_durable_and_reaches_the_journal(world: World) {
    let worker = world.worker().await;
    let context: MessageContext =
        [("traceparent".to_owned(), "00-aa-bb-01".to_owned())].into_iter().collect();
    assert_eq!(worker.propose_in(proposal(1), context.clone()).await, Ok(ProposalReply::Queued));
    let mut journal = world.server.proposals().unwrap();
    let taken = journal.next().await.unwrap();
    assert_eq!((&taken.proposal, &taken.context), (&proposal(1), &context));
    drop(taken);
    let again = journal.next().await.expect("an undecided proposal is redelivered");
    assert_eq!(again.proposal, proposal(1));
    again.answer(ProposalReply::Recorded(Vec::new())).await.unwrap();
    assert_eq!(worker.propose(proposal(2)).await, Ok(ProposalReply::Queued));
    assert_eq!(journal.next().await.unwrap().proposal, proposal(2), "the first is settled");
    let huge = Proposal {
        events: vec![dissent_domain::event::NewEvent { body: vec![0; 17 << 20], ..new_event(OTHER, 3) }],
        ..proposal(3)
    };
    let refused = worker.propose(huge).await;
    assert!(matches!(refused, Err(BrokerError::TooLarge { .. })), "{refused:?}");
    let empty = worker.propose(Proposal { events: Vec::new(), ..proposal(3) }).await;
    assert!(matches!(empty, Err(BrokerError::OutOfRange { .. })), "{empty:?}");
}

async fn a_proposal_that_the_journal_cannot_take_is_delivered_again_after_the_others(world: World) {
    let worker = world.worker().await;
    let context: MessageContext =
        [("traceparent".to_owned(), "00-aa-bb-01".to_owned())].into_iter().collect();
    worker.propose_in(proposal(1), context.clone()).await.unwrap();
    let mut journal = world.server.proposals().unwrap();
    journal.next().await.unwrap().answer(ProposalReply::RetryLater).await.unwrap();
    worker.propose(proposal(2)).await.unwrap();
    let other = journal.next().await.unwrap();
    assert_eq!(other.proposal, proposal(2), "the delayed one blocks no other");
    other.answer(ProposalReply::Recorded(Vec::new())).await.unwrap();
    let again = journal.next().await.unwrap();
    assert_eq!((&again.proposal, &again.context), (&proposal(1), &context));
    again.answer(ProposalReply::Recorded(Vec::new())).await.unwrap();
    assert!(worker.dead_list(&[experiment()], 10).await.unwrap().is_empty());
}

async fn rejected(delivery: ProposalDelivery) {
    delivery.answer(ProposalReply::Rejected { reason: "the round is closed".to_owned() }).await.unwrap();
}

async fn a_rejected_proposal_becomes_a_dead_letter_that_can_be_retried_or_dropped(world: World) {
    let worker = world.worker().await;
    worker.propose(proposal(1)).await.unwrap();
    let mut journal = world.server.proposals().unwrap();
    rejected(journal.next().await.unwrap()).await;
    let dead = worker.dead_list(&[experiment()], 10).await.unwrap();
    assert_eq!(dead.len(), 1, "{dead:?}");
    let letter = &dead[0];
    assert_eq!((letter.kind.as_str(), letter.reason.as_str()), ("proposal", "the round is closed"));
    assert_eq!(letter.experiment.as_deref(), Some("contract"));
    assert_eq!(letter.content, DeadContent::Proposal(proposal(1)));
    assert_eq!(worker.dead_get(&[experiment()], &letter.id).await.unwrap().as_ref(), Some(letter));
    assert!(worker.dead_retry(&[experiment()], &letter.id).await.unwrap());
    let again = journal.next().await.unwrap();
    assert_eq!(again.proposal, proposal(1));
    assert_eq!(worker.dead_list(&[experiment()], 10).await.unwrap(), [], "it left");
    rejected(again).await;
    let second = worker.dead_list(&[experiment()], 10).await.unwrap().remove(0);
    assert!(worker.dead_drop(&[experiment()], &second.id).await.unwrap());
    assert!(
        !worker.dead_drop(&[experiment()], &second.id).await.unwrap()
            && !worker.dead_retry(&[experiment()], "nobody").await.unwrap()
    );
    assert_eq!(worker.dead_list(&[experiment()], 10).await.unwrap(), []);
    assert_eq!(world.server.status().dead, 2);
}

async fn an_unreadable_message_becomes_a_dead_letter_and_blocks_nothing(world: World) {
    let mut consumer = world.server.subscribe(subscription(2)).unwrap();
    let mut journal = world.server.proposals().unwrap();
    world.settled().await;
    let (_connection, channel) = world.meddler().await;
    let queue = format!("{}.2.contract", world.options.prefix);
    smuggle(&channel, &queue, Some("strange"), b"\x01not a message").await;
    smuggle(&channel, &queue, None, b"").await;
    smuggle(&channel, &proposals_queue(&world.options.prefix), Some("x"), &[1; 4096]).await;
    let sent = world.publish(WANTED, 3);
    assert_eq!(ack_all(&mut consumer, 3).await, sent);
    until(|| world.server.status().dead == 3).await;
    world.settled().await;
    assert!(consumer.try_next().is_none() && journal.try_next().is_none());
    let stats = world.server.queues().await.unwrap();
    let messages = |name: &str| stats.iter().find(|queue| queue.name.ends_with(name)).unwrap().messages;
    assert_eq!((messages(".contract"), messages(&proposals_queue("")), messages(".dead")), (0, 0, 3));
    let dead = world.server.dead_list(&[experiment()], 10).await.unwrap();
    assert!(dead.iter().all(|letter| !letter.reason.is_empty()), "{dead:?}");
    assert_eq!(dead.iter().filter(|letter| letter.queue == queue).count(), 2);
}

async fn a_late_group_gets_every_event(world: World) {
    let sent = world.publish(WANTED, 700);
    let mut first = world.server.subscribe(subscription(64)).unwrap();
    assert_eq!(ack_all(&mut first, 700).await, sent);
    let late = Subscription { group: "late".to_owned(), ..subscription(64) };
    let mut late = world.server.subscribe(late).unwrap();
    assert_eq!(ack_all(&mut late, 700).await, sent);
    let more = world.publish(WANTED, 2);
    assert_eq!((ack_all(&mut first, 2).await, ack_all(&mut late, 2).await), (more.clone(), more));
}

async fn a_restarted_server_resumes_where_it_stopped(world: World) {
    world.publish(WANTED, 5);
    let mut consumer = world.server.subscribe(subscription(1)).unwrap();
    ack_all(&mut consumer, 4).await;
    world.settled().await;
    drop(consumer);
    let world = world.restart().await;
    assert_eq!(world.server.status().relayed_to, 5);
    let mut consumer = world.server.subscribe(subscription(1)).unwrap();
    let more = world.publish(WANTED, 1);
    assert_eq!(ack_all(&mut consumer, 2).await, [5, more[0]]);
    world.settled().await;
    assert!(consumer.try_next().is_none());
}

async fn a_missing_or_partly_filled_queue_is_filled_again(world: World) {
    world.publish(WANTED, 3);
    let mut consumer = world.server.subscribe(subscription(8)).unwrap();
    ack_all(&mut consumer, 3).await;
    world.settled().await;
    drop(consumer);
    let (_connection, channel) = world.meddler().await;
    let queue = format!("{}.2.contract", world.options.prefix);
    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let world = world.restart().await;
    let mut consumer = world.server.subscribe(subscription(8)).unwrap();
    assert_eq!(ack_all(&mut consumer, 3).await, [1, 2, 3], "the queue was deleted");
    world.settled().await;
    drop(consumer);
    // The record that a crash during the filling leaves.
    world.log.store_cursor(&format!("filled2.{}.contract", world.options.prefix), vec![2, 0]).unwrap();
    let world = world.restart().await;
    let mut consumer = world.server.subscribe(subscription(8)).unwrap();
    assert_eq!(ack_all(&mut consumer, 3).await, [1, 2, 3], "it was half full");
    world.settled().await;
    assert!(consumer.try_next().is_none());
}

async fn a_queue_deleted_under_its_consumers_is_declared_and_filled_again(world: World) {
    let options = RabbitOptions {
        prefix: "deleted".to_owned(),
        check_interval: Duration::from_millis(200),
        ..world.options
    };
    let world = World::with(options).await;
    let sent = world.publish(WANTED, 3);
    // Not in the server's process, which would recognise the duplicates.
    let worker = world.worker().await;
    world.server.declare_groups(&[subscription(8)]).await.unwrap();
    let mut consumer = worker.subscribe(subscription(8)).unwrap();
    let held = next(&mut consumer).await;
    let (_connection, channel) = world.meddler().await;
    channel.queue_delete("deleted.2.contract".into(), QueueDeleteOptions::default()).await.unwrap();
    let mut rest = Vec::new();
    while rest.last() != sent.last() {
        rest.extend(ack_all(&mut consumer, 1).await);
    }
    held.ack().await.unwrap();
    let more = world.publish(WANTED, 1);
    assert_eq!(ack_all(&mut consumer, 1).await, more, "held messages were settled on their redelivery");
    until(|| worker.status().steady).await;
}

async fn the_event_types_of_a_group_may_change(world: World) {
    world.publish(WANTED, 1);
    let mut consumer = world.server.subscribe(subscription(8)).unwrap();
    ack_all(&mut consumer, 1).await;
    world.settled().await;
    drop(consumer);
    let world = world.restart().await;
    let mut consumer = world.server.subscribe(Subscription { kinds: &[OTHER], ..subscription(8) }).unwrap();
    world.settled().await;
    world.publish(WANTED, 1);
    let sent = world.publish(OTHER, 1);
    assert_eq!(ack_all(&mut consumer, 1).await, sent);
    world.settled().await;
    assert!(consumer.try_next().is_none());
}

async fn an_event_is_relayed_in_the_context_of_its_proposal(world: World) {
    let context: MessageContext =
        [("traceparent".to_owned(), "00-cc-dd-01".to_owned())].into_iter().collect();
    let mut journal = world.server.proposals().unwrap();
    let mut consumer = world.server.subscribe(subscription(1)).unwrap();
    // The number that the log in memory gives to the next event.
    let proposal = Proposal { events: vec![new_event(WANTED, world.log.head() + 1)], ..proposal(1) };
    world.worker().await.propose_in(proposal, context.clone()).await.unwrap();
    let taken = journal.next().await.unwrap();
    world.publish(WANTED, 1);
    taken.answer(ProposalReply::Recorded(Vec::new())).await.unwrap();
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.context, context);
    delivery.retry("again").await.unwrap();
    let second = next(&mut consumer).await;
    assert_eq!((second.attempt, &second.context), (2, &context), "a retry keeps it");
}

async fn a_message_redelivered_too_often_is_parked_with_the_reason(world: World) {
    let options = RabbitOptions { redeliveries_max: 3, prefix: "poison".to_owned(), ..world.options };
    let world = World::with(options).await;
    let sent = world.publish(WANTED, 2);
    let mut parked = world.server.parked(&experiment()).unwrap();
    let mut consumer = world.server.subscribe(subscription(1)).unwrap();
    let mut acked = Vec::new();
    let message = loop {
        tokio::select! {
            Some(delivery) = consumer.next() => if delivery.event.position == sent[0] {
                delivery.release();
            } else {
                acked.push(delivery.event.position);
                delivery.ack().await.unwrap();
            },
            Some(message) = parked.next() => break message,
        }
    };
    assert_eq!((message.parked.event.position, message.parked.group.as_str()), (sent[0], "contract"));
    assert!(message.parked.reason.contains("redelivered too often"), "{}", message.parked.reason);
    message.ack().await.unwrap();
    if acked.is_empty() {
        acked = ack_all(&mut consumer, 1).await;
    }
    assert_eq!(acked, sent[1..]);
}

async fn a_parked_message_can_be_listed_and_retried(world: World) {
    let sent = world.publish(WANTED, 1);
    let once = Subscription { delivery_limit: 1, ..subscription(1) };
    let mut consumer = world.server.subscribe(once).unwrap();
    next(&mut consumer).await.retry("no luck").await.unwrap();
    let dead = world.server.dead_list(&[experiment()], 10).await.unwrap();
    assert_eq!(dead.len(), 1, "{dead:?}");
    let letter = &dead[0];
    assert!(letter.parked && letter.reason == "no luck" && letter.attempts == 1, "{letter:?}");
    assert!(world.server.dead_retry(&[experiment()], &letter.id).await.unwrap());
    assert_eq!(ack_all(&mut consumer, 1).await, sent);
    assert_eq!(world.server.dead_list(&[experiment()], 10).await.unwrap(), []);
}

async fn a_worker_follows_the_history_in_order(world: World) {
    let worker = world.worker().await;
    let mut history = worker.history(&experiment()).await.unwrap();
    world.publish(OTHER, 300);
    world.server.publish_history(&experiment()).await.unwrap();
    world.publish(WANTED, 300);
    for version in 1..=600 {
        assert_eq!(history.next().await.unwrap().unwrap().version, version);
    }
    // Forgotten and published again, it is another stream with the same events.
    world.server.forget(&experiment()).await.unwrap();
    world.publish(WANTED, 2);
    world.server.publish_history(&experiment()).await.unwrap();
    for version in 601..=602 {
        assert_eq!(history.next().await.unwrap().unwrap().version, version);
    }
    let another = world.worker().await;
    let mut second = another.history(&experiment()).await.unwrap();
    for version in 1..=602 {
        assert_eq!(second.next().await.unwrap().unwrap().version, version);
    }
    // The record that a crash during the filling leaves.
    let record = format!(
        "filled2.{}.history.{}",
        world.options.prefix,
        EventId::of_experiment(&experiment()).0.simple()
    );
    assert!(world.log.load_cursor(&record).unwrap().is_some());
    world.log.store_cursor(&record, vec![2, 0]).unwrap();
    let world = world.restart().await;
    world.server.publish_history(&experiment()).await.unwrap();
    world.publish(WANTED, 1);
    assert_eq!(history.next().await.unwrap().unwrap().version, 603);
    let mut third = another.history(&experiment()).await.unwrap();
    for version in 1..=603 {
        assert_eq!(third.next().await.unwrap().unwrap().version, version);
    }
    worker.close();
    assert_eq!(history.next().await, Ok(None));
}

async fn closing_releases_messages_that_no_consumer_holds(world: World) {
    let sent = world.publish(WANTED, 4);
    let worker = world.worker().await;
    world.server.declare_groups(&[subscription(4)]).await.unwrap();
    let mut leaving = worker.subscribe(subscription(4)).unwrap();
    let held = next(&mut leaving).await;
    worker.close();
    let another = world.worker().await;
    let mut staying = another.subscribe(subscription(4)).unwrap();
    let mut rest = ack_all(&mut staying, 3).await;
    rest.sort_unstable();
    assert_eq!(rest, sent[1..]);
    held.ack().await.unwrap();
    worker.drained().await.unwrap();
    world.settled().await;
    drop(worker);
    assert!(staying.try_next().is_none(), "a settlement after the close counts");
}

async fn a_delivery_that_outlives_the_broker_keeps_no_resources(world: World) {
    world.publish(WANTED, 1);
    let mut consumer = world.server.subscribe(subscription(1)).unwrap();
    let held = next(&mut consumer).await;
    let World { log, server, .. } = world;
    drop(server);
    assert_eq!(Arc::strong_count(&log), 1, "the log is free");
    assert_eq!(held.ack().await, Err(BrokerError::Closed));
    assert!(consumer.next().await.is_none());
}

#[test]
fn rabbitmq_broker_claims_hold() {
    let Some(node) = required(Node::new()) else { return };
    let mut claims = Claims::default();
    macro_rules! attempt_all {
        ($($claim:ident)*) => {
            $(claims.attempt(stringify!($claim), &node, |world| $claim(world));)*
        };
    }
    attempt_all! {
        workers_share_queues_that_the_server_declares
        a_workers_proposal_is_durable_and_reaches_the_journal
        a_proposal_that_the_journal_cannot_take_is_delivered_again_after_the_others
        a_rejected_proposal_becomes_a_dead_letter_that_can_be_retried_or_dropped
        an_unreadable_message_becomes_a_dead_letter_and_blocks_nothing
        a_late_group_gets_every_event
        a_restarted_server_resumes_where_it_stopped
        a_missing_or_partly_filled_queue_is_filled_again
        a_queue_deleted_under_its_consumers_is_declared_and_filled_again
        the_event_types_of_a_group_may_change
        an_event_is_relayed_in_the_context_of_its_proposal
        a_message_redelivered_too_often_is_parked_with_the_reason
        a_parked_message_can_be_listed_and_retried
        a_worker_follows_the_history_in_order
        closing_releases_messages_that_no_consumer_holds
        a_delivery_that_outlives_the_broker_keeps_no_resources
    }
    claims.hold();
}

#[test]
fn an_unreachable_rabbitmq_is_an_error_without_the_password() {
    let outcome = attempt(async {
        // Nothing listens on the discard port.
        let mut options = RabbitOptions::from_url("amqp://me:hunter2@127.0.0.1:9/").unwrap();
        options.start_timeout = Duration::from_millis(300);
        let error = RabbitBroker::connect_worker(options).await.unwrap_err();
        let BrokerError::Late { source: Some(_), .. } = &error else { panic!("{error:?}") };
        let text = chain(&error);
        assert!(text.contains("127.0.0.1:9") && !text.contains("hunter2"), "{error}");
    });
    assert_eq!(outcome, Ok(()));
}
