//! The metrics of a process in the OpenMetrics format. Each scrape reads the values where they are kept.

use std::time::Duration;

use dissent_actors::{ProcessHealth, Progress};
use dissent_queues::{BrokerStatus, QueueStats};
use prometheus_client::encoding::{
    EncodeLabelSet,
    text::{encode, encode_registry},
};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
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
    let stats = status.broker.queues().await;
    let mut registry = Registry::with_prefix("dissent");
    let health = &status.health;
    let progress = health.progress.borrow().clone();
    experiment(&mut registry, &progress);
    if let Some(age) = health.lease_age() {
        lease_age(&mut registry, age);
    }
    tokens_sampled(&mut registry, health.meter.tokens());
    if let Some(appends) = &health.appends {
        append_seconds(&mut registry, appends.clone());
    }
    if let Some(waited) = waited(health.clone()).await {
        longest_wait(&mut registry, waited);
    }
    if let Some(status) = status.broker.status() {
        broker(&mut registry, &status);
    }
    queues(&mut registry, stats);
    process(&mut registry);
    let mut standard = Registry::default();
    standard_process(&mut standard);
    written(&registry, &standard)
}

/// The metrics of this program, then the standard ones, as one text.
fn written(registry: &Registry, standard: &Registry) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    encode_registry(&mut text, registry)?;
    encode(&mut text, standard)?;
    Ok(text)
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(name, help, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(name, help, ConstCounter::new(value));
}

fn experiment(registry: &mut Registry, progress: &Progress) {
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
        progress.status.is_paused().into(),
    );
    gauge(registry, "finished", "1 once everything planned is done", progress.finished.into());
    let (step, steps) = progress.training.unwrap_or_default();
    gauge(registry, "training_step", "Steps done of the training under way", step);
    gauge(registry, "training_steps", "Its steps in all", steps);
    counter(registry, "events", "Events of the experiment that this process knows", progress.events);
}

fn lease_age(registry: &mut Registry, age: Duration) {
    let seconds = ConstGauge::new(age.as_secs_f64());
    let help = "Since the training last gave a sign of life";
    registry.register_with_unit("lease_age", help, Unit::Seconds, seconds);
}

fn tokens_sampled(registry: &mut Registry, tokens: u64) {
    counter(registry, "tokens_sampled", "Response tokens sampled by this process", tokens);
}

fn append_seconds(registry: &mut Registry, appends: Histogram) {
    registry.register_with_unit("append", "From a decision to its being durable", Unit::Seconds, appends);
}

/// How long the oldest unanswered event has waited. A log that cannot be read is reported where history is
/// written.
async fn waited(health: ProcessHealth) -> Option<Duration> {
    let waited = tokio::task::spawn_blocking(move || health.longest_wait()).await;
    Some(waited.ok()?.ok()?.unwrap_or_default())
}

fn longest_wait(registry: &mut Registry, waited: Duration) {
    let help = "How long the oldest event has waited for a step to answer it";
    registry.register_with_unit("longest_wait", help, Unit::Seconds, ConstGauge::new(waited.as_secs_f64()));
}

fn queues(registry: &mut Registry, stats: Vec<QueueStats>) {
    let (messages, consumers) = (Family::<Queue, Gauge>::default(), Family::<Queue, Gauge>::default());
    for found in stats {
        let queue = Queue { queue: found.name };
        messages.get_or_create(&queue).set(i64::from(found.messages));
        consumers.get_or_create(&queue).set(i64::from(found.consumers));
    }
    registry.register("queue_messages", "Messages waiting in a queue", messages);
    registry.register("queue_consumers", "Consumers of a queue, over all processes", consumers);
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

/// Memory and processor time under the names of this program, which its dashboard queries.
fn process(registry: &mut Registry) {
    if let Some(stat) = ProcessStat::read() {
        gauge(registry, "resident_memory_bytes", "Memory in use", stat.resident_bytes);
    }
    let used = ConstCounter::new(cpu_seconds());
    registry.register_with_unit("cpu", "Processor time used", Unit::Seconds, used);
}

/// The metrics that Prometheus' own clients give of every process, under their names. One that the system
/// does not tell is left out.
fn standard_process(registry: &mut Registry) {
    let cpu = ConstCounter::new(cpu_seconds());
    registry.register_with_unit("process_cpu", "Total user and system CPU time spent", Unit::Seconds, cpu);
    if let Some(stat) = ProcessStat::read() {
        let mut bytes = |name: &str, help: &str, bytes: u64| {
            let bytes = ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
            registry.register_with_unit(name, help, Unit::Bytes, bytes);
        };
        bytes("process_resident_memory", "Resident memory size", stat.resident_bytes);
        bytes("process_virtual_memory", "Virtual memory size", stat.virtual_bytes);
        if let Some(start) = stat.start_seconds() {
            let help = "Start time of the process since the Unix epoch";
            registry.register_with_unit("process_start_time", help, Unit::Seconds, ConstGauge::new(start));
        }
    }
    if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
        // The descriptor that lists the folder is not counted.
        let open = descriptors.count().saturating_sub(1);
        gauge(registry, "process_open_fds", "Number of open file descriptors", open as u64);
    }
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if let Some(max) = limits.current {
        gauge(registry, "process_max_fds", "Maximum number of open file descriptors", max);
    }
}

fn cpu_seconds() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec.unsigned_abs(), u32::try_from(used.tv_nsec).unwrap_or_default()).as_secs_f64()
}

/// What Linux tells of this process in `/proc/self/stat`.
struct ProcessStat {
    virtual_bytes: u64,
    resident_bytes: u64,
    /// From the boot of the system to the start of the process, in clock ticks.
    start_ticks: u64,
}

impl ProcessStat {
    /// None where the system does not tell.
    fn read() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/self/stat").ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The name of the program, in parentheses, may hold anything; `state` follows it as field 3.
        let (_, fields) = stat.rsplit_once(')')?;
        let field = |number: usize| fields.split_whitespace().nth(number - 3)?.parse::<u64>().ok();
        Some(Self {
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)?.saturating_mul(rustix::param::page_size() as u64),
        })
    }

    /// The start of the process in seconds since the Unix epoch.
    fn start_seconds(&self) -> Option<f64> {
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let boot = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse::<u64>().ok()?;
        Some(boot as f64 + self.start_ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const DASHBOARD: &str = include_str!("../../docker/grafana/dashboards/dissent.json");

    /// All metrics that a process can have.
    fn everything() -> String {
        let mut registry = Registry::with_prefix("dissent");
        let progress = Progress { training: Some((1, 2)), ..Progress::default() };
        experiment(&mut registry, &progress);
        lease_age(&mut registry, Duration::from_secs(3));
        tokens_sampled(&mut registry, 5);
        append_seconds(&mut registry, Histogram::new([0.1, 1.0]));
        longest_wait(&mut registry, Duration::from_secs(1));
        let status = BrokerStatus {
            connected: true,
            blocked: false,
            unconfirmed: 1,
            relayed_to: 2,
            redelivered: 3,
            duplicates_dropped: 4,
            dead: 5,
            parked: 6,
            reconnects: 7,
            steady: true,
        };
        broker(&mut registry, &status);
        let stats = QueueStats { name: "generation.e".to_owned(), messages: 1, consumers: 2 };
        queues(&mut registry, vec![stats]);
        process(&mut registry);
        let mut standard = Registry::default();
        standard_process(&mut standard);
        written(&registry, &standard).unwrap()
    }

    /// The names of the samples, as a query names them.
    fn names(text: &str) -> BTreeSet<&str> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.filter_map(|line| line.split([' ', '{']).next()).collect()
    }

    #[test]
    fn every_metric_that_the_dashboard_queries_exists() {
        let text = everything();
        let names = names(&text);
        let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
        let mut queried = 0;
        for target in targets {
            let query = target["expr"].as_str().unwrap();
            let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            for name in words.filter(|word| word.starts_with("dissent_") || word.starts_with("process_")) {
                assert!(names.contains(name), "{name} in {query}");
                queried += 1;
            }
        }
        assert!(queried >= 15, "{queried}");
    }

    #[test]
    fn the_standard_process_metrics_have_their_own_names_and_the_old_ones_stay() {
        let text = everything();
        let names = names(&text);
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_start_time_seconds",
            "process_open_fds",
            "process_max_fds",
            "dissent_resident_memory_bytes",
            "dissent_cpu_seconds_total",
        ] {
            assert!(names.contains(name), "{name}");
        }
        assert_eq!(text.matches("# EOF").count(), 1);
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn the_start_of_the_process_is_before_now_and_after_the_boot() {
        let stat = ProcessStat::read().unwrap();
        let now = dissent_actors::now_us() as f64 / 1e6;
        let start = stat.start_seconds().unwrap();
        assert!(start <= now + 1.0 && start > now - 86_400.0, "{start} {now}");
        assert!(stat.resident_bytes > 0 && stat.virtual_bytes >= stat.resident_bytes);
        let odd = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 99 4096 2 0";
        let stat = ProcessStat::parse(odd).unwrap();
        assert_eq!((stat.start_ticks, stat.virtual_bytes), (99, 4096));
    }
}
