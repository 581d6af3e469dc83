//! The program from a configuration to a report, on tiny models.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use dissent_domain::event::{Event, EventType, PromptSetAside, Recorded};

use crate::support::{Lab, Learning, Setup, history, succeeded};

#[test]
fn a_run_finds_conflicts_and_leaves_a_report_and_a_sound_history() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let output = lab.run("data");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let report = lab.data_dir("data").join("reports/lab.html");
    assert!(stdout.contains(report.to_str().unwrap()), "{stdout}");
    assert!(std::fs::read_to_string(report).unwrap().contains("<svg"));

    let events: Vec<Event> = lab.events("data").iter().map(|recorded| recorded.decode().unwrap()).collect();
    let selected = events.iter().filter(|event| event.event_type() == EventType::PairSelected).count();
    assert_eq!(selected, 7);
    assert_eq!(events.last().unwrap().event_type(), EventType::ExperimentFinished);
    succeeded(lab.dissent("data", &["replay", "lab", "--verify"]));
    succeeded(lab.dissent("data", &["log", "verify"]));
}

#[test]
fn running_a_finished_experiment_records_nothing() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    lab.run("data");
    let first = lab.events("data");
    lab.run("data");
    assert_eq!(first, lab.events("data"));
}

#[test]
fn a_run_with_another_plan_is_refused_and_names_the_difference() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    lab.run("data");
    let config = lab.config();
    let changed = std::fs::read_to_string(&config).unwrap().replace("seed = 3", "seed = 4");
    std::fs::write(&config, changed).unwrap();
    let output = lab.dissent("data", &["run", config.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("seed was 3, now 4"), "{stderr}");
}

#[test]
fn a_run_with_changed_prompts_is_refused() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    lab.run("data");
    let (config, prompts) = (lab.config(), lab.config().with_file_name("prompts.jsonl"));
    let changed = std::fs::read_to_string(&prompts).unwrap().replace("what is 3?", "what is three?");
    std::fs::write(&prompts, changed).unwrap();
    let output = lab.dissent("data", &["run", config.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("prompts"), "{stderr}");
}

#[test]
fn an_unusable_template_is_refused_before_the_first_event() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let config = lab.config();
    let changed =
        std::fs::read_to_string(&config).unwrap().replace("template = \"raw\"", "template = \"chat\"");
    std::fs::write(&config, changed).unwrap();
    let output = lab.dissent("data", &["run", config.to_str().unwrap()]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("policy.template"), "{stderr}");
    assert!(lab.events("data").is_empty());
}

#[test]
fn a_run_without_a_measured_prompt_fails_with_the_reason() {
    let Some(lab) = Lab::new(&Setup { prompts: 1, ..Setup::default() }) else { return };
    let long = format!("{{\"prompt\": \"{}\"}}\n", "w1 ".repeat(5000));
    std::fs::write(lab.config().with_file_name("prompts.jsonl"), long).unwrap();
    let output = lab.dissent("data", &["run", lab.config().to_str().unwrap()]).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    assert!(["p1", "generation", "5000"].iter().all(|word| stdout.contains(word)), "{stdout}");
}

#[test]
fn a_closed_pipe_on_stdout_is_not_an_error() {
    let Some(lab) = Lab::new(&Setup { prompts: 2, ..Setup::default() }) else { return };
    lab.run("data");
    let commands: [&[&str]; 4] =
        [&["log", "export"], &["log", "tail"], &["replay", "lab", "--json"], &["completions", "bash"]];
    for arguments in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = lab.dissent("data", arguments).stdout(writer).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && stderr.is_empty(), "{arguments:?}: {stderr}");
    }
}

#[test]
fn an_exported_and_imported_log_is_identical() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    lab.run("data");
    let file = lab.data_dir("events.jsonl");
    let file = file.to_str().unwrap();
    succeeded(lab.dissent("data", &["log", "export", "--output", file]));
    succeeded(lab.dissent("copy", &["log", "import", file]));
    assert_eq!(lab.events("data"), lab.events("copy"));
}

#[test]
fn a_prompt_that_is_too_long_is_set_aside_and_the_round_completes() {
    let Some(lab) = Lab::new(&Setup { prompts: 4, ..Setup::default() }) else { return };
    let prompts = lab.config().with_file_name("prompts.jsonl");
    let mut text = std::fs::read_to_string(&prompts).unwrap();
    text.push_str(&format!("{{\"prompt_id\": \"long\", \"prompt\": \"{}\"}}\n", "word ".repeat(5000)));
    std::fs::write(&prompts, text).unwrap();
    lab.run("data");
    let events: Vec<Event> = lab.events("data").iter().map(|recorded| recorded.decode().unwrap()).collect();
    let set_aside: Vec<_> = events
        .iter()
        .filter_map(|event| event.body().map(|e: &PromptSetAside| e.prompt_id.as_str()))
        .collect();
    assert_eq!(set_aside, ["long"]);
    assert_eq!(events.last().unwrap().event_type(), EventType::ExperimentFinished);
}

/// Copies the tiny policy, and gives the copy a chat template that writes each turn with its role.
fn chatting_policy(lab: &Lab) -> PathBuf {
    let folder = lab.data_dir("policy");
    std::fs::create_dir_all(&folder).unwrap();
    for file in std::fs::read_dir(lab.policy()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.join(file.file_name())).unwrap();
    }
    let template = "{% for turn in messages %}{{ turn.role }} {{ turn.content }} {% endfor %}\
                    {% if add_generation_prompt %}answer {% endif %}";
    std::fs::write(folder.join("chat_template.jinja"), template).unwrap();
    folder
}

#[test]
fn prompts_of_several_turns_are_rendered_in_every_step_of_an_experiment() {
    let learning = Learning { rounds: 1, steps: 2 };
    let Some(lab) = Lab::new(&Setup { prompts: 4, learns: Some(learning), ..Setup::default() }) else {
        return;
    };
    let policy = chatting_policy(&lab);
    let config = std::fs::read_to_string(lab.config()).unwrap();
    let config = config.replace(&format!("{:?}", lab.policy()), &format!("{policy:?}"));
    let config = config.replace("template = \"raw\"", "template = \"chat\"");
    // The first template is the policy's, the others are those of the reward models.
    let config = config.replace("template = \"{prompt} {completion}\"", "template = \"chat\"");
    std::fs::write(lab.config(), config).unwrap();
    let turns = |question: &str| {
        serde_json::json!([
            {"role": "system", "content": "w5 w6"},
            {"role": "user", "content": "w7"},
            {"role": "assistant", "content": "w8"},
            {"role": "user", "content": question},
        ])
    };
    for (file, name, word) in [("prompts.jsonl", "p", "w"), ("held-out.jsonl", "h", "w1")] {
        let row = |index: u32| {
            let row = serde_json::json!({"prompt_id": format!("{name}{index}"), "prompt": turns(&format!("{word}{index}"))});
            format!("{row}\n")
        };
        std::fs::write(lab.data_dir(file), (0..4).map(row).collect::<String>()).unwrap();
    }
    lab.run("data");
    let events: Vec<Event> = lab.events("data").iter().map(|recorded| recorded.decode().unwrap()).collect();
    assert_eq!(events.last().unwrap().event_type(), EventType::ExperimentFinished);
    assert!(events.iter().any(|event| event.event_type() == EventType::PolicyTuned));
    let config = lab.config();
    succeeded(lab.dissent("data", &["replay", "lab", "--recompute", config.to_str().unwrap()]));
    let report = std::fs::read_to_string(lab.data_dir("data").join("reports/lab.html")).unwrap();
    assert!(report.contains("w5 w6") && report.contains("w8"), "the report shows every turn");
}

/// Sends a signal with the system's `kill`.
fn signal(child: &Child, name: &str) {
    succeeded({
        let mut kill = Command::new("kill");
        kill.arg(format!("-{name}")).arg(child.id().to_string());
        kill
    });
}

#[test]
fn an_interrupted_run_drains_and_resumes_to_the_same_result() {
    let setup = Setup { prompts: 40, max_new_tokens: 48, batch_prompts: 1, ..Setup::default() };
    let Some(lab) = Lab::new(&setup) else { return };
    lab.run("reference");
    for name in ["INT", "TERM"] {
        let config = lab.config();
        let mut command = lab.dissent(name, &["run", config.to_str().unwrap()]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = lab.data_dir(name).join("log");
        while !log.join("db").is_file() {
            std::thread::yield_now();
        }
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        // A signal before the handlers are installed ends the process.
        assert!(matches!(output.status.code(), Some(130) | None | Some(0)), "{:?}: {stderr}", output.status);
        lab.run(name);
        assert_eq!(history(&lab.events(name)), history(&lab.events("reference")));
    }
}

/// A copy of the tiny policy whose last weights are NaN.
fn broken_model(lab: &Lab) -> PathBuf {
    let (sound, broken) = (lab.policy(), lab.data_dir("broken-model"));
    std::fs::create_dir(&broken).unwrap();
    for entry in sound.read_dir().unwrap().flatten() {
        std::fs::copy(entry.path(), broken.join(entry.file_name())).unwrap();
    }
    let weights = broken.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let half = bytes.len() / 2;
    bytes[half..].fill(0xff);
    std::fs::write(&weights, bytes).unwrap();
    broken
}

#[test]
fn a_model_that_never_works_stops_the_run_without_setting_prompts_aside() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    let config = lab.config();
    let (sound, broken) = (lab.policy(), broken_model(&lab));
    let policy = |path: &Path| format!("[policy]\n            path = {path:?}");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains(&policy(&sound)));
    std::fs::write(&config, text.replace(&policy(&sound), &policy(&broken))).unwrap();
    let output = lab.dissent("data", &["run", config.to_str().unwrap()]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("generation") && stderr.contains("finite"), "{stderr}");
    let set_aside = |recorded: &Recorded| recorded.event.event_type == "prompt.set_aside";
    assert!(!lab.events("data").iter().any(set_aside));
}

#[test]
fn recomputing_an_experiment_gives_the_same_bytes() {
    let learns = Some(Learning { rounds: 2, steps: 3 });
    let Some(lab) = Lab::new(&Setup { prompts: 6, learns, ..Setup::default() }) else { return };
    lab.run("data");
    let config = lab.config();
    let recompute = ["replay", "lab", "--recompute", config.to_str().unwrap()];
    let output = succeeded(lab.dissent("data", &[&recompute[..], &["--json"]].concat()));
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(outcome["same"], true, "{outcome}");
    let results =
        |step: &serde_json::Value| (step["step"].as_str().unwrap().to_owned(), step["results"].as_u64());
    let steps: Vec<_> = outcome["steps"].as_array().unwrap().iter().map(results).collect();
    for (step, at_least) in [("generation", 12), ("reward", 12), ("training", 4), ("evaluation", 3)] {
        assert!(steps.contains(&(step.to_owned(), Some(at_least))), "{steps:?}");
    }
    let changed = std::fs::read_to_string(&config).unwrap().replace("seed = 3", "seed = 4");
    std::fs::write(&config, changed).unwrap();
    let output = lab.dissent("data", &recompute).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "a recomputation with another plan is refused");
}

#[test]
fn recomputing_a_fork_starts_after_the_shared_past() {
    let Some(lab) = Lab::new(&Setup::default()) else { return };
    lab.run("data");
    let sampled = |event: &&Recorded| event.event.event_type == "generation.completions_sampled";
    let at = lab.events("data").iter().filter(sampled).nth(7).unwrap().position;
    let fork = ["experiment", "fork", "lab", "--at", &at.to_string(), "--as", "other"];
    let forked = lab.dissent("data", &fork).output().unwrap();
    assert!(forked.status.success(), "{}", String::from_utf8_lossy(&forked.stderr));
    let config = lab.config();
    let renamed = std::fs::read_to_string(&config).unwrap().replace("name = \"lab\"", "name = \"other\"");
    std::fs::write(&config, renamed).unwrap();
    lab.run("data");
    let recompute = ["replay", "other", "--json", "--recompute", config.to_str().unwrap()];
    let output = succeeded(lab.dissent("data", &recompute));
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let generation = &outcome["steps"][0];
    assert_eq!((&generation["step"], &generation["results"]), (&"generation".into(), &4.into()), "{outcome}");
}
