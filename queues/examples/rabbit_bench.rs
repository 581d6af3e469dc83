//! Throughput of events through RabbitMQ end to end (log → relay → consume → propose → journal → reply). The
//! baseline is the same client's plain publish/confirm and consume/acknowledge on the same node, in
//! alternating runs. Starts a private node. Prints a JSON line for each run, and the ratio of the medians.
//!
//! `cargo run --release -p dissent-queues --example rabbit_bench`
#![expect(clippy::print_stdout, reason = "its output is its purpose")]
#![expect(clippy::unwrap_used, reason = "nothing to recover from in a benchmark")]

#[path = "../tests/broker/memory_log.rs"]
#[expect(dead_code, reason = "the log in memory has parts for the tests")]
mod memory_log;
#[path = "../tests/broker/node.rs"]
mod node;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dissent_domain::event::EventType;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_queues::{
    Broker, Proposal, ProposalReply, RabbitBroker, RabbitOptions, ServerIdentity, Subscription,
};
use futures_core::Stream;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};

use memory_log::{Durability, MemoryLog, new_event};
use node::Node;

const EVENTS: usize = 5_000;
const RUNS: usize = 5;
/// The size of an event of the log in memory as a message.
const BODY_BYTES: usize = 120;
const WINDOW: usize = 256;

#[expect(clippy::cast_precision_loss, reason = "a count of events is small")]
fn rate(begun: Instant) -> f64 {
    EVENTS as f64 / begun.elapsed().as_secs_f64()
}

/// Messages per second: published and confirmed, consumed and acknowledged, each alone.
async fn bare(node: &Node, queue: &str) -> (f64, f64) {
    let connection = Connection::connect(&node.url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), quorum).await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let begun = Instant::now();
    let mut unconfirmed = VecDeque::new();
    for _ in 0..EVENTS {
        let (options, properties) =
            (BasicPublishOptions::default(), BasicProperties::default().with_delivery_mode(2));
        let body = [7; BODY_BYTES];
        let sent = channel.basic_publish("".into(), queue.into(), options, &body, properties);
        unconfirmed.push_back(sent.await.unwrap());
        if unconfirmed.len() == WINDOW {
            assert!(unconfirmed.pop_front().unwrap().await.unwrap().is_ack());
        }
    }
    for sent in unconfirmed {
        assert!(sent.await.unwrap().is_ack());
    }
    let published = rate(begun);
    channel.basic_qos(128, BasicQosOptions::default()).await.unwrap();
    let begun = Instant::now();
    let options = BasicConsumeOptions::default();
    let mut consumer =
        channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap();
    for number in 1..=EVENTS {
        let next = poll_fn(|context| Pin::new(&mut consumer).poll_next(context));
        let delivery = next.await.unwrap().unwrap();
        if number % 32 == 0 || number == EVENTS {
            channel.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true }).await.unwrap();
        }
    }
    (published, rate(begun))
}

fn identity() -> ServerIdentity {
    let [installation, host, version] = ["bench"; 3].map(str::to_owned);
    ServerIdentity { installation, host, process: std::process::id(), version, since_us: 0 }
}

/// Events per second, from the log to the journal's reply, with a server and a worker.
async fn end_to_end(node: &Node, prefix: &str) -> f64 {
    let mut options = RabbitOptions::from_url(&node.url()).unwrap();
    options.prefix = prefix.to_owned();
    let log = MemoryLog::new(Durability::Immediate);
    let server =
        RabbitBroker::connect_server(options.clone(), Arc::clone(&log) as Arc<dyn EventLog>, identity())
            .await
            .unwrap();
    server.host(&ExperimentId::new("contract").unwrap()).unwrap();
    let subscription = Subscription {
        group: "bench".to_owned(),
        experiment: Some(ExperimentId::new("contract").unwrap()),
        kinds: &[EventType::PromptAdmitted],
        prefetch: 128,
        delivery_limit: 3,
        retry_delay: Duration::from_secs(1),
    };
    server.declare_groups(std::slice::from_ref(&subscription)).await.unwrap();
    let worker = RabbitBroker::connect_worker(options).await.unwrap();
    let mut consumer = worker.subscribe(subscription).unwrap();
    let mut journal = server.proposals().unwrap();
    let begun = Instant::now();
    log.put(EventType::PromptAdmitted, EVENTS);
    let working = tokio::spawn(async move {
        let mut in_flight = tokio::task::JoinSet::new();
        for number in 0..EVENTS {
            let delivery = consumer.next().await.unwrap();
            let worker = Arc::clone(&worker);
            in_flight.spawn(async move {
                let experiment = ExperimentId::new("contract").unwrap();
                let events = vec![new_event(EventType::RoundOpened, number as u64)];
                let proposal = Proposal { experiment, cause: Some(delivery.event.event.id), events };
                worker.propose(proposal).await.unwrap();
                delivery.ack().await.unwrap();
            });
            while in_flight.len() > 64 {
                in_flight.join_next().await.unwrap().unwrap();
            }
        }
        in_flight.join_all().await;
    });
    for _ in 0..EVENTS {
        journal.next().await.unwrap().answer(ProposalReply::Recorded(Vec::new())).await.unwrap();
    }
    working.await.unwrap();
    rate(begun)
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let node = Node::new().expect("RabbitMQ is installed");
    let (mut publishes, mut consumes, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..RUNS {
        let (publish, consume) = bare(&node, &format!("bare{run}")).await;
        let end = end_to_end(&node, &format!("bench{run}")).await;
        println!(
            "{{\"benchmark\":\"rabbitmq\",\"run\":{run},\"events\":{EVENTS},\"bare_publish_per_second\":{publish:.0},\
             \"bare_consume_per_second\":{consume:.0},\"end_to_end_per_second\":{end:.0}}}"
        );
        publishes.push(publish);
        consumes.push(consume);
        ends.push(end);
    }
    let (publish, consume, end) = (median(publishes), median(consumes), median(ends));
    // Each event end to end is two messages, each published and consumed once.
    let bound = 1.0 / (2.0 / publish + 2.0 / consume);
    println!(
        "{{\"benchmark\":\"rabbitmq\",\"end_to_end_per_second\":{end:.0},\"bound_per_second\":{bound:.0},\
         \"end_to_end_to_bare_publish\":{:.3},\"end_to_end_to_bare_consume\":{:.3},\"end_to_end_to_two_of_each\":{:.3}}}",
        end / publish,
        end / consume,
        end / bound
    );
}
