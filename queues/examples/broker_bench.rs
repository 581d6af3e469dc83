//! Throughput of the embedded broker for delivery and acknowledgement, over a log in memory and so without
//! disk, with one consumer on a current-thread runtime. Prints a JSON line for each prefetch.
//!
//! Also measures a new group's wait for its first event in a log of many experiments: a group of a late
//! experiment, and a group of all experiments, which reads the whole log.
//!
//! `cargo run --release -p dissent-queues --example broker_bench`
#![expect(clippy::print_stdout, reason = "its output is its purpose")]
#![expect(clippy::unwrap_used, reason = "nothing to recover from in a benchmark")]
#![expect(dead_code, reason = "the log in memory has parts for the tests")]

#[path = "../tests/broker/memory_log.rs"]
mod memory_log;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dissent_domain::event::EventType;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog;
use dissent_queues::{Broker, EmbeddedBroker, EmbeddedOptions, Subscription};

use memory_log::{Durability, MemoryLog};

const EVENTS: usize = 200_000;
/// Events and experiments of the log in which a group begins.
const LOG_EVENTS: usize = 1_000_000;
const EXPERIMENTS: usize = 100;

/// Events per second.
async fn measure(prefetch: usize) -> f64 {
    let log = MemoryLog::new(Durability::Immediate);
    log.put(EventType::PromptAdmitted, EVENTS);
    let broker = EmbeddedBroker::new(log as Arc<dyn EventLog>, EmbeddedOptions::default());
    let subscription = Subscription {
        group: "bench".to_owned(),
        experiment: None,
        kinds: &[EventType::PromptAdmitted],
        prefetch,
        delivery_limit: 3,
        retry_delay: Duration::from_secs(1),
    };
    let mut consumer = broker.subscribe(subscription).unwrap();
    let begun = Instant::now();
    let mut done = 0;
    let mut held = Vec::with_capacity(prefetch);
    while done < EVENTS {
        held.push(consumer.next().await.unwrap());
        while held.len() < prefetch
            && let Some(delivery) = consumer.try_next()
        {
            held.push(delivery);
        }
        for delivery in held.drain(..) {
            delivery.ack().await.unwrap();
            done += 1;
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a count of events is small")]
    let events = EVENTS as f64;
    events / begun.elapsed().as_secs_f64()
}

/// Milliseconds until a new group has its only event, and the events that were read meanwhile.
async fn measure_start(log: &Arc<MemoryLog>, experiment: Option<ExperimentId>) -> (f64, u64) {
    let broker = EmbeddedBroker::new(Arc::clone(log) as Arc<dyn EventLog>, EmbeddedOptions::default());
    let subscription = Subscription {
        group: if experiment.is_some() { "one" } else { "all" }.to_owned(),
        experiment,
        kinds: &[EventType::RoundOpened],
        prefetch: 1,
        delivery_limit: 3,
        retry_delay: Duration::from_secs(1),
    };
    let (begun, read) = (Instant::now(), log.events_read());
    let mut consumer = broker.subscribe(subscription).unwrap();
    consumer.next().await.unwrap().ack().await.unwrap();
    (begun.elapsed().as_secs_f64() * 1000.0, log.events_read() - read)
}

async fn measure_starts() {
    let log = MemoryLog::new(Durability::Immediate);
    let name = |number| ExperimentId::new(format!("experiment-{number}")).unwrap();
    for number in 0..EXPERIMENTS {
        log.put_for(&name(number), EventType::PromptAdmitted, LOG_EVENTS / EXPERIMENTS);
    }
    let late = name(EXPERIMENTS - 1);
    log.put_for(&late, EventType::RoundOpened, 1);
    for (group, experiment) in [("of one experiment", Some(late)), ("of all experiments", None)] {
        let (ms, read) = measure_start(&log, experiment).await;
        println!(
            "{{\"benchmark\":\"embedded_new_group\",\"group\":\"{group}\",\"events\":{LOG_EVENTS},\
             \"experiments\":{EXPERIMENTS},\"ms\":{ms:.2},\"events_read\":{read}}}"
        );
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    measure_starts().await;
    for prefetch in [1, 64] {
        let rate = measure(prefetch).await;
        println!(
            "{{\"benchmark\":\"embedded_deliver_ack\",\"prefetch\":{prefetch},\"events\":{EVENTS},\"events_per_second\":{rate:.0}}}"
        );
    }
}
