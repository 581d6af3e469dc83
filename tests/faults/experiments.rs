//! The experiments of the campaign, which one server hosts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dissent_domain::event::Recorded;

use crate::outcome::Outcome;
use crate::support::{Lab, succeeded};

/// Names of the experiments. The first two have the same policy.
pub(crate) const NAMES: [&str; 3] = ["first", "second", "third"];

/// The outcome of each experiment.
pub(crate) type Outcomes = BTreeMap<&'static str, Outcome>;

/// The settings in which an experiment differs from the configuration of the lab.
fn settings(lab: &Lab, name: &str) -> Vec<String> {
    let mut settings = vec![format!("experiment.name={name}")];
    match name {
        "second" => settings.push("experiment.seed=7".to_owned()),
        "third" => {
            let policy = lab.policy().with_file_name("llama-bf16");
            settings.extend(["conflict.rule=gap".to_owned(), format!("policy.path={}", policy.display())]);
        }
        _ => {}
    }
    settings
}

/// Runs a command with the configuration of an experiment.
fn configured(lab: &Lab, data: &str, words: &[&str], name: &str) {
    let mut command = lab.dissent(data, words);
    command.arg(lab.config());
    for setting in settings(lab, name) {
        command.arg("--set").arg(setting);
    }
    succeeded(command);
}

/// Creates an experiment, and lets it start.
fn create(lab: &Lab, data: &str, name: &str) {
    configured(lab, data, &["experiment", "create"], name);
    succeeded(lab.dissent(data, &["experiment", "start", name]));
}

/// Creates all experiments in a data folder, for a server that hosts them.
pub(crate) fn create_all(lab: &Lab, data: &str) {
    NAMES.iter().for_each(|name| create(lab, data, name));
}

/// Runs each experiment alone and without faults. Returns the outcomes, and the time that this takes.
pub(crate) fn references(lab: &Lab) -> (Outcomes, Duration) {
    let begun = Instant::now();
    let of = |name| {
        let data = format!("alone-{name}");
        create(lab, &data, name);
        configured(lab, &data, &["run"], name);
        (name, Outcome::of(lab, &data))
    };
    (NAMES.into_iter().map(of).collect(), begun.elapsed())
}

/// Reads the outcome of each experiment from a data folder.
pub(crate) fn outcomes(lab: &Lab, data: &str) -> Outcomes {
    let events = lab.events(data);
    let of = |name| {
        let own = events.iter().filter(|event| event.experiment.as_str() == name);
        (name, Outcome::of_events(&own.cloned().collect::<Vec<Recorded>>()))
    };
    NAMES.into_iter().map(of).collect()
}
