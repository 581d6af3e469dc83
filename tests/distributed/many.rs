//! Several experiments and several installations on one RabbitMQ.

use std::process::{Child, Stdio};

use serde_json::Value;

use crate::node::Node;
use crate::support::host::Host;
use crate::support::required::required;
use crate::support::{Lab, Learning, Setup, succeeded};

const EXPERIMENTS: [(&str, &[&str]); 3] =
    [("one", &[]), ("two", &["experiment.seed=7"]), ("three", &["conflict.rule=gap"])];

fn lab() -> Option<Lab> {
    let learns = Some(Learning { rounds: 1, steps: 3 });
    Lab::new(&Setup { prompts: 6, samples: 3, max_new_tokens: 8, learns, ..Setup::default() })
}

/// The options that make an experiment of the configuration of a lab.
fn variant(lab: &Lab, name: &str, settings: &[&str]) -> Vec<String> {
    let name = format!("experiment.name={name}");
    let settings = std::iter::once(name.as_str()).chain(settings.iter().copied());
    let options = settings.flat_map(|setting| ["--set".to_owned(), setting.to_owned()]);
    std::iter::once(lab.config().to_str().unwrap().to_owned()).chain(options).collect()
}

fn command(lab: &Lab, data: &str, words: &[&str], more: &[String]) -> String {
    let words: Vec<&str> = words.iter().copied().chain(more.iter().map(String::as_str)).collect();
    String::from_utf8(succeeded(lab.dissent(data, &words)).stdout).unwrap()
}

fn state_hash(lab: &Lab, data: &str, name: &str) -> Value {
    let shown = command(lab, data, &["experiment", "--json", "show", name], &[]);
    serde_json::from_str::<Value>(&shown).unwrap()["overview"]["state_hash"].clone()
}

/// The settings of a server, or of a worker, with RabbitMQ and the store of an installation.
fn settings(lab: &Lab, installation: &str, more: &str) -> String {
    let path = lab.data_dir(&format!("{installation}.settings.toml"));
    let store = lab.data_dir(&format!("{installation}-store"));
    let text = format!(
        "[broker]\nkind = \"rabbitmq\"\n[artifacts]\nurl = \"file://{}\"\n[runtime]\nprovider = \"cpu\"\nthreads = 1\n{more}",
        store.display()
    );
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A worker of every experiment of an installation.
struct Worker(Child);

impl Worker {
    fn start(lab: &Lab, node: &Node, settings: &str, name: &str, roles: &str) -> Self {
        let log = std::fs::File::create(lab.data_dir(&format!("{name}.log"))).unwrap();
        let mut command = lab.dissent(name, &["worker", settings, "--roles", roles]);
        command.env("DISSENT_RABBITMQ_URL", node.url()).env("DISSENT_LOG", "info,lapin=error");
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn three_experiments_on_one_server_with_workers_end_as_each_does_alone() {
    let Some(lab) = lab() else { return };
    let Some(node) = required(Node::new()) else { return };
    let expected = EXPERIMENTS.map(|(name, set)| {
        let data = format!("alone-{name}");
        command(&lab, &data, &["run"], &variant(&lab, name, set));
        state_hash(&lab, &data, name)
    });
    let file = settings(&lab, "many", "");
    let url = node.url();
    let arguments = ["--config", &file, "--roles", "conflict,feedback"];
    let mut host = Host::launch(&lab, "many", &arguments, &[("DISSENT_RABBITMQ_URL", &url)]);
    host.until("it is ready", |host| host.text().contains("running steps").then_some(()));
    let _workers = [
        Worker::start(&lab, &node, &file, "worker-1", "generation,reward"),
        Worker::start(&lab, &node, &file, "worker-2", "generation,training"),
        Worker::start(&lab, &node, &file, "worker-3", "reward,evaluation,training"),
    ];
    for (name, set) in EXPERIMENTS {
        command(&lab, "many", &["experiment", "create"], &variant(&lab, name, set));
        host.give(&["experiment", "start", name]);
    }
    host.until_finished(&["one", "two", "three"]);
    host.stop();
    assert_eq!(EXPERIMENTS.map(|(name, _)| state_hash(&lab, "many", name)), expected);
    for (name, _) in EXPERIMENTS {
        command(&lab, "many", &["replay", name, "--verify"], &[]);
    }
}

#[test]
fn two_installations_with_default_settings_share_one_rabbitmq() {
    let Some(lab) = lab() else { return };
    let Some(node) = required(Node::new()) else { return };
    let url = node.url();
    // The same experiment in both: nothing but the installation tells them apart.
    let mut hosts: Vec<(Host<'_>, Worker)> = ["left", "right"]
        .map(|installation| {
            let file = settings(&lab, installation, "");
            let arguments = ["--config", &file, "--roles", "conflict,feedback"];
            let mut host = Host::launch(&lab, installation, &arguments, &[("DISSENT_RABBITMQ_URL", &url)]);
            host.until("it is ready", |host| host.text().contains("running steps").then_some(()));
            let name = format!("worker-{installation}");
            (host, Worker::start(&lab, &node, &file, &name, "generation,reward,evaluation,training"))
        })
        .into_iter()
        .collect();
    for (host, _) in &hosts {
        command(&lab, host.data(), &["experiment", "create"], &variant(&lab, "same", &[]));
        host.give(&["experiment", "start", "same"]);
    }
    for (host, _) in &mut hosts {
        host.until_finished(&["same"]);
    }
    let hashes = ["left", "right"].map(|data| state_hash(&lab, data, "same"));
    assert_eq!(hashes[0], hashes[1]);
    for (host, _) in hosts {
        let text = host.text();
        assert!(!text.contains("dead letter") && !text.contains("ERROR"), "{text}");
        host.stop();
    }
}

#[test]
fn a_copied_data_folder_is_refused_with_the_holder_and_a_fresh_one_runs_beside() {
    let Some(lab) = lab() else { return };
    let Some(node) = required(Node::new()) else { return };
    let url = node.url();
    let file = settings(&lab, "original", "");
    let arguments = ["--config", &file];
    let variables = [("DISSENT_RABBITMQ_URL", url.as_str())];
    let mut host = Host::launch(&lab, "original", &arguments, &variables);
    host.until("it is ready", |host| host.text().contains("running steps").then_some(()));
    let (from, to) = (lab.data_dir("original"), lab.data_dir("copied"));
    let mut copying = std::process::Command::new("cp");
    copying.arg("-r").arg(&from).arg(&to);
    // The socket cannot be copied.
    let _copied = copying.output().unwrap();
    std::fs::remove_file(to.join("dissent.sock")).ok();
    let mut second = lab.dissent("copied", &["serve", "--listen", "127.0.0.1:0", "--config", &file]);
    let refused = second.envs(variables).output().unwrap();
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{error}");
    let process = format!("process {}", host.id());
    assert!(
        error.contains(&process) && error.contains("since") && error.contains("broker.prefix"),
        "{error}"
    );
    let mut fresh = Host::launch(&lab, "fresh", &arguments, &variables);
    fresh.until("it is ready", |host| host.text().contains("running steps").then_some(()));
    fresh.stop();
    host.stop();
}

#[test]
fn a_worker_that_does_not_know_its_server_is_refused_with_the_ways_out() {
    let Some(lab) = lab() else { return };
    let Some(node) = required(Node::new()) else { return };
    let path = lab.data_dir("stranger.toml");
    std::fs::write(&path, "[broker]\nkind = \"rabbitmq\"\n").unwrap();
    let mut worker = lab.dissent("stranger", &["worker", path.to_str().unwrap()]);
    let refused = worker.env("DISSENT_RABBITMQ_URL", node.url()).output().unwrap();
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{error}");
    for way_out in ["--server", "[artifacts]", "broker.prefix"] {
        assert!(error.contains(way_out), "{way_out}: {error}");
    }
}
