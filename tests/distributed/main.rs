//! Experiments on RabbitMQ have the same history in one process and in several.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dead;
#[allow(dead_code, reason = "other test programs use the rest")]
mod fleet;
mod forgetting;
mod many;
#[path = "../../queues/tests/broker/node.rs"]
mod node;
mod outcome;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "other test programs use the rest")]
mod support;
mod traces;

use std::time::{Duration, Instant};

use fleet::{Fleet, FleetPlan, SERVER};
use node::Node;
use outcome::Outcome;
use support::required::required;
use support::{Lab, Learning, Setup, succeeded};

const LEARNS: Option<Learning> = Some(Learning { rounds: 2, steps: 4 });
const TIME_LIMIT: Duration = Duration::from_secs(120);
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
        fleet.wait_for_all(TIME_LIMIT);
        Outcome::of(&lab, name).assert_equals(&embedded);
        succeeded(lab.dissent(name, &["replay", "lab", "--verify"]));
    }
}

/// Workers fetch the artifacts of a shared store by hash, and fetch damaged ones again.
#[test]
fn workers_on_other_hosts_fetch_missing_and_damaged_artifacts() {
    let Some(lab) = Lab::new(&Setup { learns: LEARNS, ..Setup::default() }) else { return };
    let Some(node) = required(Node::new()) else { return };
    lab.run("embedded");
    let mut fleet = Fleet::new(&lab, FleetPlan { apart: true, ..fleet_plan(&node, "apart", &MIXED) });
    let damaged = lab.data_dir(&fleet.config_and_data(1).1);
    // The artifacts, and the links through which models are opened.
    let fetched = || {
        let mut found = below(&damaged.join("artifacts"));
        found.extend(below(&damaged.join("inputs")));
        found.retain(|path| path.metadata().unwrap().len() > 1 << 16);
        found
    };
    // The worker is killed after it has fetched its models.
    fleet.start(SERVER);
    fleet.start(1);
    fleet.wait_for_output(1, "working on experiment");
    fleet.kill(1);
    assert!(!fetched().is_empty(), "the worker has fetched no model");
    for path in fetched() {
        std::fs::remove_file(&path).unwrap();
        std::fs::write(path, "not a model").unwrap();
    }
    (1..fleet.len()).for_each(|member| fleet.start(member));
    fleet.wait_for_all(TIME_LIMIT);
    assert!(fleet.output_text(1).contains("fetching a damaged artifact again"), "{}", fleet.output_text(1));
    Outcome::of(&lab, "apart").assert_equals(&Outcome::of(&lab, "embedded"));
}

/// Returns every file below a folder.
fn below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let paths = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] }).collect()
}

/// Waits until the metrics of the server satisfy `reached`. Fails after [`TIME_LIMIT`] with the `goal`.
fn until(fleet: &mut Fleet<'_>, goal: &str, reached: impl Fn(&str) -> bool) {
    let begun = Instant::now();
    loop {
        let (_, metrics) = fleet.get(SERVER, "/metrics");
        if reached(&metrics) {
            return;
        }
        fleet.assert_no_failure();
        let report = fleet.report();
        assert!(begun.elapsed() < TIME_LIMIT, "no {goal} after {TIME_LIMIT:?}: {metrics}{report}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A pause may last longer than RabbitMQ allows a consumer to hold a message.
#[test]
fn workers_release_their_messages_while_an_experiment_is_paused() {
    let learns = Some(Learning { rounds: 1, steps: 60 });
    let Some(lab) = Lab::new(&Setup { learns, ..Setup::default() }) else { return };
    let Some(node) = required(Node::new()) else { return };
    lab.run("embedded");
    let mut fleet = Fleet::new(&lab, fleet_plan(&node, "paused", &MIXED));
    fleet.start_all();
    let url = format!("http://{}", fleet.address(SERVER));
    let command = |action: &str| {
        succeeded(lab.dissent("paused", &["experiment", action, "lab", "--server", &url]));
    };
    for reached in [
        "dissent_prompts{experiment=\"lab\",state=\"sampled\"} ",
        "dissent_training_step{experiment=\"lab\"} ",
    ] {
        until(&mut fleet, reached, |metrics| {
            let found = metrics.lines().find_map(|line| line.strip_prefix(reached)?.parse::<u64>().ok());
            found.is_some_and(|count| count > 0)
        });
        command("pause");
        until(&mut fleet, "end of the consumers", |metrics| {
            let of_step =
                |line: &&str| line.starts_with("dissent_queue_consumers{queue=\"paused.2.generation.");
            let consumers: Vec<&str> = metrics.lines().filter(of_step).collect();
            consumers.len() == 1
                && consumers[0].ends_with(" 0")
                && !metrics.contains("dissent_lease_age_seconds")
        });
        command("resume");
    }
    fleet.wait_for_all(TIME_LIMIT);
    Outcome::of(&lab, "paused").assert_equals(&Outcome::of(&lab, "embedded"));
    let kinds: Vec<String> =
        lab.events("paused").into_iter().map(|recorded| recorded.event.event_type).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "experiment.resumed").count(), 2);
    assert!(kinds.iter().all(|kind| kind != "prompt.set_aside"));
    succeeded(lab.dissent("paused", &["replay", "lab", "--verify"]));
}

#[test]
fn processes_report_health_refuse_another_plan_and_stop_gracefully() {
    // The training is long enough to be stopped.
    let learns = Some(Learning { rounds: 2, steps: 20_000 });
    let Some(lab) = Lab::new(&Setup { learns, ..Setup::default() }) else { return };
    let Some(node) = required(Node::new()) else { return };
    let mut fleet = Fleet::new(&lab, fleet_plan(&node, "health", &["none", "all"]));
    for member in 0..fleet.len() {
        fleet.start_with(member, &[]);
        fleet.wait_for_output(member, "running steps");
        let at_work = if member == SERVER { "hosting experiment" } else { "working on experiment" };
        fleet.wait_for_output(member, at_work);
        assert_eq!(fleet.get(member, "/health"), (200, "alive\n".to_owned()));
        assert_eq!(fleet.get(member, "/ready"), (200, "ready\n".to_owned()));
        let (status, metrics) = fleet.get(member, "/metrics");
        assert_eq!(status, 200);
        assert!(metrics.contains("dissent_broker_connected 1") && metrics.ends_with("# EOF\n"), "{metrics}");
        assert!(metrics.contains("dissent_queue_messages{queue=\"health.2."), "{metrics}");
        assert!(metrics.contains("dissent_longest_wait_seconds{"), "{metrics}");
    }
    another_plan_is_refused(&lab, &node, fleet.config());
    all_stop_gracefully(&lab, &mut fleet);
}

/// A worker with another plan than the server's exits with the difference.
fn another_plan_is_refused(lab: &Lab, node: &Node, config: &std::path::Path) {
    let other = config.with_file_name("other.toml");
    let text = std::fs::read_to_string(config).unwrap().replace("seed = 3", "seed = 4");
    std::fs::write(&other, text).unwrap();
    let mut worker = lab.dissent("other", &["worker", other.to_str().unwrap(), "--roles", "conflict"]);
    let output = worker.env("DISSENT_RABBITMQ_URL", node.url()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("seed was 3, now 4"), "{stderr}");
}

/// A worker that is stopped during a training releases its lease at once. The server stops gracefully too.
fn all_stop_gracefully(lab: &Lab, fleet: &mut Fleet<'_>) {
    let is_held = |metrics: &str| metrics.contains("dissent_lease_age_seconds");
    until(fleet, "training lease", is_held);
    for member in (0..fleet.len()).rev() {
        assert!(fleet.signal(member, "TERM"));
        let status = fleet.wait_for_end(member, TIME_LIMIT);
        assert!(status.success(), "{status}: {}", fleet.report());
        if member != SERVER {
            until(fleet, "release of the training lease", |metrics| !is_held(metrics));
        }
    }
    let events = lab.events("health");
    let expired = |kind: &str| events.iter().filter(|recorded| recorded.event.event_type == kind).count();
    assert_eq!(expired("training.lease_expired"), 1, "the lease was released before its minute had passed");
}
