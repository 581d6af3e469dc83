//! RabbitMQ dies, restarts, cuts connections, runs out of memory and loses all data, while a server and two
//! workers run. No group may lose a durable event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dissent_domain::event::EventId;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog as _;
use dissent_queues::{
    Broker, Proposal, ProposalConsumer, ProposalReply, RabbitBroker, RabbitOptions, Subscription,
};
use tokio::time::{sleep, timeout};

use crate::contract::{self, Harness, OTHER, WANTED, subscription};
use crate::memory_log::new_event;
use crate::node::Node;
use crate::required::required;
use crate::world::{World, until};

const GROUPS: [&str; 2] = ["one", "two"];
/// Longest time until all messages are delivered after a fault.
const RECOVERY_MAX: Duration = Duration::from_secs(60);
/// Longest time until unresponsive queues are replaced: several timeouts, and the wait for a turn.
const SILENCE_MAX: Duration = Duration::from_secs(150);

/// The observations of all consumers.
#[derive(Default)]
struct Seen {
    /// Acknowledged deliveries of each event to each group.
    acked: Mutex<BTreeMap<(String, u64), u32>>,
    /// Times that each proposal reached the journal.
    decided: Mutex<BTreeMap<u64, u32>>,
    /// The last version of the history.
    history: AtomicU64,
    /// Proposals that are durable, by number: all up to here.
    proposed: AtomicU64,
    stop: AtomicBool,
}

async fn consume(broker: Arc<RabbitBroker>, group: &'static str, seen: Arc<Seen>) {
    let wish = Subscription { group: group.to_owned(), ..subscription(32) };
    let mut consumer = broker.subscribe(wish).unwrap();
    while let Some(delivery) = consumer.next().await {
        let key = (group.to_owned(), delivery.event.position);
        // Process slowly, so that faults hit unsettled messages.
        sleep(Duration::from_millis(2)).await;
        delivery.ack().await.unwrap();
        *seen.acked.lock().unwrap().entry(key).or_insert(0) += 1;
    }
}

async fn propose(broker: Arc<RabbitBroker>, seen: Arc<Seen>) {
    for number in 1.. {
        if seen.stop.load(Ordering::Acquire) {
            return;
        }
        let experiment = ExperimentId::new("contract").unwrap();
        let proposal = Proposal { experiment, cause: None, events: vec![new_event(OTHER, number)] };
        assert_eq!(broker.propose(proposal).await, Ok(ProposalReply::Queued));
        seen.proposed.store(number, Ordering::Release);
        sleep(Duration::from_millis(5)).await;
    }
}

async fn decide(mut journal: ProposalConsumer, seen: Arc<Seen>) {
    while let Some(delivery) = journal.next().await {
        let number = delivery.proposal.events[0].time_us;
        delivery.answer(ProposalReply::Recorded(Vec::new())).await.unwrap();
        *seen.decided.lock().unwrap().entry(number).or_insert(0) += 1;
    }
}

async fn follow(broker: Arc<RabbitBroker>, seen: Arc<Seen>) {
    let mut history = broker.history(&ExperimentId::new("contract").unwrap()).await.unwrap();
    for expected in 1.. {
        let Some(event) = history.next().await.unwrap() else { return };
        assert_eq!(event.version, expected, "the history has a gap or a double");
        seen.history.store(expected, Ordering::Release);
    }
}

/// Waits until every event is acknowledged in every group, the history is read to its end, and every durable
/// proposal is decided.
async fn everything_arrives(world: &World, seen: &Seen, after: &str) {
    let head = world.log.head();
    let proposed = seen.proposed.load(Ordering::Acquire);
    let missing = || {
        let (acked, decided) = (seen.acked.lock().unwrap(), seen.decided.lock().unwrap());
        let groups =
            GROUPS.map(|group| (1..=head).filter(|&at| !acked.contains_key(&(group.to_owned(), at))).count());
        let undecided = (1..=proposed).filter(|number| !decided.contains_key(number)).count();
        (groups, undecided, head.saturating_sub(seen.history.load(Ordering::Acquire)))
    };
    let outcome = timeout(RECOVERY_MAX, until(|| missing() == ([0, 0], 0, 0))).await;
    let status = world.server.status();
    assert!(outcome.is_ok(), "{after}: missing (groups, proposals, history) {:?}; {status:?}", missing());
    println!("{after}: all {head} events and {proposed} proposals arrived; {status:?}");
}

async fn publish_for(world: &World, count: usize) {
    for _ in 0..count {
        world.publish(WANTED, 5);
        sleep(Duration::from_millis(5)).await;
    }
}

/// A memory alarm blocks publishing, is visible, and loses nothing.
async fn alarm(node: &Node, world: &World, worker: &RabbitBroker) {
    node.set_memory_alarm(true);
    publish_for(world, 50).await;
    until(|| world.server.status().blocked && worker.status().blocked).await;
    assert!(world.server.status().relayed_to < world.log.head(), "nothing is confirmed meanwhile");
    node.set_memory_alarm(false);
    until(|| !world.server.status().blocked).await;
}

#[test]
fn faults_of_rabbitmq_lose_no_message() {
    let Some(mut node) = required(Node::new()) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(survive(&mut node));
}

async fn survive(node: &mut Node) {
    let world = World::new(node, "faults").await;
    let workers = [world.worker().await, world.worker().await];
    let groups = GROUPS.map(|group| Subscription { group: group.to_owned(), ..subscription(32) });
    world.server.declare_groups(&groups).await.unwrap();
    world.server.publish_history(&ExperimentId::new("contract").unwrap()).await.unwrap();
    let seen = Arc::new(Seen::default());
    let mut tasks = vec![
        tokio::spawn(decide(world.server.proposals().unwrap(), Arc::clone(&seen))),
        tokio::spawn(propose(Arc::clone(&workers[0]), Arc::clone(&seen))),
        tokio::spawn(follow(Arc::clone(&workers[1]), Arc::clone(&seen))),
        tokio::spawn(consume(Arc::clone(&world.server), "two", Arc::clone(&seen))),
    ];
    for worker in &workers {
        for group in GROUPS {
            tasks.push(tokio::spawn(consume(Arc::clone(worker), group, Arc::clone(&seen))));
        }
    }
    publish_for(&world, 50).await;
    everything_arrives(&world, &seen, "in calm").await;

    for turn in 0..2 {
        let publishing = publish_for(&world, 100);
        let closing = async { tokio::task::block_in_place(|| node.close_all_connections()) };
        tokio::join!(publishing, closing);
        everything_arrives(&world, &seen, &format!("closed connections {turn}")).await;

        world.publish(WANTED, 200);
        tokio::task::block_in_place(|| node.kill());
        publish_for(&world, 50).await;
        tokio::task::block_in_place(|| node.start());
        everything_arrives(&world, &seen, &format!("kill -9 {turn}")).await;

        world.publish(WANTED, 200);
        tokio::task::block_in_place(|| node.restart());
        everything_arrives(&world, &seen, &format!("restart {turn}")).await;
    }
    alarm(node, &world, &workers[0]).await;
    everything_arrives(&world, &seen, "memory alarm").await;

    seen.stop.store(true, Ordering::Release);
    everything_arrives(&world, &seen, "before it forgets").await;
    // A new RabbitMQ without any data: the queues are declared and filled again.
    tokio::task::block_in_place(|| {
        node.kill();
        node.delete_data();
    });
    seen.acked.lock().unwrap().clear();
    tokio::task::block_in_place(|| node.start());
    world.publish(WANTED, 50);
    let others = RabbitBroker::connect_worker(world.options.clone()).await.unwrap();
    for group in GROUPS {
        tasks.push(tokio::spawn(consume(Arc::clone(&others), group, Arc::clone(&seen))));
    }
    // The old workers skip recently settled messages; any consumer receives the others.
    timeout(RECOVERY_MAX, until(|| seen.history.load(Ordering::Acquire) == world.log.head())).await.unwrap();
    let new: Vec<u64> = (world.log.head() - 49..=world.log.head()).collect();
    let arrived = || {
        let acked = seen.acked.lock().unwrap();
        GROUPS.iter().all(|group| new.iter().all(|&at| acked.contains_key(&((*group).to_owned(), at))))
    };
    timeout(RECOVERY_MAX, until(arrived)).await.expect("new events arrive");
    assert!(world.server.status().reconnects > 0 && world.server.status().dead == 0);

    for broker in workers.iter().chain([&world.server, &others]) {
        broker.close();
    }
    for task in tasks {
        task.abort();
        if let Err(error) = task.await {
            assert!(error.is_cancelled(), "{error}");
        }
    }
    // The stream has the same content as before.
    contract::prefetch_1_keeps_the_log_order(World::new(node, "after1").await).await;
    contract::the_limit_parks_and_does_not_block(World::new(node, "after2").await).await;
}

/// Queues of groups that only workers consume, and that of proposals, become unresponsive, as after a kill
/// right after their declaration. The stream of the experiment's history lies between them in name order.
#[test]
fn queues_without_a_leader_are_declared_and_filled_again() {
    let Some(node) = required(Node::new()) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut options = RabbitOptions::from_url(&node.url()).unwrap();
        options.operation_timeout = Duration::from_secs(12);
        options.check_interval = Duration::from_secs(1);
        options.prefix = "silent".to_owned();
        let world = World::with(options).await;
        let worker = world.worker().await;
        let sent = world.publish(WANTED, 20);
        let late = Subscription { group: "late".to_owned(), ..subscription(32) };
        world.server.declare_groups(&[subscription(32), late.clone()]).await.unwrap();
        world.server.publish_history(&ExperimentId::new("contract").unwrap()).await.unwrap();
        let mut journal = world.server.proposals().unwrap();
        world.settled().await;
        let key = EventId::of_experiment(&contract::contract()).0.simple();
        tokio::task::block_in_place(|| {
            node.suspend_leader("silent.2.contract");
            node.suspend_leader("silent.2.late");
            node.suspend_leader(&format!("silent.2.proposals.{key}"));
            node.close_all_connections();
        });
        let mut consumers = [worker.subscribe(subscription(32)).unwrap(), worker.subscribe(late).unwrap()];
        let more = world.publish(WANTED, 5);
        let expected: BTreeSet<u64> = sent.into_iter().chain(more).collect();
        for consumer in &mut consumers {
            let arriving = async {
                let mut arrived = BTreeSet::new();
                while arrived.len() < 25 {
                    let delivery = consumer.next().await.unwrap();
                    arrived.insert(delivery.event.position);
                    delivery.ack().await.unwrap();
                }
                arrived
            };
            assert_eq!(timeout(SILENCE_MAX, arriving).await.expect("the events arrive"), expected);
        }
        let experiment = ExperimentId::new("contract").unwrap();
        let proposal = Proposal { experiment, cause: None, events: vec![new_event(OTHER, 1)] };
        let (proposed, decided) = tokio::join!(
            timeout(SILENCE_MAX, worker.propose(proposal)),
            timeout(SILENCE_MAX, journal.next()),
        );
        assert_eq!(proposed.expect("it is taken"), Ok(ProposalReply::Queued));
        let decided = decided.expect("it arrives").unwrap();
        decided.answer(ProposalReply::Recorded(Vec::new())).await.unwrap();
    });
}

/// Proposes twice a second until the test ends; each proposal must be accepted in time.
async fn propose_steadily(worker: Arc<RabbitBroker>, seen: Arc<Seen>) {
    let mut proposing = tokio::task::JoinSet::new();
    for number in 1.. {
        if seen.stop.load(Ordering::Acquire) {
            break;
        }
        let worker = Arc::clone(&worker);
        proposing.spawn(async move {
            let experiment = ExperimentId::new("contract").unwrap();
            let proposal = Proposal { experiment, cause: None, events: vec![new_event(OTHER, number)] };
            let taken = timeout(SILENCE_MAX, worker.propose(proposal)).await;
            assert_eq!(taken.expect("it is taken"), Ok(ProposalReply::Queued));
        });
        sleep(Duration::from_millis(500)).await;
    }
    while let Some(proposed) = proposing.join_next().await {
        proposed.unwrap();
    }
}

/// Rejects the first proposal, which becomes a dead letter, and records the others.
async fn reject_the_first(mut journal: ProposalConsumer) {
    while let Some(delivery) = journal.next().await {
        let answer = match delivery.proposal.events[0].time_us {
            1 => ProposalReply::Rejected { reason: "the round is closed".to_owned() },
            _ => ProposalReply::Recorded(Vec::new()),
        };
        delivery.answer(answer).await.unwrap();
    }
}

/// The queues of retries and of dead letters, which have no consumer, become unresponsive. Two workers and
/// the server notice it at once. Their messages arrive, and other messages are blocked for a limited time.
#[test]
fn retry_and_dead_letter_queues_without_a_leader_block_nothing() {
    let Some(node) = required(Node::new()) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut options = RabbitOptions::from_url(&node.url()).unwrap();
        options.operation_timeout = Duration::from_secs(12);
        options.prefix = "mute".to_owned();
        let world = World::with(options).await;
        let workers = [world.worker().await, world.worker().await];
        let journal = world.server.proposals().unwrap();
        world.server.declare_groups(&[subscription(1)]).await.unwrap();
        // The first failure declares the queue of retries.
        let mut first = workers[0].subscribe(subscription(1)).unwrap();
        world.publish(WANTED, 1);
        first.next().await.unwrap().retry("a failure").await.unwrap();
        first.next().await.unwrap().ack().await.unwrap();
        world.settled().await;
        tokio::task::block_in_place(|| {
            node.suspend_leader("mute.2.retry.1000");
            node.suspend_leader("mute.2.dead");
            node.close_all_connections();
        });

        let mut second = workers[1].subscribe(subscription(1)).unwrap();
        let expected: BTreeSet<u64> = world.publish(WANTED, 2).into_iter().collect();
        let mut failing = Vec::new();
        for consumer in [&mut first, &mut second] {
            let delivery = timeout(RECOVERY_MAX, consumer.next()).await.expect("one for each").unwrap();
            failing.push(tokio::spawn(async move { delivery.retry("another failure").await }));
        }
        let seen = Arc::new(Seen::default());
        let proposing = tokio::spawn(propose_steadily(Arc::clone(&workers[0]), Arc::clone(&seen)));
        let deciding = tokio::spawn(reject_the_first(journal));
        let retrying = async {
            let mut again = BTreeSet::new();
            while again.len() < 2 {
                let delivery = tokio::select! {
                    delivery = first.next() => delivery.unwrap(),
                    delivery = second.next() => delivery.unwrap(),
                };
                assert_eq!(delivery.attempt, 2);
                again.insert(delivery.event.position);
                delivery.ack().await.unwrap();
            }
            again
        };
        assert_eq!(timeout(SILENCE_MAX, retrying).await.expect("the retries arrive"), expected);
        timeout(SILENCE_MAX, until(|| world.server.status().dead == 1)).await.expect("the letter is kept");
        for failed in failing {
            failed.await.unwrap().unwrap();
        }
        seen.stop.store(true, Ordering::Release);
        proposing.await.unwrap();
        let letters = world.server.dead_list(&[contract::contract()], 10).await.unwrap();
        assert_eq!(letters.len(), 1, "{letters:?}");
        assert_eq!(letters[0].reason, "the round is closed");
        deciding.abort();
    });
}
