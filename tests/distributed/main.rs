//! Experiments on RabbitMQ give the same history in one process and in several.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dead;
mod fleet;
mod forgetting;
#[path = "../../queues/tests/broker/node.rs"]
mod node;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "some of it is for the tests of one process")]
mod support;
mod traces;
mod verdict;

use std::time::{Duration, Instant};

use fleet::{Fleet, FleetPlan, SERVER};
use node::Node;
use support::required::required;
use support::{Lab, Learning, Setup, succeeded};
use verdict::Outcome;

const LEARNS: Option<Learning> = Some(Learning { rounds: 2, steps: 4 });
const PATIENCE: Duration = Duration::from_secs(120);
/// Most steps have two workers.
const MIXED: [&str; 4] = [
    "none",
    "generation,reward,training",
    "generation,conflict,feedback,training",
    "reward,conflict,evaluation",
];

fn fleet_plan<'a>(node: &Node, name: &str, roles: &'a [&'a str]) -> FleetPlan<'a> {
    FleetPlan { name: name.to_owned(), url: node.url(), roles, lease_seconds: 60, clocks: None, apart: false }
}

#[test]
fn an_experiment_ends_the_same_in_one_process_and_in_many() {
    let Some(lab) = Lab::new(&Setup { learns: LEARNS, ..Setup::default() }) else { return };
    let Some(node) = required(Node::new()) else { return };
    lab.run("embedded");
    let embedded = Outcome::of(&lab, "embedded");
    for (name, roles) in [("alone", &["all"][..]), ("shared", &MIXED[..])] {
        let mut fleet = Fleet::new(&lab, fleet_plan(&node, name, roles));
        fleet.start_all();
        fleet.all_end(PATIENCE);
        Outcome::of(&lab, name).is_that_of(&embedded);
        succeeded(lab.dissent(name, &["replay", "lab", "--verify"]));
    }
}

/// Workers that know a name and a store fetch artifacts by hash, and fetch damaged ones again.
#[test]
fn workers_on_other_hosts_fetch_missing_and_damaged_artifacts() {
    let Some(lab) = Lab::new(&Setup { learns: LEARNS, ..Setup::default() }) else { return };
    let Some(node) = required(Node::new()) else { return };
    lab.run("embedded");
    let mut fleet = Fleet::new(&lab, FleetPlan { apart: true, ..fleet_plan(&node, "apart", &MIXED) });
    let damaged = lab.data_dir(&fleet.place(1).1);
    // The artifacts, and the links by which models find them.
    let fetched = || {
        let mut found = below(&damaged.join("artifacts"));
        found.extend(below(&damaged.join("inputs")));
        found.retain(|path| path.metadata().unwrap().len() > 1 << 16);
        found
    };
    // The worker is killed once it has its models.
    fleet.start(SERVER);
    fleet.start(1);
    fleet.has_said(1, "at work");
    fleet.kill(1);
    assert!(!fetched().is_empty(), "models are larger than that");
    for path in fetched() {
        std::fs::remove_file(&path).unwrap();
        std::fs::write(path, "not a model").unwrap();
    }
    (1..fleet.len()).for_each(|member| fleet.start(member));
    fleet.all_end(PATIENCE);
    assert!(fleet.said(1).contains("fetching a damaged artifact again"), "{}", fleet.said(1));
    Outcome::of(&lab, "apart").is_that_of(&Outcome::of(&lab, "embedded"));
}

/// Every file below a folder.
fn below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let paths = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] }).collect()
}

/// Waits until the metrics of the server satisfy `reached`. Fails after [`PATIENCE`] with the `goal`.
fn until(fleet: &mut Fleet<'_>, goal: &str, reached: impl Fn(&str) -> bool) {
    let begun = Instant::now();
    loop {
        let (_, metrics) = fleet.get(SERVER, "/metrics");
        if reached(&metrics) {
            return;
        }
        fleet.no_one_failed();
        let report = fleet.report();
        assert!(begun.elapsed() < PATIENCE, "no {goal} after {PATIENCE:?}: {metrics}{report}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A pause may take longer than RabbitMQ allows a consumer to hold a message.
#[test]
fn workers_release_their_messages_while_an_experiment_is_paused() {
    let learns = Some(Learning { rounds: 1, steps: 60 });
    let Some(lab) = Lab::new(&Setup { learns, ..Setup::default() }) else { return };
    let Some(node) = required(Node::new()) else { return };
    lab.run("embedded");
    let mut fleet = Fleet::new(&lab, fleet_plan(&node, "paused", &MIXED));
    fleet.start_all();
    let url = format!("http://{}", fleet.address(SERVER));
    let give = |action: &str| {
        succeeded(lab.dissent("paused", &["experiment", action, "lab", "--server", &url]));
    };
    for reached in ["dissent_prompts{state=\"sampled\"} ", "dissent_training_step "] {
        until(&mut fleet, reached, |metrics| {
            let found = metrics.lines().find_map(|line| line.strip_prefix(reached)?.parse::<u64>().ok());
            found.is_some_and(|count| count > 0)
        });
        give("pause");
        until(&mut fleet, "end of the consumers", |metrics| {
            let of_step =
                |line: &&str| line.starts_with("dissent_queue_consumers{queue=\"paused.generation.");
            let consumers: Vec<&str> = metrics.lines().filter(of_step).collect();
            consumers.len() == 1
                && consumers[0].ends_with(" 0")
                && !metrics.contains("dissent_lease_age_seconds")
        });
        give("resume");
    }
    fleet.all_end(PATIENCE);
    Outcome::of(&lab, "paused").is_that_of(&Outcome::of(&lab, "embedded"));
    let kinds: Vec<String> =
        lab.events("paused").into_iter().map(|recorded| recorded.event.event_type).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "experiment.resumed").count(), 2);
    assert!(kinds.iter().all(|kind| kind != "prompt.set_aside"));
    succeeded(lab.dissent("paused", &["replay", "lab", "--verify"]));
}

#[test]
fn processes_report_health_refuse_another_plan_and_stop_gracefully() {
    // Long enough to be stopped during the training.
    let learns = Some(Learning { rounds: 2, steps: 20_000 });
    let Some(lab) = Lab::new(&Setup { learns, ..Setup::default() }) else { return };
    let Some(node) = required(Node::new()) else { return };
    let mut fleet = Fleet::new(&lab, fleet_plan(&node, "health", &["none", "all"]));
    for member in 0..fleet.len() {
        fleet.start_with(member, &[]);
        fleet.has_said(member, "at work");
        assert_eq!(fleet.get(member, "/health"), (200, "alive\n".to_owned()));
        assert_eq!(fleet.get(member, "/ready"), (200, "ready\n".to_owned()));
        let (status, metrics) = fleet.get(member, "/metrics");
        assert_eq!(status, 200);
        assert!(metrics.contains("dissent_broker_connected 1") && metrics.ends_with("# EOF\n"), "{metrics}");
        assert!(metrics.contains("dissent_queue_messages{queue=\"health."), "{metrics}");
        assert!(metrics.contains("dissent_longest_wait_seconds "), "{metrics}");
    }
    another_plan_is_refused(&lab, &node, fleet.config());
    stopped_in_order(&lab, &mut fleet);
}

/// A worker with another plan than the server's exits with the difference.
fn another_plan_is_refused(lab: &Lab, node: &Node, config: &std::path::Path) {
    let other = config.with_file_name("other.toml");
    let text = std::fs::read_to_string(config).unwrap().replace("seed = 3", "seed = 4");
    std::fs::write(&other, text).unwrap();
    let mut worker = lab.dissent("other", &["worker", other.to_str().unwrap(), "--roles", "conflict"]);
    let output = worker.env("DISSENT_RABBITMQ_URL", node.url()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("seed was 3, now 4"), "{said}");
}

/// A worker that is stopped during a training gives its lease up at once. The server stops gracefully, too.
fn stopped_in_order(lab: &Lab, fleet: &mut Fleet<'_>) {
    let is_held = |metrics: &str| metrics.contains("dissent_lease_age_seconds");
    until(fleet, "training lease", is_held);
    for member in (0..fleet.len()).rev() {
        assert!(fleet.signal(member, "TERM"));
        let status = fleet.ended(member, PATIENCE);
        assert!(status.success(), "{status}: {}", fleet.report());
        if member != SERVER {
            until(fleet, "release of the training lease", |metrics| !is_held(metrics));
        }
    }
    let events = lab.events("health");
    let expired = |kind: &str| events.iter().filter(|recorded| recorded.event.event_type == kind).count();
    assert_eq!(expired("training.lease_expired"), 1, "the worker gives the lease up long before it expires");
}
