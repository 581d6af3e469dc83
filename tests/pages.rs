//! Every kind of page in a real browser: axe-core, overflow, the first screen. `cargo xtask pages` installs
//! the programs that this needs, and runs it.

use std::path::{Path, PathBuf};
use std::process::Command;

use dissent::report::{self, ReportData};

use crate::report::history::{Case, history, measured, plan};
use crate::report::learning::{cases, fixed, learning_plan};
use crate::report::{append, case, hostile, reported};
use crate::study::{arms_study, labelled_study};
use crate::support::host::Host;
use crate::support::required::optional;
use crate::support::{Lab, Learning, Setup, open_log, succeeded};

/// Environment variable: the folder with `node_modules`, which `cargo xtask pages` fills.
const TOOLS: &str = "DISSENT_PAGES_TOOLS";

fn tools() -> Result<PathBuf, String> {
    let folder = std::env::var_os(TOOLS).ok_or("`cargo xtask pages` checks pages in a browser")?;
    Ok(PathBuf::from(folder))
}

/// Pages of one folder.
struct Pages {
    folder: PathBuf,
    files: Vec<PathBuf>,
}

impl Pages {
    fn add(&mut self, name: &str, page: &str) {
        let file = self.folder.join(format!("{name}.html"));
        std::fs::write(&file, page).unwrap();
        self.files.push(file);
    }

    fn add_report(&mut self, name: &str, data: &ReportData) {
        self.add(name, &report::html(data).unwrap());
    }
}

/// A report without a break in its words, with long texts, code and text from right to left.
fn long() -> ReportData {
    let mut cases = cases();
    cases[0].prompt = "unbroken".repeat(60);
    cases[0].prompt_id = "p".repeat(64);
    cases[1].prompt =
        "Write a function.\n\n".to_owned() + &"fn long() -> Result<(), Error> { todo!() }\n".repeat(30);
    cases[2].prompt = "أيهما أفضل؟ ".repeat(20);
    for case in &mut cases {
        case.category = Some("a category with a rather long name".to_owned());
        for (index, completion) in case.completions.iter_mut().enumerate() {
            completion.text =
                ["x".repeat(300), "ε → δ\n".repeat(40), String::new(), "שלום ".repeat(200)][index].clone();
        }
    }
    let plan = plan("an-experiment-with-a-rather-long-name", &cases);
    reported(&plan, &history(&plan, &cases))
}

/// Adds the judging page of a round that waits for people, and the comparison of two runs.
fn add_pages_of_a_log(pages: &mut Pages) {
    let folder = tempfile::tempdir().unwrap();
    let many: Vec<Case> =
        (0..6).map(|at| case(&format!("topic {at}"), None, &[(1.0, -9.0, 4), (2.0, -7.5, 8)])).collect();
    let cases = cases();
    let [waiting, other] = [learning_plan("waiting", &cases, 1), learning_plan("other", &many, 1)];
    let log = open_log(&folder.path().join("log"));
    for (plan, cases) in [(&waiting, &cases), (&other, &many)] {
        append(&log, plan, &measured(plan, cases).events);
    }
    drop(log);
    let printed = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dissent"));
        command.arg("--data-dir").arg(folder.path()).args(arguments);
        String::from_utf8(succeeded(command).stdout).unwrap()
    };
    pages.add("compare", &printed(&["compare", "waiting", "other", "--format", "html"]));
    pages.add("judging", &printed(&["feedback", "export", "waiting", "--format", "html"]));
    pages.add("report-waiting", &printed(&["report", "waiting", "--output", "-"]));
}

/// Adds the report of two rounds of tiny models, with an audit and explained conflicts. Requires ONNX
/// Runtime.
fn add_rounds(pages: &mut Pages) -> Option<()> {
    let learns = Some(Learning { rounds: 2, steps: 3 });
    let lab = Lab::new(&Setup { prompts: 24, max_new_tokens: 12, learns, ..Setup::default() })?;
    let config = std::fs::read_to_string(lab.config()).unwrap();
    let config = config.replace("budget = 7", "budget = 40").replace("[feedback]", "[feedback]\naudit = 0.3");
    std::fs::write(lab.config(), config).unwrap();
    lab.run("data");
    let config = lab.config();
    let explained = ["report", config.to_str().unwrap(), "--explain", "2", "--output", "-"];
    let page = succeeded(lab.dissent("data", &explained));
    pages.add("report-rounds", &String::from_utf8(page.stdout).unwrap());
    Some(())
}

#[test]
fn pages_are_accessible_and_fit_every_window() {
    let Some(tools) = optional(tools()) else { return };
    let mut pages = Pages { folder: tools.join("pages"), files: Vec::new() };
    std::fs::create_dir_all(&pages.folder).unwrap();
    pages.add_report("report-learnt", &fixed(0.5).1);
    pages.add_report("report-hacked", &fixed(0.1).1);
    pages.add_report("report-long", &long());
    pages.add("report-hostile", &hostile().1);
    add_pages_of_a_log(&mut pages);
    let Some(()) = add_rounds(&mut pages) else { return };
    for (name, study) in [("labelled", labelled_study()), ("arms", arms_study())] {
        let Some(study) = study else { return };
        study.run();
        pages.add(&format!("study-{name}"), &study.report(name, "html"));
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pages/check.mjs");
    let output = Command::new("node").arg(script).args(&pages.files).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
}

/// An admin sets a password, creates an experiment, and works with it on the pages of a server.
#[test]
fn an_admin_works_on_the_pages_of_a_server() {
    let Some(tools) = optional(tools()) else { return };
    let learns = Some(Learning { rounds: 1, steps: 4000 });
    let setup = Setup { prompts: 8, max_new_tokens: 8, learns, ..Setup::default() };
    let Some(lab) = Lab::new(&setup) else { return };
    let (settings, folder) = (lab.data_dir("server.toml"), lab.data_dir("files"));
    // The models are the server's: a browser sends single files.
    let mut config = std::fs::read_to_string(lab.config()).unwrap();
    let policy = lab.policy();
    let adapter = config.lines().find(|line| line.trim().starts_with("adapter")).unwrap();
    let adapter = adapter.split('=').nth(1).unwrap().trim().to_owned();
    let names =
        format!("[accounts]\nauth = \"accounts\"\n[names]\npolicy = {policy:?}\nadapter = {adapter}\n");
    std::fs::write(&settings, names).unwrap();
    config =
        config.replace(&format!("{policy:?}"), "\"server:policy\"").replace(&adapter, "\"server:adapter\"");
    config = config.replace("provider = \"cpu\"", "").replace("threads = 1", "").replace("[runtime]", "");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("experiment.toml"), config).unwrap();
    for name in ["prompts.jsonl", "held-out.jsonl"] {
        std::fs::copy(lab.config().with_file_name(name), folder.join(name)).unwrap();
    }
    let host = Host::start(&lab, "data", &["--config", settings.to_str().unwrap()]);
    let text = host.text();
    let invitation =
        text.lines().find_map(|line| line.split_once("/invitation#")).unwrap().1.trim().to_owned();
    let address = text.lines().find_map(|line| line.split_once("listening address=")).unwrap().1.trim();
    let pictures = tools.join("live");
    std::fs::create_dir_all(&pictures).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pages/live.mjs");
    let mut node = Command::new("node");
    node.arg(script).args([&format!("http://{address}"), &invitation]).args([&folder, &pictures]);
    let output = node.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}{errors}\n{}", host.text());
    assert!(!host.text().contains("ERROR"), "{}", host.text());
}
