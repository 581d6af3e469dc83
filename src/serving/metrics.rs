//! The metrics of a process, in the format that Prometheus scrapes. They are put together when they are asked for: what they
//! tell is kept elsewhere.

use std::time::Duration;

use dissent_actors::ProcessHealth;
use dissent_queues::BrokerStatus;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use super::status::ServiceStatus;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labelled {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queue {
    queue: String,
}

/// All metrics of a process, as OpenMetrics text.
///
/// # Errors
/// If they cannot be written as text.
pub(super) async fn text(status: &ServiceStatus) -> Result<String, std::fmt::Error> {
    let queues = status.broker.queues().await;
    let mut registry = Registry::with_prefix("dissent");
    experiment(&mut registry, status);
    waits(&mut registry, status.health.clone()).await;
    if let Some(status) = status.broker.status() {
        broker(&mut registry, &status);
    }
    let (messages, consumers) = (Family::<Queue, Gauge>::default(), Family::<Queue, Gauge>::default());
    for found in queues {
        let queue = Queue { queue: found.name };
        messages.get_or_create(&queue).set(i64::from(found.messages));
        consumers.get_or_create(&queue).set(i64::from(found.consumers));
    }
    registry.register("queue_messages", "Messages waiting in a queue", messages);
    registry.register("queue_consumers", "Consumers of a queue, over all processes", consumers);
    process(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(name, help, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(name, help, ConstCounter::new(value));
}

fn experiment(registry: &mut Registry, status: &ServiceStatus) {
    let health = &status.health;
    let progress = health.progress.borrow().clone();
    let prompts = Family::<Labelled, Gauge>::default();
    let counts = progress.counts;
    for (state, count) in [
        ("expected", counts.expected),
        ("admitted", counts.admitted),
        ("sampled", counts.sampled),
        ("scored", counts.scored),
        ("measured", counts.measured),
        ("set_aside", counts.set_aside),
    ] {
        prompts.get_or_create(&Labelled { state }).set(i64::from(count));
    }
    registry.register("prompts", "Prompts of the current round that have come so far", prompts);
    gauge(registry, "rounds", "Rounds planned", progress.rounds.into());
    gauge(registry, "round", "The current round, from 0", progress.round.unwrap_or_default().into());
    gauge(registry, "comparisons", "Comparisons put up in the current round", progress.comparisons.into());
    gauge(registry, "judgements", "Judgements of them so far", progress.judgements);
    gauge(registry, "judgements_wanted", "Judgements that are enough", progress.judgements_wanted);
    gauge(
        registry,
        "waits_for_people",
        "1 while only judgements can bring it on",
        progress.waits_for_people.into(),
    );
    gauge(
        registry,
        "paused",
        "1 while an operator has to start or resume it",
        progress.standing.is_paused().into(),
    );
    gauge(registry, "finished", "1 once everything planned is done", progress.finished.into());
    let (step, steps) = progress.training.unwrap_or_default();
    gauge(registry, "training_step", "Steps done of the training under way", step);
    gauge(registry, "training_steps", "Its steps in all", steps);
    if let Some(age) = health.lease_age() {
        let seconds = ConstGauge::new(age.as_secs_f64());
        registry.register_with_unit(
            "lease_age",
            "Since the training last gave a sign of life",
            Unit::Seconds,
            seconds,
        );
    }
    counter(registry, "events", "Events of the experiment that this process knows", progress.events);
    counter(registry, "tokens_sampled", "Response tokens sampled by this process", health.meter.tokens());
    if let Some(appends) = &health.appends {
        let help = "From a decision to its being durable";
        registry.register_with_unit("append", help, Unit::Seconds, appends.clone());
    }
}

/// How long the oldest of what lies in the queues has waited.
async fn waits(registry: &mut Registry, health: ProcessHealth) {
    let waited = tokio::task::spawn_blocking(move || health.longest_wait()).await;
    // A log that cannot be read is reported where history is written.
    let Ok(Ok(waited)) = waited else { return };
    let seconds = ConstGauge::new(waited.unwrap_or_default().as_secs_f64());
    let help = "How long the oldest event has waited for a step to answer it";
    registry.register_with_unit("longest_wait", help, Unit::Seconds, seconds);
}

fn broker(registry: &mut Registry, status: &BrokerStatus) {
    gauge(registry, "broker_connected", "1 while RabbitMQ is there", status.connected.into());
    gauge(registry, "broker_blocked", "1 while RabbitMQ takes no messages", status.blocked.into());
    gauge(registry, "broker_unconfirmed", "Messages that RabbitMQ has not confirmed", status.unconfirmed);
    gauge(registry, "relayed_position", "The log is relayed up to here", status.relayed_to);
    counter(registry, "redelivered", "Deliveries that had been made before", status.redelivered);
    counter(registry, "duplicates_dropped", "Deliveries that were already here", status.duplicates_dropped);
    counter(registry, "dead_letters", "Messages put among the dead letters by this process", status.dead);
    counter(registry, "parked", "Messages parked after their last attempt", status.parked);
    counter(registry, "reconnects", "Times that a connection was lost", status.reconnects);
}

/// Memory and processor time, as Prometheus' own clients name them; left out where the system does not tell.
fn process(registry: &mut Registry) {
    let Ok(statm) = std::fs::read_to_string("/proc/self/statm") else { return };
    let pages = |field: usize| statm.split_whitespace().nth(field)?.parse::<u64>().ok();
    if let Some(resident) = pages(1) {
        let bytes = resident.saturating_mul(rustix::param::page_size() as u64);
        gauge(registry, "resident_memory_bytes", "Memory in use", bytes);
    }
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = Duration::new(used.tv_sec.unsigned_abs(), u32::try_from(used.tv_nsec).unwrap_or_default());
    let used = ConstCounter::new(seconds.as_secs_f64());
    registry.register_with_unit("cpu", "Processor time used", Unit::Seconds, used);
}
