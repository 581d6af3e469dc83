//! One server a prefix: another one is refused, a lost lock stops a server, and nothing is mixed.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dissent_domain::error::chain;
use dissent_domain::event::EventType;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_queues::{
    Broker, BrokerError, Proposal, ProposalReply, RabbitBroker, RabbitOptions, Secret, ServerIdentity,
};
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use tokio::time::{sleep, timeout};

use crate::contract::{Harness, OTHER, WANTED, contract, subscription};
use crate::memory_log::{Durability, MemoryLog, new_event};
use crate::node::Node;
use crate::required::required;
use crate::world::{World, identity, until};
use crate::{Claims, attempt};

/// Tells the helper process where to serve.
const HELPER_URL: &str = "DISSENT_HELPER_URL";

fn proposal(experiment: &ExperimentId) -> Proposal {
    Proposal { experiment: experiment.clone(), cause: None, events: vec![new_event(OTHER, 1)] }
}

fn other() -> ExperimentId {
    ExperimentId::new("other").unwrap()
}

/// Serves a fresh log with the given events.
async fn serve(
    options: &RabbitOptions,
    events: usize,
    who: ServerIdentity,
) -> Result<(Arc<MemoryLog>, Arc<RabbitBroker>), BrokerError> {
    let log = MemoryLog::new(Durability::Immediate);
    log.put(WANTED, events);
    let server = RabbitBroker::connect_server(options.clone(), Arc::clone(&log) as Arc<dyn EventLog>, who);
    let server = server.await?;
    server.host(&contract())?;
    Ok((log, server))
}

/// Fault 2: the same data folder, copied, on another host.
async fn a_copied_log_is_refused_with_host_process_and_time(world: World) {
    world.publish(WANTED, 3);
    world.settled().await;
    let options = RabbitOptions { lock_timeout: Duration::from_secs(1), ..world.options.clone() };
    let begun = Instant::now();
    let refused = serve(&options, 3, identity(2)).await.map(drop).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let is_first = |holder: &dissent_queues::Holder| (holder.process, holder.start) == (1, 1);
    assert!(matches!(&refused, BrokerError::Served { holder, .. } if is_first(holder)), "{refused:?}");
    let text = refused.to_string();
    for part in ["a-host", "process 1", "2024-02-29 12:34:56 UTC", "broker.prefix", &options.prefix] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // The first goes on.
    let mut consumer = world.server.subscribe(subscription(4)).unwrap();
    for _ in 0..3 {
        consumer.next().await.unwrap().ack().await.unwrap();
    }
    assert_eq!(world.server.status().taken_over_by, None);
}

/// Fault 1: two installations on one RabbitMQ.
async fn servers_of_other_prefixes_never_get_each_others_proposals(world: World) {
    let options = RabbitOptions { prefix: format!("{}x", world.options.prefix), ..world.options.clone() };
    let (_log, second) = serve(&options, 0, identity(2)).await.unwrap();
    second.host(&other()).unwrap();
    let worker = RabbitBroker::connect_worker(options).await.unwrap();
    assert_eq!(worker.propose(proposal(&other())).await, Ok(ProposalReply::Queued));
    assert_eq!(world.worker().await.propose(proposal(&contract())).await, Ok(ProposalReply::Queued));
    let (mut first, mut second) = (world.server.proposals().unwrap(), second.proposals().unwrap());
    assert_eq!(first.next().await.unwrap().proposal.experiment, contract());
    assert_eq!(second.next().await.unwrap().proposal.experiment, other());
    assert!(first.try_next().is_none() && second.try_next().is_none());
}

async fn a_proposal_waits_until_its_experiment_is_hosted_and_again_after_it_left(world: World) {
    let (worker, mut journal) = (world.worker().await, world.server.proposals().unwrap());
    worker.propose(proposal(&other())).await.unwrap();
    worker.propose(proposal(&contract())).await.unwrap();
    let hosted = journal.next().await.unwrap();
    assert_eq!(hosted.proposal.experiment, contract());
    hosted.answer(ProposalReply::Recorded(Vec::new())).await.unwrap();
    sleep(Duration::from_millis(300)).await;
    assert!(journal.try_next().is_none(), "it is not hosted");
    world.server.host(&other()).unwrap();
    world.server.host(&other()).unwrap();
    let now = journal.next().await.unwrap();
    assert_eq!(now.proposal.experiment, other());
    now.answer(ProposalReply::Recorded(Vec::new())).await.unwrap();
    world.server.leave(&other()).await.unwrap();
    worker.propose(proposal(&other())).await.unwrap();
    sleep(Duration::from_millis(300)).await;
    assert!(journal.try_next().is_none(), "it left");
    world.server.host(&other()).unwrap();
    assert_eq!(journal.next().await.unwrap().proposal.experiment, other());
}

/// The log is the truth of each server: after another server, all queues are filled anew.
async fn queues_are_filled_anew_after_another_server(world: World) {
    world.publish(WANTED, 3);
    world.server.declare_groups(&[subscription(8)]).await.unwrap();
    world.server.publish_history(&contract()).await.unwrap();
    world.settled().await;
    assert_eq!(world.server.status().start, 1);
    let World { options, log, server } = world;
    drop(server);
    // A server over an older copy of the log, which then goes another way.
    let (_copy, second) = serve(&options, 2, identity(2)).await.unwrap();
    second.declare_groups(&[subscription(8)]).await.unwrap();
    second.publish_history(&contract()).await.unwrap();
    assert_eq!(second.status().start, 2);
    let mut history = second.history(&contract()).await.unwrap();
    for version in 1..=2 {
        assert_eq!(history.next().await.unwrap().unwrap().version, version);
    }
    drop((history, second));
    let server = World::start(&options, &log).await;
    server.publish_history(&contract()).await.unwrap();
    let mut history = server.history(&contract()).await.unwrap();
    for version in 1..=3 {
        assert_eq!(history.next().await.unwrap().unwrap().version, version);
    }
    let mut consumer = server.subscribe(subscription(8)).unwrap();
    for position in 1..=3 {
        let delivery = consumer.next().await.unwrap();
        assert_eq!(delivery.event.position, position);
        delivery.ack().await.unwrap();
    }
    assert_eq!(server.status().start, 3);
}

async fn a_worker_refuses_a_server_of_another_version(world: World) {
    let World { options, server, .. } = world;
    let holder = server.holder().await.unwrap().unwrap();
    assert_eq!((holder.process, holder.protocol), (1, 2));
    drop(server);
    let (_connection, channel) = meddler(&options).await;
    let newer = dissent_queues::Holder { protocol: 3, version: "0.9.1".to_owned(), start: 9, ..holder };
    put(&channel, &format!("{}.2.holder", options.prefix), &serde_json::to_vec(&newer).unwrap()).await;
    let refused = RabbitBroker::connect_worker(options.clone()).await.map(drop).unwrap_err();
    assert!(matches!(refused, BrokerError::OtherProtocol { server_protocol: 3, own: 2, .. }), "{refused:?}");
    assert!(refused.to_string().contains("0.9.1"), "{refused}");
    let refused = serve(&options, 0, identity(4)).await.map(drop).unwrap_err();
    assert!(matches!(refused, BrokerError::OtherProtocol { .. }), "{refused:?}");

    // Version 0.1 only.
    let old = RabbitOptions { prefix: format!("{}old", options.prefix), ..options };
    channel
        .queue_declare(
            format!("{}.proposals", old.prefix).as_str().into(),
            QueueDeclareOptions::durable(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    let refused = RabbitBroker::connect_worker(old.clone()).await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("version 0.1"), "{refused}");
    let (_log, _server) = serve(&old, 0, identity(5)).await.unwrap();
    RabbitBroker::connect_worker(old).await.unwrap();
}

async fn meddler(options: &RabbitOptions) -> (lapin::Connection, Channel) {
    let address = format!("amqp://guest:guest@127.0.0.1:{}/%2f", options.port);
    let connection = lapin::Connection::connect(&address, lapin::ConnectionProperties::default());
    let connection = connection.await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

async fn put(channel: &Channel, queue: &str, body: &[u8]) {
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel.basic_publish("".into(), queue.into(), options, body, properties).await.unwrap().await.unwrap();
}

#[test]
fn one_server_serves_a_prefix() {
    let Some(node) = required(Node::new()) else { return };
    let mut claims = Claims::default();
    macro_rules! attempt_all {
        ($($claim:ident)*) => {
            $(claims.attempt(stringify!($claim), &node, |world| $claim(world));)*
        };
    }
    attempt_all! {
        a_copied_log_is_refused_with_host_process_and_time
        servers_of_other_prefixes_never_get_each_others_proposals
        a_proposal_waits_until_its_experiment_is_hosted_and_again_after_it_left
        queues_are_filled_anew_after_another_server
        a_worker_refuses_a_server_of_another_version
    }
    claims.hold();
}

fn frozen_options(url: &str) -> RabbitOptions {
    let mut options = RabbitOptions::from_url(url).unwrap();
    options.prefix = "frozen".to_owned();
    options.heartbeat = Duration::from_secs(1);
    options
}

/// The helper process: a server that publishes without end.
#[test]
#[ignore = "started by another test, as a process that can be stopped"]
fn helper_that_serves() {
    let Ok(url) = std::env::var(HELPER_URL) else { return };
    let serving = attempt(async {
        let (log, server) = serve(&frozen_options(&url), 5, identity(7)).await.unwrap();
        server.declare_groups(&[subscription(8)]).await.unwrap();
        server.publish_history(&contract()).await.unwrap();
        loop {
            log.put(WANTED, 1);
            sleep(Duration::from_millis(5)).await;
        }
    });
    drop(serving);
}

/// The helper process; it is killed on drop.
struct Helper(Child);

impl Helper {
    fn start(url: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "serving::helper_that_serves", "--ignored"]);
        command.env(HELPER_URL, url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.0.id().to_string()]).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A server that is paused, and wakes after another took over, publishes nothing.
#[test]
fn a_frozen_server_publishes_nothing_after_another_took_over() {
    let Some(node) = required(Node::new()) else { return };
    let outcome = attempt(async {
        let options = frozen_options(&node.url());
        let helper = Helper::start(&node.url());
        let operator = RabbitBroker::connect_operator(options.clone()).await.unwrap();
        while operator.holder().await.ok().flatten().is_none_or(|holder| holder.process != 7) {
            sleep(Duration::from_millis(50)).await;
        }
        sleep(Duration::from_millis(500)).await;
        helper.signal("-STOP");
        // RabbitMQ drops the silent connections after some heartbeats, and only then frees the locks.
        let (log, server) = loop {
            match serve(&options, 4, identity(8)).await {
                Ok(served) => break served,
                Err(BrokerError::Served { .. }) => {}
                Err(error) => unreachable!("{}", chain(&error)),
            }
        };
        server.declare_groups(&[subscription(64)]).await.unwrap();
        server.publish_history(&contract()).await.unwrap();
        helper.signal("-CONT");
        let mut consumer = server.subscribe(subscription(64)).unwrap();
        let mut history = server.history(&contract()).await.unwrap();
        let mut positions = Vec::new();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(4) {
            if let Ok(Some(delivery)) = timeout(Duration::from_millis(100), consumer.next()).await {
                positions.push(delivery.event.position);
                delivery.ack().await.unwrap();
            }
        }
        assert_eq!(positions, [1, 2, 3, 4], "only the events of the new server's log");
        log.put(EventType::RoundOpened, 1);
        for version in 1..=5 {
            let event = history.next().await.unwrap().unwrap();
            assert_eq!(event.version, version);
            let is_ours = (event.event.event_type == OTHER.name()) == (version == 5);
            assert!(is_ours, "{event:?}");
        }
        let holder = operator.holder().await.unwrap().unwrap();
        assert_eq!((holder.process, holder.start), (8, 2));
        drop(server);
        // The first server takes up again when the other stops.
        until(|| operator.status().connected).await;
        while operator.holder().await.ok().flatten().is_none_or(|holder| holder.process != 7) {
            sleep(Duration::from_millis(50)).await;
        }
    });
    assert_eq!(outcome, Ok(()));
}

/// At run time a lost lock is not an error: the server waits, and says for whom.
#[test]
fn a_server_that_lost_its_lock_says_who_has_it_and_resumes() {
    let Some(node) = required(Node::new()) else { return };
    let control = |arguments: &[&str]| tokio::task::block_in_place(|| node.control(arguments));
    let outcome = attempt(async {
        control(&["add_user", "first", "secret"]);
        control(&["set_permissions", "first", ".*", ".*", ".*"]);
        let mut options = RabbitOptions::from_url(&node.url()).unwrap();
        options.prefix = "lost".to_owned();
        let (_meddling, spare) = meddler(&options).await;
        (options.user, options.password) = ("first".to_owned(), Secret::new("secret"));
        let (log, first) = serve(&options, 2, identity(1)).await.unwrap();
        until(|| first.status().relayed_to == 2).await;
        let holder = first.holder().await.unwrap().unwrap();
        // Another connection takes the lock in the moment between two connections of the server.
        options.user = "guest".to_owned();
        let taking = tokio::spawn(async move {
            let (connection, _) = meddler(&options).await;
            loop {
                // lapin may give the number of a channel that the server is still closing.
                let Ok(channel) = connection.create_channel().await else { continue };
                let (lock, exclusive) = ("lost.2.lock.publishing", QueueDeclareOptions::exclusive());
                if channel.queue_declare(lock.into(), exclusive, FieldTable::default()).await.is_ok() {
                    return connection;
                }
            }
        });
        control(&["close_all_user_connections", "first", "test"]);
        let taken = taking.await.unwrap();
        let other = dissent_queues::Holder { process: 2, start: holder.start + 1, ..holder };
        put(&spare, "lost.2.holder", &serde_json::to_vec(&other).unwrap()).await;
        until(|| first.status().taken_over_by.is_some_and(|holder| holder.process == 2)).await;
        until(|| !first.status().connected).await;
        log.put(WANTED, 1);
        sleep(Duration::from_millis(300)).await;
        assert_eq!(first.status().relayed_to, 2, "nothing is published meanwhile");
        taken.close(200, "test".into()).await.unwrap();
        until(|| first.status().taken_over_by.is_none() && first.status().relayed_to == 3).await;
        let mut consumer = first.subscribe(subscription(1)).unwrap();
        for position in 1..=3 {
            let delivery = consumer.next().await.unwrap();
            assert_eq!(delivery.event.position, position);
            delivery.ack().await.unwrap();
        }
        assert_eq!(first.status().start, 3);
    });
    assert_eq!(outcome, Ok(()));
}
