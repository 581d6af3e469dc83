//! A configuration stands for its experiment, in every command that takes one.

use std::process::{Child, Stdio};

use crate::history::histories::{
    DataFolders, awaiting_judgements, in_order, learning_plan, learnt, measured, plan,
};
use crate::support::{Lab, Setup, succeeded};

/// Writes the configuration of an experiment whose data folder is `data` beside it. The rest of the file is
/// not read by these commands.
fn configuration(folders: &DataFolders, name: &str, data: &str) -> String {
    let path = folders.path(&format!("{name}.toml"));
    let text = format!(
        "[experiment]\nname = \"{name}\"\nseed = 1\ndata_dir = \"{data}\"\n[prompts]\npath = \"p\"\n"
    );
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Runs the program without `--data-dir`, in another folder than the configuration's.
fn run(folders: &DataFolders, arguments: &[&str], code: i32) -> String {
    let elsewhere = folders.path("elsewhere");
    std::fs::create_dir_all(&elsewhere).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_dissent"))
        .args(arguments)
        .current_dir(elsewhere)
        .env_remove("DISSENT_DATA")
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    text
}

#[test]
fn every_command_that_takes_an_experiment_takes_its_configuration() {
    let folders = DataFolders::new();
    folders.append("data", &awaiting_judgements(learning_plan("asked")).recorded);
    folders.append("data", &measured(plan("done"), &in_order(), 0.0).recorded);
    let (asked, done) = (configuration(&folders, "asked", "data"), configuration(&folders, "done", "data"));
    let ok = |arguments: &[&str]| run(&folders, arguments, 0);

    assert!(ok(&["report", &asked]).contains("asked.html"));
    assert!(ok(&["report", &asked, "--format", "md"]).contains("asked"));
    assert!(ok(&["experiment", "show", &asked]).contains("asked: waits for people"));
    assert!(ok(&["replay", &asked]).contains("asked: "));
    assert!(ok(&["replay", &asked, "--verify"]).contains("verified"));
    assert!(
        ok(&["replay", &asked, "--what-if", "conflict.budget=2"]).contains("asked with conflict.budget=2")
    );
    assert!(ok(&["log", "tail", "--experiment", &asked, "-n", "2"]).contains("asked"));
    assert!(ok(&["log", "export", "--experiment", &asked]).contains("experiment.started"));
    assert!(ok(&["log", "export", "--experiment", &asked, "--table", "comparisons"]).contains("comparison"));
    run(&folders, &["log", "diff", &asked, &done], 1);
    assert!(ok(&["feedback", "status", &asked]).contains("asked"));
    let rows = ok(&["feedback", "export", &asked, "--annotator", "ann"]);
    let judged: String = rows
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| format!("{}\n", line.replace("\"verdict\":null", "\"verdict\":\"first\"")))
        .collect();
    let file = folders.path("judged.jsonl");
    std::fs::write(&file, judged).unwrap();
    let refused = run(&folders, &["feedback", "import", file.to_str().unwrap(), "--experiment", &done], 2);
    assert!(refused.contains("asked") && refused.contains("done"), "{refused}");
    assert!(ok(&["feedback", "import", file.to_str().unwrap(), "--experiment", &asked]).contains("recorded"));
    ok(&["experiment", "fork", &asked, "--before", "feedback", "--as", "other"]);
    assert!(ok(&["experiment", "pause", &asked]).contains("paused"));
    assert!(ok(&["experiment", "resume", &asked]).contains("running"));
    assert!(ok(&["experiment", "cancel", &asked]).contains("cancelled"));
    ok(&["log", "archive", &asked, &done, "--to", folders.path("archive").to_str().unwrap()]);
}

#[test]
fn the_option_and_the_name_still_find_the_data_folder() {
    let folders = DataFolders::new();
    folders.append("there", &measured(plan("done"), &in_order(), 0.0).recorded);
    let done = configuration(&folders, "done", "nowhere");
    let there = folders.path("there");
    let there = there.to_str().unwrap();
    run(&folders, &["--data-dir", there, "report", &done], 0);
    run(&folders, &["--data-dir", there, "report", "done"], 0);
    let missing = run(&folders, &["report", &done], 2);
    assert!(missing.contains("nowhere") && missing.contains("--data-dir"), "{missing}");
}

#[test]
fn a_configuration_that_names_no_experiment_is_refused_with_the_way_out() {
    let folders = DataFolders::new();
    folders.append("data", &measured(plan("done"), &in_order(), 0.0).recorded);
    let write = |name: &str, text: &str| {
        std::fs::write(folders.path(name), text).unwrap();
        folders.path(name).to_str().unwrap().to_owned()
    };
    let study = write("study.toml", "[study]\nname = \"s\"\n");
    let text = run(&folders, &["report", &study], 2);
    assert!(text.contains("[experiment]") && text.contains("study.toml"), "{text}");
    let misspelt = write("misspelt.toml", "[experiment]\nnmae = \"done\"\n");
    let text = run(&folders, &["experiment", "show", &misspelt], 2);
    assert!(text.contains("nmae") && text.contains("line 2"), "{text}");
    let text = run(&folders, &["feedback", "status", "./missing.toml"], 2);
    assert!(text.contains("missing.toml"), "{text}");
    for command in [
        ["report", "missing.toml"].as_slice(),
        &["replay", "missing.toml"],
        &["experiment", "show", "missing.toml"],
    ] {
        let data = folders.path("data");
        let text = run(&folders, &[&["--data-dir", data.to_str().unwrap()], command].concat(), 2);
        assert!(text.contains("no such configuration"), "{command:?}: {text}");
    }
    let unknown = configuration(&folders, "unknown", "data");
    let text = run(&folders, &["replay", &unknown], 2);
    assert!(text.contains("unknown experiment unknown") && text.contains("done"), "{text}");
}

#[test]
fn a_report_is_written_while_people_are_waited_for() {
    let folders = DataFolders::new();
    folders.append("data", &awaiting_judgements(learning_plan("asked")).recorded);
    let report = folders.output("data", &["report", "asked", "--format", "md"], 0);
    assert!(report.contains("waits for feedback"), "{report}");
    folders.append("data", &learnt(learning_plan("learnt")).recorded);
    folders.output("data", &["report", "learnt"], 0);
}

/// A `dissent run --wait` that holds the log.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_report_by_configuration_is_written_while_the_run_is_alive() {
    let Some(lab) = Lab::new(&Setup { prompts: 4, max_new_tokens: 4, ..Setup::default() }) else { return };
    let mut config = std::fs::read_to_string(lab.config())
        .unwrap()
        .replace("name = \"lab\"", "name = \"lab\"\ndata_dir = \"own\"");
    config.push_str(
        "[feedback]\nsource = \"people\"\n[tuning]\nsteps = 1\nlora.r = 4\n[evaluation]\nprompts = \"held-out.jsonl\"\nsamples = 2\n",
    );
    std::fs::write(lab.config(), config).unwrap();
    let config = lab.config();
    let dissent = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dissent"));
        command.args(arguments).env_remove("DISSENT_DATA").current_dir(lab.data_dir(""));
        command
    };
    let log = lab.data_dir("run.log");
    let stderr = std::fs::File::create(&log).unwrap();
    let mut run = dissent(&["run", config.to_str().unwrap(), "--wait"]);
    let _running = Running(run.stdout(Stdio::null()).stderr(stderr).spawn().unwrap());
    let begun = std::time::Instant::now();
    // Until its first event, the run has recorded no experiment.
    let written = loop {
        let report = dissent(&["report", config.to_str().unwrap()]).output().unwrap();
        if report.status.success() {
            break report.stdout;
        }
        let said = String::from_utf8_lossy(&report.stderr).into_owned();
        assert!(begun.elapsed().as_secs() < 120, "{said}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    let page = lab.data_dir("").join(String::from_utf8(written).unwrap().trim());
    assert!(page.ends_with("own/reports/lab.html") && page.is_file(), "{}", page.display());
    succeeded(dissent(&["experiment", "show", config.to_str().unwrap()]));
}
