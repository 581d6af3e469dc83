//! The metrics of a process in the OpenMetrics format. Each scrape reads the current values.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use dissent_actors::{CacheStatus, ProcessHealth, Progress};
use dissent_domain::id::ExperimentId;
use dissent_queues::{BrokerStatus, QueueStats};
use prometheus_client::encoding::{
    EncodeLabelSet,
    text::{encode, encode_registry},
};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::broker_handle::BrokerHandle;
use super::status::{Hosting, ServiceStatus};

/// Experiments that have metrics of their own: more would make a scrape slow, and a time series each.
const EXPERIMENTS_MAX: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfExperiment {
    experiment: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PromptState {
    experiment: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabel {
    queue: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// An experiment of the process, as metrics show it.
struct Shown {
    name: ExperimentId,
    progress: Progress,
    is_halted: bool,
    /// `None` if its steps do not run here.
    health: Option<ProcessHealth>,
}

/// Returns all metrics of a process as OpenMetrics text.
///
/// # Errors
/// If a metric cannot be encoded.
pub(super) async fn text(status: &ServiceStatus) -> Result<String, std::fmt::Error> {
    let broker_handle = status.broker();
    let stats = match &broker_handle {
        Some(broker) => broker.queues().await,
        None => Vec::new(),
    };
    let mut registry = Registry::with_prefix("dissent");
    let shown = shown(status);
    experiments(&mut registry, &shown);
    lease_age(&mut registry, &shown);
    tokens_sampled(&mut registry, &shown);
    if let Some(appends) = shown.iter().find_map(|shown| shown.health.as_ref()?.appends.clone()) {
        append_seconds(&mut registry, appends);
    }
    longest_wait(&mut registry, oldest_event_ages(&shown).await);
    if let Some(status) = broker_handle.as_ref().and_then(BrokerHandle::status) {
        broker(&mut registry, &status);
    }
    queues(&mut registry, stats);
    models(&mut registry, status.cache.status());
    build_info(&mut registry);
    process(&mut registry);
    let mut standard = Registry::default();
    standard_process(&mut standard);
    encode_both(&registry, &standard)
}

/// Returns the experiments of a process that have metrics of their own, those that run first.
fn shown(status: &ServiceStatus) -> Vec<Shown> {
    let of = |(name, hosting): (ExperimentId, Hosting)| {
        let (progress, is_halted, health) = match hosting {
            Hosting::Running(health) => {
                let progress = health.progress.borrow().clone();
                (progress, false, Some(health))
            }
            Hosting::Ended(progress) => (progress, false, None),
            Hosting::Halted(_) => (Progress::default(), true, None),
            Hosting::Loading | Hosting::NoConfiguration => return None,
        };
        Some(Shown { name, progress, is_halted, health })
    };
    let mut shown: Vec<Shown> = status.experiments().into_iter().filter_map(of).collect();
    shown.sort_by_key(|shown| shown.health.is_none());
    shown.truncate(EXPERIMENTS_MAX);
    shown
}

/// Encodes the metrics of this program, then the standard ones, as one text.
fn encode_both(registry: &Registry, standard: &Registry) -> Result<String, std::fmt::Error> {
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

/// Registers a number of each experiment.
fn gauges(
    registry: &mut Registry,
    (name, help): (&str, &str),
    shown: &[Shown],
    value: impl Fn(&Progress) -> u64,
) {
    let family = Family::<OfExperiment, Gauge>::default();
    for shown in shown {
        let value = i64::try_from(value(&shown.progress)).unwrap_or(i64::MAX);
        family.get_or_create(&shown.label()).set(value);
    }
    registry.register(name, help, family);
}

impl Shown {
    fn label(&self) -> OfExperiment {
        OfExperiment { experiment: self.name.to_string() }
    }
}

fn experiments(registry: &mut Registry, shown: &[Shown]) {
    let prompts = Family::<PromptState, Gauge>::default();
    for shown in shown {
        let counts = shown.progress.counts;
        for (state, count) in [
            ("expected", counts.expected),
            ("admitted", counts.admitted),
            ("sampled", counts.sampled),
            ("scored", counts.scored),
            ("measured", counts.measured),
            ("set_aside", counts.set_aside),
        ] {
            let label = PromptState { experiment: shown.name.to_string(), state };
            prompts.get_or_create(&label).set(i64::from(count));
        }
    }
    registry.register(
        "prompts",
        "Prompts of the current round, by the state that they have reached",
        prompts,
    );
    let mut each = |name: &str, help: &str, value: &dyn Fn(&Progress) -> u64| {
        gauges(registry, (name, help), shown, value);
    };
    each("rounds", "Rounds of the plan", &|progress| progress.rounds.into());
    each("round", "Current round, from 0", &|progress| progress.round.unwrap_or_default().into());
    each("comparisons", "Comparisons requested in the current round", &|progress| {
        progress.comparisons.into()
    });
    each("judgements", "Judgements received in the current round", &|progress| progress.judgements);
    each("judgements_wanted", "Judgements that the current round waits for", &|progress| {
        progress.judgements_wanted
    });
    each("waits_for_people", "1 while the experiment waits for judgements of people", &|progress| {
        progress.waits_for_people.into()
    });
    each("paused", "1 while the experiment waits for an operator to start or resume it", &|progress| {
        progress.status.is_paused().into()
    });
    each("finished", "1 after the end of all rounds", &|progress| progress.finished.into());
    each("training_step", "Finished steps of the running training", &|progress| {
        progress.training.unwrap_or_default().0
    });
    each("training_steps", "All steps of the running training", &|progress| {
        progress.training.unwrap_or_default().1
    });
    let halted = Family::<OfExperiment, Gauge>::default();
    let events = Family::<OfExperiment, Counter>::default();
    for shown in shown {
        halted.get_or_create(&shown.label()).set(shown.is_halted.into());
        events.get_or_create(&shown.label()).inc_by(shown.progress.events);
    }
    registry.register("halted", "1 while the experiment waits for a retry after a failure", halted);
    registry.register("events", "Events of the experiment that this process has read", events);
}

/// Registers a time in seconds of each experiment that has one.
fn seconds(registry: &mut Registry, (name, help): (&str, &str), times: Vec<(OfExperiment, Duration)>) {
    let family = Family::<OfExperiment, Gauge<f64, AtomicU64>>::default();
    for (label, time) in times {
        family.get_or_create(&label).set(time.as_secs_f64());
    }
    registry.register_with_unit(name, help, Unit::Seconds, family);
}

fn lease_age(registry: &mut Registry, shown: &[Shown]) {
    let age = |shown: &Shown| Some((shown.label(), shown.health.as_ref()?.lease_age()?));
    let ages = shown.iter().filter_map(age).collect();
    seconds(registry, ("lease_age", "Time since the last heartbeat of the running training"), ages);
}

fn tokens_sampled(registry: &mut Registry, shown: &[Shown]) {
    let tokens = Family::<OfExperiment, Counter>::default();
    for (label, health) in shown.iter().filter_map(|shown| Some((shown.label(), shown.health.as_ref()?))) {
        tokens.get_or_create(&label).inc_by(health.meter.tokens());
    }
    registry.register("tokens_sampled", "Completion tokens sampled by this process", tokens);
}

fn append_seconds(registry: &mut Registry, appends: Histogram) {
    let help = "Time from a decision of the journal until its events are durable";
    registry.register_with_unit("append", help, Unit::Seconds, appends);
}

/// Returns the age of the oldest unanswered event of each experiment. An experiment is left out if the log
/// cannot be read: the journal reports that.
async fn oldest_event_ages(shown: &[Shown]) -> Vec<(OfExperiment, Duration)> {
    let healths: Vec<(OfExperiment, ProcessHealth)> =
        shown.iter().filter_map(|shown| Some((shown.label(), shown.health.clone()?))).collect();
    let reading = tokio::task::spawn_blocking(move || {
        let age = |(label, health): (OfExperiment, ProcessHealth)| {
            Some((label, health.longest_wait().ok()?.unwrap_or_default()))
        };
        healths.into_iter().filter_map(age).collect()
    });
    reading.await.unwrap_or_default()
}

fn longest_wait(registry: &mut Registry, ages: Vec<(OfExperiment, Duration)>) {
    seconds(registry, ("longest_wait", "Age of the oldest event that no step has answered"), ages);
}

fn models(registry: &mut Registry, status: CacheStatus) {
    gauge(registry, "models_loaded", "Models that are loaded", status.models as u64);
    let bytes = ConstGauge::new(i64::try_from(status.bytes).unwrap_or(i64::MAX));
    registry.register_with_unit("models_loaded", "Weights of the loaded models", Unit::Bytes, bytes);
    counter(registry, "model_loads", "Models that were loaded", status.loads);
    counter(registry, "model_evictions", "Models that were let go before their last use", status.evictions);
}

fn build_info(registry: &mut Registry) {
    let build = Family::<Build, Gauge>::default();
    build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
    registry.register("build_info", "The version of the program; always 1", build);
}

fn queues(registry: &mut Registry, stats: Vec<QueueStats>) {
    let (messages, consumers) =
        (Family::<QueueLabel, Gauge>::default(), Family::<QueueLabel, Gauge>::default());
    for stat in stats {
        let queue = QueueLabel { queue: stat.name };
        messages.get_or_create(&queue).set(i64::from(stat.messages));
        consumers.get_or_create(&queue).set(i64::from(stat.consumers));
    }
    registry.register("queue_messages", "Messages waiting in a queue", messages);
    registry.register("queue_consumers", "Consumers of a queue in all processes", consumers);
}

fn broker(registry: &mut Registry, status: &BrokerStatus) {
    gauge(
        registry,
        "broker_connected",
        "1 while the process is connected to RabbitMQ",
        status.connected.into(),
    );
    gauge(registry, "broker_blocked", "1 while RabbitMQ blocks publishing", status.blocked.into());
    gauge(registry, "broker_unconfirmed", "Messages that RabbitMQ has not confirmed", status.unconfirmed);
    gauge(
        registry,
        "relayed_position",
        "Position up to which the log is relayed to RabbitMQ and confirmed",
        status.relayed_to,
    );
    counter(registry, "redelivered", "Deliveries that RabbitMQ marks as redelivered", status.redelivered);
    counter(
        registry,
        "duplicates_dropped",
        "Deliveries dropped as duplicates of a held or settled message",
        status.duplicates_dropped,
    );
    counter(registry, "dead_letters", "Dead letters published by this process", status.dead);
    counter(registry, "parked", "Messages given up after their last attempt", status.parked);
    counter(registry, "reconnects", "Connections to RabbitMQ that were lost", status.reconnects);
}

/// Registers memory and processor time under the names of this program, which its dashboard queries.
fn process(registry: &mut Registry) {
    if let Some(stat) = ProcessStat::read() {
        gauge(registry, "resident_memory_bytes", "Resident memory of the process", stat.resident_bytes);
    }
    let used = ConstCounter::new(cpu_seconds());
    registry.register_with_unit("cpu", "Processor time of the process", Unit::Seconds, used);
}

/// Registers the standard process metrics of Prometheus' clients, under their names. A metric that the system
/// does not provide is omitted.
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

/// The fields of this process in Linux's `/proc/self/stat`.
struct ProcessStat {
    virtual_bytes: u64,
    resident_bytes: u64,
    /// From the boot of the system to the start of the process, in clock ticks.
    start_ticks: u64,
}

impl ProcessStat {
    /// Reads the fields; none if the system does not provide them.
    fn read() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/self/stat").ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The program's name, in parentheses, may contain any character. Field 3, `state`, follows it.
        let (_, fields) = stat.rsplit_once(')')?;
        let field = |number: usize| fields.split_whitespace().nth(number - 3)?.parse::<u64>().ok();
        Some(Self {
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)?.saturating_mul(rustix::param::page_size() as u64),
        })
    }

    /// Returns the start of the process in seconds since the Unix epoch.
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

    /// Encodes all metrics that a process can have.
    fn all_metrics() -> String {
        let mut registry = Registry::with_prefix("dissent");
        let progress = Progress { training: Some((1, 2)), ..Progress::default() };
        let name = ExperimentId::new("e").unwrap();
        let shown = [Shown { name, progress, is_halted: true, health: None }];
        experiments(&mut registry, &shown);
        let label = || vec![(shown[0].label(), Duration::from_secs(3))];
        seconds(&mut registry, ("lease_age", "x"), label());
        let tokens = Family::<OfExperiment, Counter>::default();
        tokens.get_or_create(&shown[0].label()).inc_by(5);
        registry.register("tokens_sampled", "x", tokens);
        append_seconds(&mut registry, Histogram::new([0.1, 1.0]));
        longest_wait(&mut registry, label());
        models(&mut registry, CacheStatus { models: 1, bytes: 2, loads: 3, evictions: 4 });
        build_info(&mut registry);
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
            taken_over_by: None,
            refused: None,
            start: 1,
        };
        broker(&mut registry, &status);
        let stats = QueueStats { name: "generation.e".to_owned(), messages: 1, consumers: 2 };
        queues(&mut registry, vec![stats]);
        process(&mut registry);
        let mut standard = Registry::default();
        standard_process(&mut standard);
        encode_both(&registry, &standard).unwrap()
    }

    /// Returns the names of the samples, as queries use them.
    fn names(text: &str) -> BTreeSet<&str> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.filter_map(|line| line.split([' ', '{']).next()).collect()
    }

    /// Returns the queries of the dashboard: of its panels, and of its variables.
    fn queries(dashboard: &serde_json::Value) -> Vec<&str> {
        let panels = dashboard["panels"].as_array().unwrap();
        let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let of_panels = targets.map(|target| target["expr"].as_str().unwrap());
        of_panels.chain(variables.iter().map(|variable| variable["query"].as_str().unwrap())).collect()
    }

    /// Returns the metrics that a query names.
    fn metrics_of(query: &str) -> impl Iterator<Item = &str> {
        let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        words.filter(|word| word.starts_with("dissent_") || word.starts_with("process_"))
    }

    #[test]
    fn every_metric_that_the_dashboard_queries_exists() {
        let text = all_metrics();
        let names = names(&text);
        let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
        let mut queried = BTreeSet::new();
        for query in queries(&dashboard) {
            for name in metrics_of(query) {
                assert!(names.contains(name), "{name} in {query}");
                queried.insert(name);
            }
        }
        assert!(queried.len() >= 25, "{queried:?}");
        for name in ["dissent_halted", "dissent_models_loaded_bytes", "dissent_build_info"] {
            assert!(queried.contains(name), "{name}");
        }
    }

    #[test]
    fn the_dashboard_shows_the_chosen_experiments_of_every_metric_that_has_one() {
        let text = all_metrics();
        let of_experiment = |name: &str| text.contains(&format!("\n{name}{{experiment="));
        let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
        let mut chosen = 0;
        for query in queries(&dashboard).into_iter().filter(|query| !query.starts_with("label_values")) {
            for name in metrics_of(query) {
                let is_chosen = query.contains(&format!("{name}{{experiment=~\"$experiment\"}}"));
                assert_eq!(is_chosen, of_experiment(name), "{name} in {query}");
                chosen += usize::from(is_chosen);
            }
        }
        assert!(chosen >= 10, "{chosen}");
        let variable = &dashboard["templating"]["list"][0];
        assert_eq!(variable["name"], "experiment");
        assert!(metrics_of(variable["query"].as_str().unwrap()).all(of_experiment));
    }

    #[test]
    fn standard_process_metrics_exist_beside_those_with_the_prefix() {
        let text = all_metrics();
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
    fn the_start_of_the_process_lies_within_the_last_day() {
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
