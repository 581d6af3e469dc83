//! `dissent dead list | show | retry | drop` against a private RabbitMQ.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use dissent_domain::event::{EventId, ExperimentFinished, NewEvent};
use dissent_domain::id::ExperimentId;
use dissent_queues::{
    Broker as _, Proposal, ProposalConsumer, ProposalReply, RabbitBroker, RabbitOptions, ServerIdentity,
};
use dissent_storage::MemoryLog;
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::TIME_LIMIT;
use crate::node::Node;
use crate::support::required::required;

const PREFIX: &str = "letters";
const POLL: Duration = Duration::from_millis(50);

/// A server and a worker on a node, a journal that the test replaces, and configurations.
struct TestBroker {
    folder: TempDir,
    url: String,
    server: Arc<RabbitBroker>,
    worker: Arc<RabbitBroker>,
    journal: ProposalConsumer,
}

impl TestBroker {
    async fn new(node: &Node) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = RabbitOptions::from_url(&node.url()).unwrap();
        options.prefix = PREFIX.to_owned();
        let log = Arc::new(MemoryLog::new());
        let identity = ServerIdentity {
            installation: "test".to_owned(),
            host: "here".to_owned(),
            process: std::process::id(),
            version: "test".to_owned(),
            since_us: 0,
        };
        let server = RabbitBroker::connect_server(options.clone(), log, identity).await.unwrap();
        server.host(&lab()).unwrap();
        let worker = RabbitBroker::connect_worker(options).await.unwrap();
        let journal = server.proposals().unwrap();
        let broker = Self { folder, url: node.url(), server, worker, journal };
        broker.write_config(
            "rabbitmq.toml",
            &format!("[broker]\nkind = \"rabbitmq\"\nprefix = \"{PREFIX}\"\n"),
        );
        broker.write_config("embedded.toml", "");
        broker
    }

    /// Writes the configuration of the demo, with a broker.
    fn write_config(&self, name: &str, broker: &str) {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/demo.toml");
        std::fs::write(self.path(name), std::fs::read_to_string(demo).unwrap() + broker).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, action: &str, config: &Path, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dissent"));
        command.args(["dead", action]).arg(config).args(more).env("DISSENT_RABBITMQ_URL", &self.url);
        // The tasks of this process must continue to run.
        tokio::task::block_in_place(|| command.output().unwrap())
    }

    /// Runs `dissent dead ACTION`, which succeeds, and returns its standard output.
    fn dead(&self, action: &str, more: &[&str]) -> String {
        let output = self.run(action, &self.path("rabbitmq.toml"), more);
        assert!(output.status.success(), "{action}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn listed(&self) -> Vec<Value> {
        let lines = self.dead("list", &["--json"]);
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until there are `count` dead letters, and returns them.
    async fn letters(&self, count: usize) -> Vec<Value> {
        let arrived = async {
            while self.server.dead_list(&[lab()], 10).await.unwrap().len() != count {
                tokio::time::sleep(POLL).await;
            }
        };
        timeout(TIME_LIMIT, arrived).await.expect("the number of dead letters is reached");
        self.listed()
    }

    /// Waits for the next proposal and replies to it. Returns the id of its event.
    async fn decide(&mut self, reply: ProposalReply) -> EventId {
        let delivery = timeout(TIME_LIMIT, self.journal.next()).await.expect("a proposal arrives").unwrap();
        let id = delivery.proposal.events[0].id;
        delivery.answer(reply).await.unwrap();
        id
    }

    /// Publishes a message that is not a proposal to the queue of proposals.
    async fn publish_nonsense(&self) {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let (queue, options) = (proposals(), BasicPublishOptions::default());
        let properties = BasicProperties::default().with_delivery_mode(2);
        channel
            .basic_publish("".into(), queue.as_str().into(), options, b"nonsense", properties)
            .await
            .unwrap();
        connection.close(200, "done".into()).await.unwrap();
    }
}

fn lab() -> ExperimentId {
    ExperimentId::new("lab").unwrap()
}

/// The queue of the proposals of the experiment.
fn proposals() -> String {
    format!("{PREFIX}.2.proposals.{}", EventId::of_experiment(&lab()).0.simple())
}

fn rejected() -> ProposalReply {
    ProposalReply::Rejected { reason: "the round is closed".to_owned() }
}

fn proposal() -> (EventId, Proposal) {
    let experiment = lab();
    let id = EventId::of_experiment(&experiment).caused("test", 0);
    let event = NewEvent::new(id, None, "test", 0, &ExperimentFinished { rounds: 1 }.into()).unwrap();
    (id, Proposal { experiment, cause: None, events: vec![event] })
}

#[test]
fn dead_letters_are_listed_shown_retried_and_dropped_by_commands() {
    let Some(node) = required(Node::new()) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut broker = TestBroker::new(&node).await;
        assert!(broker.listed().is_empty());
        assert_eq!(broker.dead("list", &[]).lines().count(), 1, "an empty list is one line");
        let (event, proposal) = proposal();
        broker.worker.propose(proposal).await.unwrap();
        broker.decide(rejected()).await;
        shown(&broker, event).await;
        retried(&mut broker, event).await;
        dropped(&broker).await;
        unreadable(&broker).await;
        refused(&broker);
    });
}

/// `list` prints the letter on one line, and `show` prints its content.
async fn shown(broker: &TestBroker, event: EventId) {
    let letters = broker.letters(1).await;
    let id = letters[0]["id"].as_str().unwrap();
    for (key, expected) in [
        ("kind", "proposal"),
        ("experiment", "lab"),
        ("queue", proposals().as_str()),
        ("reason", "the round is closed"),
    ] {
        assert_eq!(letters[0][key], expected, "{}", letters[0]);
    }
    assert_eq!(letters[0]["parked"], false);
    let line = broker.dead("list", &[]);
    assert!(
        line.starts_with(id) && line.contains("the round is closed") && line.lines().count() == 1,
        "{line}"
    );
    let whole: Value = serde_json::from_str(&broker.dead("show", &[id])).unwrap();
    assert_eq!(whole["id"], letters[0]["id"]);
    assert_eq!(whole["content"]["events"][0]["id"], event.to_string());
    assert_eq!(whole["content"]["events"][0]["type"], "experiment.finished");
}

/// `retry` sends the proposal back to the journal, which may reject it again.
async fn retried(broker: &mut TestBroker, event: EventId) {
    let first = broker.letters(1).await[0]["id"].as_str().unwrap().to_owned();
    assert!(broker.dead("retry", &[&first]).contains(&first));
    assert_eq!(broker.decide(rejected()).await, event);
    let second = broker.letters(1).await[0]["id"].as_str().unwrap().to_owned();
    assert_ne!(first, second, "the second rejection is a letter of its own");
    broker.dead("retry", &[&second]);
    assert_eq!(broker.decide(ProposalReply::Recorded(Vec::new())).await, event);
    assert!(broker.letters(0).await.is_empty(), "a recorded proposal leaves no letter");
}

/// `drop` removes one letter and leaves the others.
async fn dropped(broker: &TestBroker) {
    broker.publish_nonsense().await;
    broker.letters(1).await;
    broker.publish_nonsense().await;
    let letters = broker.letters(2).await;
    assert_eq!(broker.dead("list", &["--json", "--limit", "1"]).lines().count(), 1);
    let id = letters[0]["id"].as_str().unwrap();
    assert!(broker.dead("drop", &[id]).contains(id));
    let left = broker.letters(1).await;
    assert_eq!(left[0]["id"], letters[1]["id"]);
}

/// A message that cannot be read keeps its bytes, and is a dead letter again after a retry.
async fn unreadable(broker: &TestBroker) {
    let letters = broker.letters(1).await;
    let id = letters[0]["id"].as_str().unwrap();
    let whole: Value = serde_json::from_str(&broker.dead("show", &[id])).unwrap();
    assert_eq!(whole["content"]["unreadable_bytes"], 8, "{whole}");
    broker.dead("retry", &[id]);
    let again = timeout(TIME_LIMIT, async {
        loop {
            let letters = broker.letters(1).await;
            if letters[0]["id"] != id {
                return letters;
            }
        }
    });
    let again = again.await.expect("the message comes back");
    broker.dead("drop", &[again[0]["id"].as_str().unwrap()]);
    assert!(broker.letters(0).await.is_empty());
}

/// An unknown id and a configuration without RabbitMQ are bad input.
fn refused(broker: &TestBroker) {
    for action in ["show", "retry", "drop"] {
        let output = broker.run(action, &broker.path("rabbitmq.toml"), &["0123456789abcdef"]);
        assert_eq!(output.status.code(), Some(2), "{action}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("0123456789abcdef") && text.contains("dead list"), "{text}");
    }
    let output = broker.run("list", &broker.path("embedded.toml"), &[]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}
