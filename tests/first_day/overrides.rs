//! `dissent run --set key=value --seed N`.

use serde_json::Value;

use crate::support::{Lab, Setup, succeeded};

fn lab() -> Option<Lab> {
    Lab::new(&Setup { prompts: 3, samples: 2, max_new_tokens: 4, ..Setup::default() })
}

fn refused(lab: &Lab, more: &[&str]) -> String {
    let config = lab.config();
    let arguments = [&["run", config.to_str().unwrap()], more].concat();
    let output = lab.dissent("refused", &arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{more:?}");
    assert!(!lab.data_dir("refused").join("log").exists(), "{more:?}: nothing is written");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn settings_and_the_seed_replace_those_of_the_file() {
    let Some(lab) = lab() else { return };
    let config = lab.config();
    let settings = [
        "run",
        config.to_str().unwrap(),
        "--set",
        "experiment.name=other",
        "--set",
        "conflict.rule=gap",
        "--set",
        "conflict.budget=2",
        "--set",
        "generation.temperature=1",
        "--set",
        "generation.stop=[\"a\", \"b\"]",
        "--set",
        "policy.template=Question: {prompt}",
        "--seed",
        "11",
    ];
    succeeded(lab.dissent("data", &settings));
    let shown = succeeded(lab.dissent("data", &["experiment", "show", "other", "--json"])).stdout;
    let plan = serde_json::from_slice::<Value>(&shown).unwrap()["plan"].clone();
    assert_eq!(
        (&plan["seed"], &plan["conflict"]["selection"]["rule"]),
        (&Value::from(11), &Value::from("gap"))
    );
    assert_eq!(plan["conflict"]["selection"]["budget"], 2);
    assert_eq!(plan["sampling"]["stop"], serde_json::json!(["a", "b"]));
    assert_eq!(plan["policy"]["template"], "Question: {prompt}");
    // The same command resumes; the file alone is another experiment.
    succeeded(lab.dissent("data", &settings));
    lab.run("data");
}

#[test]
fn a_mistake_names_the_key_and_the_keys_like_it() {
    let Some(lab) = lab() else { return };
    for (setting, named) in [
        ("conflict.buget=3", "conflict.budget"),
        ("selection.budget=3", "conflict.budget"),
        ("generation.temprature=1", "generation.temperature"),
        ("tuning.ppo.kl=1", "tuning.ppo.kl"),
        ("budget=3", "conflict.budget"),
        ("conflict.budget=many", "conflict.budget"),
        ("conflict.budget=-1", "conflict.budget"),
        ("generation.top_p=1.5", "generation.top_p"),
        ("generation.stop=[\"a", "generation.stop"),
        ("conflict.rule=lottery", "lottery"),
        ("experiment.name=../x", "experiment.name"),
        ("conflict.budget", "KEY=VALUE"),
        ("feedback.source=people", "[tuning]"),
    ] {
        let text = refused(&lab, &["--set", setting]);
        assert!(text.contains(named), "{setting}: {text}");
    }
    assert!(refused(&lab, &["--seed", "-1"]).contains("--seed"));
    assert!(refused(&lab, &["--seed", "many"]).contains("many"));
}

#[test]
fn a_key_that_is_left_out_has_its_default() {
    let Some(lab) = lab() else { return };
    let text = refused(&lab, &["--set", "conflict.budget="]);
    assert!(text.contains("budget"), "{text}");
    let config = lab.config();
    let arguments = ["run", config.to_str().unwrap(), "--set", "conflict.budget=", "--set", "conflict.rule="];
    succeeded(lab.dissent("data", &arguments));
    let shown = succeeded(lab.dissent("data", &["experiment", "show", "lab", "--json"])).stdout;
    assert_eq!(
        serde_json::from_slice::<Value>(&shown).unwrap()["plan"]["conflict"]["selection"]["rule"],
        "paper"
    );
}

#[test]
fn a_created_experiment_takes_settings_too() {
    let Some(lab) = lab() else { return };
    let config = lab.config();
    let create =
        ["experiment", "create", config.to_str().unwrap(), "--set", "experiment.name=made", "--seed", "5"];
    let text = String::from_utf8(succeeded(lab.dissent("data", &create)).stdout).unwrap();
    assert!(text.contains("--set experiment.name=made --set experiment.seed=5"), "{text}");
}
