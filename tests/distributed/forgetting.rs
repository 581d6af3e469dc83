//! Deletion of the queues of a finished experiment.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::fleet::{Fleet, SERVER};
use crate::node::Node;
use crate::support::required::required;
use crate::support::{Lab, Setup, succeeded};
use crate::{TIME_LIMIT, fleet_plan};

const ROLES: [&str; 2] = ["conflict", "generation,reward"];

/// Makes a `dissent queue` command for the experiment of a configuration.
fn queue(lab: &Lab, node: &Node, config: &Path, arguments: &[&str]) -> Command {
    let data = config.file_stem().unwrap().to_str().unwrap();
    let mut command = lab.dissent(data, &["queue"]);
    command.args(arguments).arg(config).env("DISSENT_RABBITMQ_URL", node.url());
    command
}

/// Returns the queues of the experiment, without that of all dead letters.
fn own_queues(lab: &Lab, node: &Node, config: &Path) -> Vec<String> {
    let Output { stdout, .. } = succeeded(queue(lab, node, config, &["stat", "--json"]));
    let found: Vec<Value> = serde_json::from_slice(&stdout).unwrap();
    let names = found.iter().map(|queue| queue["queue"].as_str().unwrap().to_owned());
    names.filter(|name| !name.ends_with(".dead")).collect()
}

#[test]
fn a_server_stopped_after_the_end_deletes_its_queues() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let Some(node) = required(Node::new()) else { return };
    let mut fleet = Fleet::new(&lab, fleet_plan(&node, "over", &ROLES));
    fleet.start_with(SERVER, &[]);
    fleet.start(1);
    assert!(fleet.wait_for_end(1, TIME_LIMIT).success(), "{}", fleet.report());
    fleet.wait_for_output(SERVER, "experiment ended");
    let before = own_queues(&lab, &node, fleet.config());
    assert!(before.iter().any(|name| name.starts_with("over.2.history.")), "{before:?}");
    assert!(before.iter().any(|name| name.starts_with("over.2.generation.")), "{before:?}");
    assert!(fleet.signal(SERVER, "TERM"));
    assert!(fleet.wait_for_end(SERVER, TIME_LIMIT).success(), "{}", fleet.report());
    assert_eq!(own_queues(&lab, &node, fleet.config()), [""; 0], "{}", fleet.report());
    // A later server declares and fills the queues again.
    fleet.start_all();
    fleet.wait_for_all(TIME_LIMIT);
}

#[test]
fn queue_forget_deletes_leftover_queues() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let Some(node) = required(Node::new()) else { return };
    let mut fleet = Fleet::new(&lab, fleet_plan(&node, "rest", &ROLES));
    let config = fleet.config().to_owned();
    fleet.start(SERVER);
    fleet.wait_for_output(SERVER, "running steps");
    fleet.kill(SERVER);
    let refused = queue(&lab, &node, &config, &["forget"]).output().unwrap();
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    succeeded(queue(&lab, &node, &config, &["forget", "--force"]));
    assert_eq!(own_queues(&lab, &node, &config), [""; 0]);
    // A new server declares and fills the queues again. With `--until-finished` it keeps them at its end.
    fleet.start_all();
    fleet.wait_for_all(TIME_LIMIT);
    assert!(!own_queues(&lab, &node, &config).is_empty());
    let deleted = String::from_utf8(succeeded(queue(&lab, &node, &config, &["forget"])).stdout).unwrap();
    assert!(deleted.contains("rest.2.history.") && deleted.contains("rest.2.reward."), "{deleted}");
    assert_eq!(own_queues(&lab, &node, &config), [""; 0]);
    succeeded(queue(&lab, &node, &config, &["forget"]));
}
