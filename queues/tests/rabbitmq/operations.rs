//! What operators do to a running RabbitMQ: delete queues, withdraw permissions, raise alarms, change limits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dissent_domain::event::EventId;
use dissent_domain::id::ExperimentId;
use dissent_queues::{
    Broker, BrokerError, Delivery, Proposal, ProposalReply, RabbitBroker, RabbitOptions, Secret, Subscription,
};
use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind};
use tokio::time::{sleep, timeout};

use crate::contract::{Harness, OTHER, WANTED, contract, subscription};
use crate::memory_log::{Durability, MemoryLog, new_event};
use crate::node::Node;
use crate::required::required;
use crate::world::{World, identity, until};
use crate::{Claims, attempt};

/// Interval of the checks in these tests.
const CHECK: Duration = Duration::from_millis(500);
/// Longest time until something deleted is back: two checks and what they do.
const BACK_MAX: Duration = Duration::from_secs(10);

fn proposal(number: u64) -> Proposal {
    Proposal { experiment: contract(), cause: None, events: vec![new_event(OTHER, number)] }
}

fn key() -> String {
    EventId::of_experiment(&contract()).0.simple().to_string()
}

async fn checked_often(world: World) -> World {
    let prefix = format!("{}often", world.options.prefix);
    World::with(RabbitOptions { prefix, check_interval: CHECK, ..world.options }).await
}

async fn delete(channel: &Channel, queue: &str) {
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
}

/// RabbitMQ closes a channel at each query for a missing queue. Its number must not be trusted again.
#[test]
fn a_server_outlives_the_channel_numbers_of_its_connections() {
    let Some(node) = required(Node::with(|_| "channel_max = 64\n".to_owned())) else { return };
    let outcome = attempt(async {
        let world = World::new(&node, "numbers").await;
        let missing = ["missing".to_owned()];
        for _ in 0..200 {
            assert_eq!(world.server.delete_queues(&missing).await, Ok(Vec::new()));
        }
        world.server.declare_groups(&[subscription(8)]).await.unwrap();
        let worker = world.worker().await;
        let mut consumer = worker.subscribe(subscription(8)).unwrap();
        let sent = world.publish(WANTED, 1)[0];
        assert_eq!(consumer_position(consumer.next().await.unwrap()).await, sent);
    });
    assert_eq!(outcome, Ok(()));
}

/// Fault 3: each queue and the exchange are deleted while a worker works.
async fn what_is_deleted_comes_back_and_the_work_goes_on(world: World) {
    let world = checked_often(world).await;
    let prefix = format!("{}.2", world.options.prefix);
    let (worker, mut journal) = (world.worker().await, world.server.proposals().unwrap());
    world.server.declare_groups(&[subscription(8)]).await.unwrap();
    world.server.publish_history(&contract()).await.unwrap();
    let mut consumer = worker.subscribe(subscription(8)).unwrap();
    let mut history = worker.history(&contract()).await.unwrap();
    let (_connection, channel) = world.meddler().await;
    let queues = ["proposals.KEY", "parked.KEY", "dead", "contract", "history.KEY", "holder", "retry.1000"];
    for (round, deleted) in queues.into_iter().chain(["events"]).enumerate() {
        let name = format!("{prefix}.{}", deleted.replace("KEY", &key()));
        if deleted == "events" {
            channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
        } else {
            delete(&channel, &name).await;
        }
        let sent = world.publish(WANTED, 1)[0];
        let number = round as u64 + 1;
        let round_trip = async {
            while consumer_position(consumer.next().await.unwrap()).await != sent {}
            assert_eq!(worker.propose(proposal(number)).await, Ok(ProposalReply::Queued));
            let decided = journal.next().await.unwrap();
            assert_eq!(decided.proposal, proposal(number));
            // A rejection needs the queue of dead letters.
            let reason = "no".to_owned();
            decided.answer(ProposalReply::Rejected { reason }).await.unwrap();
            assert_eq!(history.next().await.unwrap().unwrap().version, number);
        };
        let back = timeout(BACK_MAX, round_trip).await;
        let stats = world.server.queues().await;
        assert!(back.is_ok(), "{deleted} is deleted, and the work stands still: {stats:?}");
        let exists = async {
            let names = [name.as_str()];
            while deleted != "events" && world.server.queue_stats(&names).await.unwrap().is_empty() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        let is_needed = deleted != "retry.1000";
        assert!(!is_needed || timeout(BACK_MAX, exists).await.is_ok(), "{deleted} is not made again");
    }
    assert_eq!(world.server.holder().await.unwrap().unwrap().start, 1);
}

async fn consumer_position(delivery: Delivery) -> u64 {
    let position = delivery.event.position;
    delivery.ack().await.unwrap();
    position
}

/// Fault 9: the limit of an existing queue follows the setting.
async fn a_changed_limit_applies_to_existing_queues(world: World) {
    world.publish(WANTED, 1);
    world.server.declare_groups(&[subscription(1)]).await.unwrap();
    world.settled().await;
    let World { options, log, server } = world;
    drop(server);
    let options = RabbitOptions { redeliveries_max: 2, ..options };
    let server = World::start(&options, &log).await;
    server.declare_groups(&[subscription(1)]).await.unwrap();
    let mut parked = server.parked(&contract()).unwrap();
    let mut consumer = server.subscribe(subscription(1)).unwrap();
    let released = async {
        let mut releases = 0;
        loop {
            tokio::select! {
                Some(delivery) = consumer.next() => { releases += 1; delivery.release(); }
                Some(message) = parked.next() => { message.ack().await.unwrap(); return releases; }
            }
        }
    };
    let releases = timeout(Duration::from_secs(20), released).await.expect("the limit is 32 still");
    assert!((2..=4).contains(&releases), "{releases}");
}

/// Fault 10: commands of operators before the first server.
async fn operators_are_told_that_no_server_has_run(world: World) {
    let options = RabbitOptions { prefix: format!("{}none", world.options.prefix), ..world.options.clone() };
    let operator = RabbitBroker::connect_operator(options).await.unwrap();
    let refused = operator.dead_list(&[contract()], 10).await.unwrap_err();
    assert!(matches!(refused, BrokerError::NoQueues { .. }), "{refused:?}");
    assert!(refused.to_string().contains("no server has run yet"), "{refused}");
    assert_eq!(operator.holder().await.unwrap(), None);
    let of_server = RabbitBroker::connect_operator(world.options.clone()).await.unwrap();
    assert_eq!(of_server.dead_list(&[contract()], 10).await.unwrap(), []);
}

#[test]
fn operators_disturb_nothing_for_long() {
    let Some(node) = required(Node::new()) else { return };
    let mut claims = Claims::default();
    macro_rules! attempt_all {
        ($($claim:ident)*) => {
            $(claims.attempt(stringify!($claim), &node, |world| $claim(world));)*
        };
    }
    attempt_all! {
        what_is_deleted_comes_back_and_the_work_goes_on
        a_changed_limit_applies_to_existing_queues
        operators_are_told_that_no_server_has_run
    }
    claims.hold();
}

/// Forgetting leaves no queue and no exchange behind, neither of this version nor of 0.1.
#[test]
fn forgetting_leaves_nothing_behind() {
    let Some(node) = required(Node::new()) else { return };
    let outcome = attempt(async {
        let world = World::new(&node, "gone").await;
        let worker = world.worker().await;
        world.publish(WANTED, 1);
        let other = ExperimentId::new("other").unwrap();
        world.server.host(&other).unwrap();
        world.server.declare_groups(&[subscription(1)]).await.unwrap();
        world.server.publish_history(&contract()).await.unwrap();
        let mut consumer = worker.subscribe(subscription(1)).unwrap();
        consumer.next().await.unwrap().retry("once").await.unwrap();
        consumer.next().await.unwrap().ack().await.unwrap();
        drop(consumer);
        let (_connection, channel) = world.meddler().await;
        for queue in ["gone.proposals", "gone.parked", "gone.dead", "gone.contract", "gone.retry.200"] {
            let durable = QueueDeclareOptions::durable();
            channel.queue_declare(queue.into(), durable, FieldTable::default()).await.unwrap();
        }
        for exchange in ["gone.events", "gone.retry.200"] {
            let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            let kind = ExchangeKind::Topic;
            channel.exchange_declare(exchange.into(), kind, durable, FieldTable::default()).await.unwrap();
        }
        let operator = RabbitBroker::connect_operator(world.options.clone()).await.unwrap();
        let (experiments, groups) = ([contract(), other], ["contract".to_owned()]);
        let refused = operator.delete_all(&experiments, &groups).await.unwrap_err();
        assert!(matches!(refused, BrokerError::Served { .. }), "{refused:?}");
        drop(worker);
        drop(world);
        let old = operator.old_leftovers(&experiments, &groups).await.unwrap();
        assert_eq!((old.len(), old.iter().filter(|left| left.is_exchange).count()), (7, 2), "{old:?}");
        assert_eq!(operator.delete_old(&experiments, &groups).await.unwrap(), old);
        let deleted = operator.delete_all(&experiments, &groups).await.unwrap();
        assert!(
            deleted.iter().any(|left| left.name == "gone.2.retry.1000" && left.is_exchange),
            "{deleted:?}"
        );
        for list in ["list_queues", "list_exchanges"] {
            let left = tokio::task::block_in_place(|| node.control(&["-q", list, "name"]));
            assert!(!left.contains("gone."), "{list}: {left}");
        }
    });
    assert_eq!(outcome, Ok(()));
}

/// Faults 4 and 8: a memory alarm, and then the orderly stop.
#[test]
fn a_stop_under_an_alarm_ends_and_acknowledges_nothing_unpublished() {
    let Some(node) = required(Node::new()) else { return };
    let outcome = attempt(async {
        let world = World::new(&node, "alarm").await;
        let worker = world.worker().await;
        let sent = world.publish(WANTED, 2);
        world.server.declare_groups(&[subscription(2)]).await.unwrap();
        let mut consumer = worker.subscribe(subscription(2)).unwrap();
        let (first, held) = (consumer.next().await.unwrap(), consumer.next().await.unwrap());
        world.settled().await;
        tokio::task::block_in_place(|| node.set_memory_alarm(true));
        let proposing = {
            let worker = Arc::clone(&worker);
            tokio::spawn(async move {
                let proposed = worker.propose(proposal(1)).await;
                if proposed.is_ok() {
                    first.ack().await.unwrap();
                }
                proposed
            })
        };
        // Publishing is what makes RabbitMQ block the connection.
        until(|| worker.status().blocked).await;
        assert!(!proposing.is_finished(), "it waits for RabbitMQ");
        let begun = Instant::now();
        worker.close();
        let early = timeout(Duration::from_millis(300), worker.drained()).await;
        assert!(early.is_err(), "{early:?}");
        worker.abandon();
        assert_eq!(worker.drained().await, Err(BrokerError::Closed));
        assert_eq!(proposing.await.unwrap(), Err(BrokerError::Closed));
        assert_eq!(worker.propose(proposal(2)).await, Err(BrokerError::Closed));
        drop((held, consumer));
        tokio::task::block_in_place(|| drop(worker));
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());

        world.publish(OTHER, 1);
        until(|| world.server.status().blocked).await;
        let begun = Instant::now();
        world.server.close();
        world.server.abandon();
        let _given_up = world.server.drained().await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        let World { options, log, server } = world;
        tokio::task::block_in_place(|| {
            drop(server);
            node.set_memory_alarm(false);
        });
        let server = World::start(&options, &log).await;
        server.declare_groups(&[subscription(2)]).await.unwrap();
        let worker = RabbitBroker::connect_worker(options).await.unwrap();
        let mut consumer = worker.subscribe(subscription(2)).unwrap();
        let mut again = Vec::new();
        for _ in 0..2 {
            again.push(consumer.next().await.unwrap().event.position);
        }
        again.sort_unstable();
        assert_eq!(again, sent, "the causes are redelivered");
    });
    assert_eq!(outcome, Ok(()));
}

async fn refused(options: &RabbitOptions, hints: &[&str]) {
    let begun = Instant::now();
    let log = MemoryLog::new(Durability::Immediate);
    let error = RabbitBroker::connect_server(options.clone(), log, identity(1)).await.map(drop).unwrap_err();
    assert!(matches!(error, BrokerError::RefusedByBroker { .. }), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "at once, not after {:?}", begun.elapsed());
    for hint in hints {
        assert!(error.to_string().contains(hint), "{hint}: {error}");
    }
}

/// Fault 8: what waiting cannot cure ends the start, and is shown at run time.
#[test]
fn lasting_refusals_end_the_start_and_are_shown_later() {
    let Some(node) = required(Node::new()) else { return };
    let control = |arguments: &[&str]| tokio::task::block_in_place(|| node.control(arguments));
    let outcome = attempt(async {
        control(&["add_user", "limited", "secret"]);
        control(&["set_permissions", "limited", "^$", ".*", ".*"]);
        let mut options = RabbitOptions::from_url(&node.url()).unwrap();
        options.prefix = "perm".to_owned();
        options.check_interval = CHECK;
        (options.user, options.password) = ("limited".to_owned(), Secret::new("secret"));
        refused(&options, &["configure", "perm.2.", "limited"]).await;
        refused(&RabbitOptions { password: Secret::new("wrong"), ..options.clone() }, &["password"]).await;
        refused(&RabbitOptions { vhost: "nowhere".to_owned(), ..options.clone() }, &["nowhere"]).await;

        control(&["set_permissions", "limited", ".*", ".*", ".*"]);
        let world = World::with(options).await;
        let mut consumer = world.server.subscribe(subscription(1)).unwrap();
        world.publish(WANTED, 1);
        consumer.next().await.unwrap().ack().await.unwrap();
        assert_eq!(world.server.status().refused, None);
        control(&["set_permissions", "limited", "^$", "^$", "^$"]);
        until(|| world.server.status().refused.is_some()).await;
        let reason = world.server.status().refused.unwrap();
        assert!(reason.contains("ACCESS_REFUSED") || reason.contains("refused"), "{reason}");
        let sent = world.publish(WANTED, 1);
        let late = Subscription { group: "late".to_owned(), ..subscription(1) };
        let begun = Instant::now();
        let error = world.server.declare_groups(&[late]).await.unwrap_err();
        assert!(matches!(error, BrokerError::RefusedByBroker { .. }), "{error:?} {:?}", begun.elapsed());
        control(&["set_permissions", "limited", ".*", ".*", ".*"]);
        let delivery = consumer.next().await.unwrap();
        assert_eq!(delivery.event.position, sent[0]);
        delivery.ack().await.unwrap();
        until(|| world.server.status().refused.is_none()).await;
    });
    assert_eq!(outcome, Ok(()));
}
