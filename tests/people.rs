//! Annotators judge while `dissent run --wait` has the log open.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dissent_domain::event::{Event, EventType, FeedbackReceived, RewardModelRefined};
use dissent_domain::replay::Replay;
use serde_json::Value;

use crate::support::{Lab, Setup, succeeded};

const LEARNING: &str = r#"
[feedback]
source = "people"
[refinement]
steps = 2
batch_size = 2
[tuning]
method = "dpo"
steps = 2
batch_size = 2
lora.r = 4
[evaluation]
prompts = "held-out.jsonl"
samples = 2
"#;

/// An experiment with feedback from people.
fn lab_with_people() -> Option<Lab> {
    let lab = Lab::new(&Setup { prompts: 4, max_new_tokens: 8, ..Setup::default() })?;
    let held_out: String = (0..2).map(|index| format!("{{\"prompt\": \"held out {index}?\"}}\n")).collect();
    std::fs::write(lab.config().with_file_name("held-out.jsonl"), held_out).unwrap();
    let config = std::fs::read_to_string(lab.config()).unwrap();
    std::fs::write(lab.config(), config + LEARNING).unwrap();
    Some(lab)
}

fn parsed(text: &[u8]) -> Vec<Value> {
    let lines = std::str::from_utf8(text).unwrap().lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_waiting_run_resumes_with_imported_judgements_and_finishes() {
    let Some(lab) = lab_with_people() else { return };
    let config = lab.config();
    let run = ["run", config.to_str().unwrap()];
    succeeded(lab.dissent("data", &run));
    let mut rows = parsed(&succeeded(lab.dissent("data", &["feedback", "export", "lab"])).stdout);
    assert!(rows.len() > 1, "{rows:?}");
    for row in &mut rows {
        row["verdict"] = "first".into();
    }

    let waiting = [run.as_slice(), &["--wait"]].concat();
    let mut child =
        lab.dissent("data", &waiting).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    // Logged once the log is open: later commands find it in use.
    while !line.starts_with("starting the policy") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "the run ended before it waited");
    }
    // One annotator imports the same twice, another the rest: the run ends with the last judgement.
    let (ours, theirs) = rows.split_at(1);
    for (name, rows) in [("ann", ours), ("ann", ours), ("bob", theirs)] {
        let file = lab.data_dir(name);
        std::fs::write(&file, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
        let file = file.to_str().unwrap();
        let import = lab.dissent("data", &["feedback", "import", file, "--annotator", name]);
        succeeded(import);
    }
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{rest}");
    let printed = String::from_utf8(ended.stdout).unwrap();
    assert!(printed.contains("lab.html"), "{printed}");

    let events: Vec<Event> = lab.events("data").iter().map(|recorded| recorded.decode().unwrap()).collect();
    let received: Vec<&FeedbackReceived> = events.iter().filter_map(Event::body).collect();
    assert_eq!(received.len(), rows.len(), "each judgement once");
    assert_eq!(received.iter().filter(|e| e.annotator == "ann").count(), 1);
    assert!(events.iter().filter_map(Event::body).any(|e: &RewardModelRefined| e.preferences > 0));
    assert_eq!(events.last().unwrap().event_type(), EventType::ExperimentFinished);
    succeeded(lab.dissent("data", &["replay", "lab", "--verify"]));
}

/// Commands of version 0.1 left judgements in the data folder, for the process that had the log open.
#[test]
fn judgements_that_version_0_1_left_are_recorded_at_the_next_run() {
    let Some(lab) = lab_with_people() else { return };
    let run = ["run", lab.config().to_str().unwrap(), "--wait"].map(str::to_owned);
    let run = run.each_ref().map(String::as_str);
    succeeded(lab.dissent("data", &run[..2]));
    let rows = parsed(&succeeded(lab.dissent("data", &["feedback", "export", "lab"])).stdout);
    let left: String = rows
        .iter()
        .map(|row| {
            let (round, comparison) = (&row["round"], &row["comparison"]);
            let judgement = serde_json::json!({"round": round, "comparison": comparison, "annotator": "ann", "verdict": "first"});
            format!("{judgement}\n")
        })
        .collect();
    let folder = lab.data_dir("data").join("feedback-inbox/lab");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("1.jsonl"), left).unwrap();
    std::fs::write(folder.join("2.jsonl"), "damaged\n").unwrap();
    succeeded(lab.dissent("data", &run));
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["2.jsonl.unreadable"]);
    let events: Vec<Event> = lab.events("data").iter().map(|recorded| recorded.decode().unwrap()).collect();
    let received: Vec<&FeedbackReceived> = events.iter().filter_map(Event::body).collect();
    assert_eq!(received.len(), rows.len());
    assert_eq!(events.last().unwrap().event_type(), EventType::ExperimentFinished);
}

/// A `dissent run --wait` that holds the log.
struct Waiting(Child);

impl Waiting {
    fn start(lab: &Lab) -> Self {
        let mut run = lab.dissent("data", &["run", lab.config().to_str().unwrap(), "--wait"]);
        let said = lab.data_dir("run.log");
        let stderr = std::fs::File::create(&said).unwrap();
        let mut run = Self(run.stdout(Stdio::null()).stderr(stderr).spawn().unwrap());
        // Logged once the log is open: an earlier reader would hold it, and the run would fail.
        run.until(|| std::fs::read_to_string(&said).unwrap().contains("opening the models").then_some(()));
        run
    }

    fn until<T>(&mut self, mut look: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            let ended = self.0.try_wait().unwrap();
            assert!(
                ended.is_none() && begun.elapsed() < Duration::from_secs(90),
                "timeout or end of the run: {ended:?}"
            );
        }
    }

    /// Waits until a round needs judgements, and returns its comparisons.
    fn wait_for_round(&mut self, lab: &Lab, round: u32) -> Vec<Value> {
        self.until(|| {
            let status = lab.dissent("data", &["feedback", "status", "lab", "--json"]).output().unwrap();
            let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
            (status["round"] == round && status["waits"] == true).then_some(())
        });
        parsed(&succeeded(lab.dissent("data", &["feedback", "export", "lab"])).stdout)
    }

    fn stop(mut self) {
        let mut kill = Command::new("kill");
        kill.arg("-TERM").arg(self.0.id().to_string());
        succeeded(kill);
        assert_eq!(self.0.wait().unwrap().code(), Some(130));
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ = self.0.wait();
    }
}

const READING: [&[&str]; 13] = [
    &["feedback", "export", "lab", "--all"],
    &["feedback", "status", "lab"],
    &["experiment", "list", "--json"],
    &["experiment", "show", "lab"],
    &["report", "lab", "--format", "json"],
    &["log", "tail", "-n", "100"],
    &["log", "export"],
    &["log", "verify"],
    &["log", "export", "--table", "comparisons"],
    &["log", "diff", "lab", "lab"],
    &["replay", "--verify"],
    &["replay", "lab", "--at", "3"],
    &["replay", "lab", "--what-if", "conflict.budget=2"],
];

/// Standard output of a reading command, and whether it read through another process.
fn read(lab: &Lab, command: &[&str]) -> (String, bool) {
    let output = succeeded(lab.dissent("data", command));
    let said = String::from_utf8(output.stderr).unwrap();
    (String::from_utf8(output.stdout).unwrap(), said.contains("reading through it"))
}

#[test]
fn reading_commands_see_the_log_of_a_waiting_run() {
    let Some(lab) = lab_with_people() else { return };
    let config = std::fs::read_to_string(lab.config()).unwrap();
    std::fs::write(lab.config(), config.replace("rounds = 1", "rounds = 2")).unwrap();
    let mut run = Waiting::start(&lab);
    run.wait_for_round(&lab, 0);
    let meanwhile = READING.map(|command| read(&lab, command));
    let events = |stat: &str| stat.split(',').next().unwrap().to_owned();
    let stat = read(&lab, &["log", "stat"]);
    run.stop();
    assert!(!lab.data_dir("data").join("dissent.sock").exists(), "the run removed its socket");
    for (command, (meanwhile, through_the_run)) in READING.iter().zip(meanwhile) {
        assert!(through_the_run, "{command:?}");
        assert_eq!(read(&lab, command), (meanwhile, false), "{command:?}");
    }
    assert_eq!(events(&read(&lab, &["log", "stat"]).0), events(&stat.0));

    let mut run = Waiting::start(&lab);
    for round in 0..2 {
        let mut rows = run.wait_for_round(&lab, round);
        assert!(rows.iter().all(|row| row["round"] == round), "{rows:?}");
        rows.iter_mut().for_each(|row| row["verdict"] = "first".into());
        let file = lab.data_dir("judged.jsonl");
        std::fs::write(&file, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
        let import = ["feedback", "import", file.to_str().unwrap(), "--annotator", "ann"];
        succeeded(lab.dissent("data", &import));
    }
    assert!(run.0.wait().unwrap().success());
    assert_eq!(read(&lab, &["experiment", "list"]).0.matches("finished").count(), 1);
    succeeded(lab.dissent("data", &["replay", "lab", "--verify"]));
}

#[test]
fn a_run_resumes_with_a_sound_damaged_or_missing_snapshot_to_the_same_state() {
    let Some(lab) = lab_with_people() else { return };
    let config = lab.config();
    let run = ["run", config.to_str().unwrap()];
    succeeded(lab.dissent("data", &run));
    let mut rows = parsed(&succeeded(lab.dissent("data", &["feedback", "export", "lab"])).stdout);
    rows.iter_mut().for_each(|row| row["verdict"] = "first".into());
    let judged = config.with_file_name("judged.jsonl");
    std::fs::write(&judged, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let import = ["feedback", "import", judged.to_str().unwrap(), "--annotator", "ann"];
    succeeded(lab.dissent("data", &import));

    let mut ends = Vec::new();
    for name in ["whole", "damaged", "deleted"] {
        let mut copy = Command::new("cp");
        copy.arg("-r").arg(lab.data_dir("data")).arg(lab.data_dir(name));
        succeeded(copy);
        let snapshot = lab.data_dir(name).join("snapshots/lab.snapshot");
        let mut bytes = std::fs::read(&snapshot).unwrap();
        match name {
            "damaged" => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                std::fs::write(&snapshot, &bytes).unwrap();
            }
            "deleted" => std::fs::remove_file(&snapshot).unwrap(),
            _ => {}
        }
        let said = String::from_utf8(succeeded(lab.dissent(name, &run)).stderr).unwrap();
        assert_eq!(said.contains("ignoring a snapshot"), name == "damaged", "{said}");
        // This also compares the snapshot of this run.
        succeeded(lab.dissent(name, &["replay", "lab", "--verify"]));
        assert!(std::fs::read(&snapshot).unwrap() != bytes, "{name}: the run wrote no new snapshot");
        let mut replay = Replay::new();
        lab.events(name).iter().for_each(|recorded| replay.apply(recorded).unwrap());
        assert!(replay.experiment().is_finished());
        ends.push(replay.experiment().state_hash());
    }
    assert_eq!(ends[0], ends[1]);
    assert_eq!(ends[0], ends[2]);
}
