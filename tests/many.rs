//! One server with several experiments: created, forked and judged while it runs, halted alone, and each with
//! the result that it has alone.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::Value;

use crate::support::host::Host;
use crate::support::required::optional;
use crate::support::{Lab, Learning, Setup, succeeded};

fn lab() -> Option<Lab> {
    let learns = Some(Learning { rounds: 1, steps: 3 });
    Lab::new(&Setup { prompts: 6, samples: 3, max_new_tokens: 8, learns, ..Setup::default() })
}

/// The options that make another experiment of the configuration of a lab.
fn variant<'a>(config: &'a Path, settings: &[&'a str]) -> Vec<&'a str> {
    let settings = settings.iter().flat_map(|setting| ["--set", setting]);
    std::iter::once(config.to_str().unwrap()).chain(settings).collect()
}

fn state_hash(lab: &Lab, data: &str, name: &str) -> Value {
    let output = succeeded(lab.dissent(data, &["experiment", "--json", "show", name]));
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["overview"]["state_hash"].clone()
}

/// Runs a variant alone, in a data folder of its own.
fn alone(lab: &Lab, settings: &[&str], name: &str) -> Value {
    let (config, data) = (lab.config(), format!("alone-{name}"));
    succeeded(lab.dissent(&data, &[&["run"], variant(&config, settings).as_slice()].concat()));
    state_hash(lab, &data, name)
}

const ONE: &[&str] = &["experiment.name=one"];
const TWO: &[&str] = &["experiment.name=two", "experiment.seed=7"];
const THREE: &[&str] = &["experiment.name=three", "conflict.rule=gap"];

#[test]
fn experiments_on_one_server_end_as_each_does_alone_and_share_their_models() {
    let Some(lab) = lab() else { return };
    let expected = [(ONE, "one"), (TWO, "two"), (THREE, "three")].map(|(set, name)| alone(&lab, set, name));
    let config = lab.config();
    let mut host = Host::start(&lab, "many", &[]);
    assert!(host.list().is_empty());
    for settings in [ONE, TWO, THREE] {
        host.give(&[&["experiment", "create"], variant(&config, settings).as_slice()].concat());
    }
    for name in ["one", "two", "three"] {
        host.give(&["experiment", "start", name]);
    }
    // A fourth one comes while the others run.
    let fourth = ["experiment.name=four", "experiment.seed=9"];
    host.give(&[&["experiment", "create"], variant(&config, &fourth).as_slice()].concat());
    host.until_finished(&["one", "two", "three"]);
    assert_eq!(host.row("four")["state"], "created");
    host.give(&["experiment", "cancel", "four"]);
    let log = host.text();
    host.stop();
    assert!(!log.contains("ERROR"), "{log}");
    let found = ["one", "two", "three"].map(|name| state_hash(&lab, "many", name));
    assert_eq!(found, expected);
    for name in ["one", "two", "three"] {
        succeeded(lab.dissent("many", &["replay", name, "--verify"]));
    }
}

#[test]
fn an_experiment_that_fails_is_halted_alone_and_goes_on_after_a_retry() {
    let Some(lab) = lab() else { return };
    let (config, model) = (lab.config(), lab.data_dir("model"));
    copy(&lab.policy(), &model);
    let path = format!("policy.path={}", model.display());
    let broken = [TWO, &[path.as_str()]].concat();
    let expected = [alone(&lab, ONE, "one"), alone(&lab, &broken, "two")];
    let mut host = Host::start(&lab, "halts", &[]);
    host.give(&[&["experiment", "create"], variant(&config, ONE).as_slice()].concat());
    host.give(&[&["experiment", "create"], variant(&config, &broken).as_slice()].concat());
    // The weights are gone before the first completion is sampled.
    let weights = model.join("model.safetensors");
    let kept = std::fs::read(&weights).unwrap();
    std::fs::remove_file(&weights).unwrap();
    for name in ["two", "one"] {
        host.give(&["experiment", "start", name]);
    }
    let reason =
        host.until("two is halted", |host| host.row("two")["halted"]["reason"].as_str().map(str::to_owned));
    assert!(reason.contains("step failed") && reason.contains("model.safetensors"), "{reason}");
    host.until_finished(&["one"]);
    let shown = host.give(&["experiment", "list"]);
    assert!(shown.contains("halted") && shown.contains("dissent experiment retry two"), "{shown}");
    // A retry without a mended cause halts it again, with the reason for the operator.
    let retried = lab.dissent("halts", &["experiment", "retry", "two"]).output().unwrap();
    let error = String::from_utf8_lossy(&retried.stderr).into_owned();
    assert!(!retried.status.success() && error.contains("model.safetensors"), "{error}");
    std::fs::write(&weights, kept).unwrap();
    host.give(&["experiment", "retry", "two"]);
    host.until_finished(&["two"]);
    assert!(host.row("two").get("halted").is_none());
    host.stop();
    assert_eq!(["one", "two"].map(|name| state_hash(&lab, "halts", name)), expected);
}

#[test]
fn a_server_without_arguments_continues_what_it_hosted_before() {
    let Some(lab) = lab() else { return };
    let expected = alone(&lab, ONE, "one");
    let config = lab.config();
    let host = Host::start(&lab, "again", &[]);
    host.give(&[&["experiment", "create"], variant(&config, ONE).as_slice()].concat());
    host.give(&["experiment", "start", "one"]);
    host.stop();
    let mut host = Host::start(&lab, "again", &[]);
    // SIGHUP does not end it.
    host.signal("HUP");
    host.until_finished(&["one"]);
    host.stop();
    assert_eq!(state_hash(&lab, "again", "one"), expected);
}

#[test]
fn a_fork_beside_a_server_is_hosted_with_the_settings_of_its_origin() {
    let Some(lab) = lab() else { return };
    let config = lab.config();
    let mut host = Host::start(&lab, "forks", &[config.to_str().unwrap()]);
    host.until_finished(&["lab"]);
    let forked = host.give(&[
        "experiment",
        "fork",
        "lab",
        "--round",
        "0",
        "--before",
        "selection",
        "--as",
        "narrow",
        "--set",
        "conflict.budget=3",
    ]);
    assert!(forked.contains("the server runs it"), "{forked}");
    host.until_finished(&["narrow"]);
    let shown: Value = serde_json::from_str(&host.give(&["experiment", "--json", "show", "narrow"])).unwrap();
    assert_eq!(shown["plan"]["conflict"]["selection"]["budget"], 3, "{shown}");
    host.stop();
    succeeded(lab.dissent("forks", &["replay", "narrow", "--verify"]));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_run_beside_a_server_hands_its_experiment_over_and_follows_it() {
    let Some(lab) = lab() else { return };
    let expected = alone(&lab, ONE, "one");
    let config = lab.config();
    let host = Host::start(&lab, "handed", &[]);
    let printed = host.give(&[&["run"], variant(&config, ONE).as_slice()].concat());
    assert!(printed.contains("one") && !printed.is_empty(), "{printed}");
    assert_eq!(host.row("one")["state"], "finished");
    // A second run finds it finished.
    host.give(&[&["run"], variant(&config, ONE).as_slice()].concat());
    // Another plan under the same name is refused, with the fork that would have it, and changes nothing.
    let kept = || std::fs::read(lab.data_dir("handed").join("experiments/one.json")).unwrap();
    let before = kept();
    let other = [ONE, &["conflict.budget=2"]].concat();
    let refused = lab.dissent("handed", &[&["run"], variant(&config, &other).as_slice()].concat()).output();
    let refused = refused.unwrap();
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && error.contains("conflict"), "{error}");
    assert!(kept() == before && host.row("one")["state"] == "finished");
    host.stop();
    assert_eq!(state_hash(&lab, "handed", "one"), expected);
}

#[test]
fn a_damaged_kept_configuration_halts_its_experiment_and_a_run_brings_it_back() {
    let Some(lab) = lab() else { return };
    let config = lab.config();
    succeeded(
        lab.dissent("damaged", &[&["experiment", "create"], variant(&config, ONE).as_slice()].concat()),
    );
    let kept = lab.data_dir("damaged").join("experiments/one.json");
    std::fs::write(&kept, "{").unwrap();
    let host = Host::start(&lab, "damaged", &[]);
    let reason = host.row("one")["halted"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("experiments/one.json"), "{reason}");
    // A configuration that cannot be used leaves it halted, with the first reason.
    let unusable = [ONE, &["policy.path=missing"]].concat();
    let run = |settings: &[&str]| {
        lab.dissent("damaged", &[&["run"], variant(&config, settings).as_slice()].concat()).output().unwrap()
    };
    assert!(!run(&unusable).status.success());
    assert_eq!(host.row("one")["halted"]["reason"].as_str(), Some(reason.as_str()));
    assert!(run(ONE).status.success());
    assert_eq!(host.row("one")["state"], "finished");
    host.stop();
}

/// A service has a user of its own, and an operator creates its first experiment as root.
#[test]
fn what_root_creates_in_the_folder_of_a_service_is_the_services() {
    let Some(lab) = lab() else { return };
    let data = lab.data_dir("owned");
    std::fs::create_dir_all(&data).unwrap();
    let owner = Some(65534);
    let gives = std::os::unix::fs::chown(&data, owner, owner).map_err(|error| error.to_string());
    if optional(gives).is_none() {
        return;
    }
    succeeded(lab.dissent("owned", &["experiment", "create", lab.config().to_str().unwrap()]));
    let mut folders = vec![data];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let (path, found) = (entry.path(), entry.metadata().unwrap());
            assert_eq!((found.uid(), found.mode() & 0o007), (65534, 0), "{}", path.display());
            if found.is_dir() {
                folders.push(path);
            }
        }
    }
}

#[test]
fn an_ended_experiment_is_copied_to_the_archive_by_schedule() {
    let Some(lab) = lab() else { return };
    let config = lab.config();
    let settings = lab.data_dir("server.toml");
    let archive = lab.data_dir("archive");
    let text = format!("[archive]\nfolder = {:?}\nafter_days = 0\n", archive.display().to_string());
    std::fs::write(&settings, text).unwrap();
    let arguments = ["--config", settings.to_str().unwrap(), config.to_str().unwrap()];
    let mut host = Host::start(&lab, "kept", &arguments);
    host.until_finished(&["lab"]);
    host.stop();
    let mut host = Host::start(&lab, "kept", &arguments[..2]);
    host.until("it is archived", |host| host.text().contains("archived experiment").then_some(()));
    host.stop();
    assert_eq!(state_hash(&lab, "archive", "lab"), state_hash(&lab, "kept", "lab"));
    succeeded(lab.dissent("archive", &["replay", "lab", "--verify"]));
}
