//! `dissent feedback` exports comparisons to annotators and imports their judgements.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use dissent_domain::event::{FeedbackReceived, Recorded};
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;
use dissent_storage::SledLog;
use serde_json::Value;
use tempfile::TempDir;

use crate::report::append;
use crate::report::history::{Case, measured};
use crate::report::learning::{cases, learning_plan};
use crate::support::open_log;
use crate::support::required::required;

/// A data folder with a round that waits for two judgements of each of four comparisons.
struct FeedbackLab {
    folder: TempDir,
}

impl FeedbackLab {
    fn new() -> Self {
        Self::of(cases())
    }

    fn of(cases: Vec<Case>) -> Self {
        let plan = plan(&cases);
        Self::with(&plan, &cases)
    }

    fn with(plan: &Plan, cases: &[Case]) -> Self {
        let lab = Self { folder: tempfile::tempdir().unwrap() };
        let run = measured(plan, cases);
        append(&lab.log(), plan, &run.events);
        lab
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> SledLog {
        open_log(&self.path("data/log"))
    }

    fn events(&self) -> Vec<Recorded> {
        self.log().read(0, usize::MAX).unwrap()
    }

    fn received(&self) -> Vec<FeedbackReceived> {
        let received = self
            .events()
            .into_iter()
            .filter_map(|recorded| FeedbackReceived::try_from(recorded.decode().unwrap()).ok());
        received.collect()
    }

    fn feedback(&self, args: &[&str], stdin: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dissent"));
        command.arg("--data-dir").arg(self.path("data")).arg("feedback").args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Runs a command that succeeds, and returns its standard output.
    fn output(&self, args: &[&str], stdin: &str) -> String {
        let output = self.feedback(args, stdin);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs an import that fails and changes nothing, and returns its error.
    fn import_error(&self, stdin: &str) -> String {
        let before = self.events().len();
        let output = self.feedback(&["import", "-"], stdin);
        assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(self.events().len(), before, "all or nothing");
        String::from_utf8(output.stderr).unwrap()
    }

    fn rows(&self, args: &[&str]) -> Vec<Value> {
        let args = [&["export", "desk"], args].concat();
        self.output(&args, "").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Returns the numbers in the first line that an import prints: judgements recorded, recorded already, too
/// late, without a verdict. Zeros after the first are omitted.
fn counts(printed: &str) -> Vec<u32> {
    let words = printed.lines().next().unwrap_or_default().split(' ');
    words.filter_map(|word| word.parse().ok()).collect()
}

fn plan(cases: &[Case]) -> Plan {
    learning_plan("desk", cases, 1)
}

fn line(comparison: u32, annotator: &str, verdict: &str) -> String {
    format!(
        "{{\"experiment\": \"desk\", \"round\": 0, \"comparison\": {comparison}, \"annotator\": \"{annotator}\", \
         \"verdict\": \"{verdict}\"}}\n"
    )
}

/// Returns a line of the row with a verdict.
fn judged(mut row: Value, verdict: &str) -> String {
    row["verdict"] = verdict.into();
    format!("{row}\n")
}

#[test]
fn annotators_see_texts_without_rewards_or_conflict() {
    let lab = FeedbackLab::new();
    let rows = lab.rows(&["--annotator", "ann"]);
    assert_eq!(rows.len(), 4);
    for row in &rows {
        let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
        let expected = [
            "experiment",
            "round",
            "comparison",
            "prompt_id",
            "prompt",
            "first",
            "second",
            "annotator",
            "verdict",
            "first_unsafe",
            "second_unsafe",
            "comment",
        ];
        assert_eq!(keys, expected, "no reward, PACS or preference");
        assert_eq!(row["annotator"], "ann");
        let name = row["prompt_id"].as_str().unwrap();
        assert_eq!(row["prompt"], format!("What is {name}?"));
        for side in ["first", "second"] {
            let text = row[side].as_str().unwrap();
            assert!(text.starts_with("answer ") && text.ends_with(&format!(" to {name}")), "{text}");
        }
        assert_ne!(row["first"], row["second"]);
    }
}

#[test]
fn judgements_are_imported_once_and_in_any_order() {
    let lab = FeedbackLab::new();
    let rows = lab.rows(&[]);
    let of_ann: String = rows.iter().rev().map(|row| judged(row.clone(), "first")).collect();
    let printed = lab.output(&["import", "-", "--annotator", "ann"], &of_ann);
    assert_eq!(counts(&printed), [4], "{printed}");
    // The same file again, and one line of bob twice.
    let printed = lab.output(&["import", "-", "--annotator", "ann"], &of_ann);
    assert_eq!(counts(&printed), [0, 4], "{printed}");
    assert_eq!(lab.rows(&["--annotator", "ann"]).len(), 0, "ann has judged all");
    assert_eq!(lab.rows(&["--annotator", "bob"]).len(), 4);
    let of_bob = line(0, "bob", "first")
        + &line(0, "bob", "first")
        + &line(1, "bob", "Second ")
        + &line(2, "bob", "tie");
    let printed = lab.output(&["import", "-"], &of_bob);
    assert_eq!(counts(&printed), [3, 1], "{printed}");
    assert_eq!(lab.rows(&[]).len(), 1, "only one comparison still needs a judgement");
    assert_eq!(lab.rows(&["--all"]).len(), 4);
    assert_eq!(lab.received().len(), 7);
    let status: Value = serde_json::from_str(&lab.output(&["status", "desk", "--json"], "")).unwrap();
    assert_eq!(status["open"], 1);
    assert_eq!(status["annotators"], serde_json::json!({"ann": 4, "bob": 3}));
    assert_eq!(status["pairs"][0]["comparisons"], 3);
    // One of three pairs of judgements agrees.
    assert!((status["agreement"]["observed"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-12);
    lab.output(&["import", "-"], &line(3, "bob", "second"));
    assert!(lab.rows(&[]).is_empty(), "every comparison has its judgements");
}

#[test]
fn a_judgement_is_recorded_in_full_under_an_id_of_comparison_and_annotator() {
    let lab = FeedbackLab::new();
    let text = "{\"experiment\": \"desk\", \"round\": 0, \"comparison\": 2, \"annotator\": \" ann \", \"verdict\": \"second\", \
                \"first_unsafe\": true, \"second_unsafe\": false, \"comment\": \"rude\"}";
    lab.output(&["import", "-"], text);
    let received = lab.received();
    let cases = cases();
    let plan = plan(&cases);
    assert_eq!((received[0].annotator.as_str(), received[0].is_unsafe), ("ann", Some([true, false])));
    assert_eq!(received[0].comment.as_deref(), Some("rude"));
    let recorded = lab.events().pop().unwrap();
    let requested = dissent_domain::event_ids::feedback_requested_id(&plan, 0, 2);
    assert_eq!((recorded.event.id, recorded.event.causation), (requested.judged_by("ann"), Some(requested)));
}

#[test]
fn an_import_with_a_bad_line_names_it_and_records_nothing() {
    let lab = FeedbackLab::new();
    let good = line(0, "ann", "first");
    for (bad, expected) in [
        (line(1, "ann", "left"), "stdin:2: verdict:"),
        (line(9, "ann", "tie"), "stdin:2: comparison:"),
        (line(1, "", "tie"), "stdin:2: annotator:"),
        (line(1, "ann", "tie").replace("\"round\": 0", "\"round\": 5"), "stdin:2: round:"),
        (line(1, "ann", "tie").replace("desk", "chair"), "stdin:2: experiment:"),
        (line(1, "ann", "tie").replace("desk", "../x"), "stdin:2: experiment:"),
        (line(1, "ann", "tie").replace("0,", "-1,"), "stdin:2: round:"),
        (line(0, "ann", "second"), "stdin:2: verdict:"),
        (line(1, "ann", "tie").replace("}", ", \"first_unsafe\": true}"), "stdin:2: second_unsafe:"),
        (line(1, &"x".repeat(300), "tie"), "stdin:2: annotator:"),
        ("{\"experiment\": \"desk\"\n".to_owned(), "stdin:2: "),
    ] {
        let message = lab.import_error(&format!("{good}{bad}"));
        assert!(message.contains(expected), "{expected}: {message}");
    }
    lab.output(&["import", "-"], &good);
    let message = lab.import_error(&(line(1, "ann", "tie") + &line(0, "ann", "second")));
    assert!(message.contains("stdin:2: verdict:"), "{message}");
    lab.import_error("");
    lab.import_error("a,b\n1,2\n");
}

#[test]
fn late_judgements_are_counted_and_not_recorded() {
    let lab = FeedbackLab::new();
    let all: String =
        ["ann", "bob"].iter().flat_map(|name| (0..4).map(move |at| line(at, name, "first"))).collect();
    lab.output(&["import", "-"], &all);
    // The next events of a run.
    let cases = cases();
    let plan = plan(&cases);
    let mut run = measured(&plan, &cases);
    let had = run.events.len();
    for received in lab.received() {
        run.propose(received.into());
    }
    while run.record_due() {}
    append(&lab.log(), &plan, &run.events[had + 8..]);
    let events = lab.events().len();
    let printed = lab.output(&["import", "-"], &(line(0, "cy", "tie") + &line(0, "ann", "first")));
    assert_eq!(counts(&printed), [0, 1, 1], "{printed}");
    assert_eq!(lab.events().len(), events);
    assert_eq!(lab.rows(&[]).len(), 0, "no comparison is open");
}

#[test]
fn a_table_is_exported_without_formulas_and_imported_again() {
    let mut cases = cases();
    for case in &mut cases {
        case.prompt = format!("=HYPERLINK(\"http://x\",\"{}\")", case.prompt_id);
        case.completions.iter_mut().for_each(|answer| {
            answer.text = format!("@SUM(A1) \"quoted\", a\nline, \u{1b}[31m\u{202E}{}", answer.logprob);
        });
    }
    let lab = FeedbackLab::of(cases);
    let path = lab.path("ann.csv");
    let output = path.to_str().unwrap();
    lab.output(&["export", "desk", "--format", "csv", "--output", output, "--annotator", "ann"], "");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("\u{FEFF}experiment,round,comparison,"), "{text}");
    assert!(
        text.contains("\"'=HYPERLINK(")
            && text.contains("\"'@SUM(A1) \"\"quoted\"\", a\nline, ␛[31m⟨U+202E⟩")
    );
    assert!(!text.contains(",=") && !text.contains("\"=") && !text.contains("\"@") && !text.contains(",@"));
    // First without verdicts, then with the delimiter of a European spreadsheet.
    let printed = lab.output(&["import", output], "");
    assert_eq!(counts(&printed), [0, 4], "{printed}");
    let table = "experiment;round;comparison;annotator;verdict;first_unsafe;second_unsafe;comment\n\
                 desk;0;0;ann;FIRST;no;yes;\"'=1+1; really\"\n\
                 ;;;;;;;\n\
                 desk;0;1;ann;;;;\n";
    let printed = lab.output(&["import", "-"], table);
    assert_eq!(counts(&printed), [1, 1], "{printed}");
    let received = lab.received();
    assert_eq!(received[0].comment.as_deref(), Some("=1+1; really"));
    assert_eq!(received[0].is_unsafe, Some([false, true]));
    let message = lab
        .import_error("experiment,round,comparison,annotator,verdict\ndesk,0,0,bob,tie\ndesk,0,x,bob,tie\n");
    assert!(message.contains("stdin:3: comparison:"), "{message}");
}

/// Returns the text between two marks.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    text.split_once(begin).unwrap().1.split_once(end).unwrap().0
}

#[test]
fn the_judging_page_shows_hostile_texts_and_executes_none() {
    let mut cases = cases();
    for case in &mut cases {
        case.completions.iter_mut().for_each(|answer| {
            answer.text =
                format!("</script><script>alert(1)</script>\u{202E}\u{2028}<!-- {}", answer.logprob);
        });
    }
    let lab = FeedbackLab::of(cases);
    let page = lab.output(&["export", "desk", "--format", "html"], "");
    assert_eq!(page.matches("<script").count(), 3, "the task and the two scripts of the page");
    assert!(!page.contains("<!--") && !page.contains('\u{202E}') && !page.contains('\u{2028}'));
    let nonce = between(&page, "script-src 'nonce-", "'");
    assert_eq!(page.matches(&format!("nonce=\"{nonce}\">")).count(), 3);
    for outside in ["http:", "https:", "src=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}: the page would load another resource");
    }
    let data = between(&page, &format!("id=\"task\" nonce=\"{nonce}\">"), "</script>");
    let task: Value = serde_json::from_str(data).unwrap();
    assert_eq!(
        (&task["experiment"], &task["round"], &task["annotator"]),
        (&"desk".into(), &0.into(), &Value::Null)
    );
    let shown = task["comparisons"].as_array().unwrap();
    let rows = lab.rows(&[]);
    assert_eq!(shown.len(), rows.len());
    for (shown, row) in shown.iter().zip(&rows) {
        let keys: Vec<&String> = shown.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            ["comparison", "prompt", "first", "second", "fingerprint"],
            "no reward or log-probability"
        );
        assert_eq!(shown["comparison"], row["comparison"]);
        let text =
            row["first"].as_str().unwrap().replace('\u{202E}', "⟨U+202E⟩").replace('\u{2028}', "⟨U+2028⟩");
        assert_eq!(shown["first"], text.as_str());
    }
}

/// Runs the script of the judging page: stores judgements, restores them and writes them as lines.
const JUDGE: &str = r#"
const before = new Judgements(task, null);
const open = [before.nextOpen(0)];
Object.assign(before.of.get(0), { verdict: "first", comment: " rude \n" });
Object.assign(before.of.get(2), { verdict: "tie", unsafe: [false, true] });
before.of.get(1).comment = "no verdict yet";
const after = new Judgements(task, before.serialize());
open.push(after.nextOpen(0), after.nextOpen(2));
Object.assign(before.of.get(1), { verdict: "second" });
Object.assign(before.of.get(3), { verdict: "second" });
open.push(before.nextOpen(1));
const others = structuredClone(task);
others.comparisons[0].fingerprint = "other texts";
const restored = [after, new Judgements(others, after.serialize()), new Judgements(task, "[not JSON"), new Judgements(task, "null")];
console.log(JSON.stringify({ open, counts: restored.map((judgements) => judgements.count()), lines: after.lines("ann é") }));
"#;

#[test]
fn judgements_of_the_judging_page_can_be_imported() {
    let lab = FeedbackLab::new();
    let page = lab.output(&["export", "desk", "--format", "html"], "");
    let data = between(&page, "<script type=\"application/json\" id=\"task\" nonce=\"", "</script>");
    let data = data.split_once('>').unwrap().1;
    let script = between(&page, "\"use strict\";", "</script>");
    let program = format!("const task = {data};\n{script}\n{JUDGE}");
    let node = Command::new("node").arg("--eval").arg(&program).output();
    let node = node.map_err(|error| format!("failed to start node: {error}: apt-get install nodejs"));
    let Some(node) = required(node) else { return };
    assert!(node.status.success(), "{}", String::from_utf8_lossy(&node.stderr));
    let result: Value = serde_json::from_slice(&node.stdout).unwrap();
    assert_eq!(result["open"], serde_json::json!([0, 1, 3, -1]));
    assert_eq!(result["counts"], serde_json::json!([2, 1, 0, 0]));
    let printed = lab.output(&["import", "-"], result["lines"].as_str().unwrap());
    assert_eq!(counts(&printed), [2], "{printed}");
    let received = lab.received();
    let of = |at: usize| (received[at].comparison, received[at].annotator.as_str(), received[at].is_unsafe);
    assert_eq!((of(0), of(1)), ((0, "ann é", None), (2, "ann é", Some([false, true]))));
    assert_eq!(received[0].comment.as_deref(), Some("rude"));
    assert_eq!(lab.rows(&["--annotator", "ann é"]).len(), 2);
}

#[test]
fn comparisons_are_assigned_to_annotators_in_files_of_their_own() {
    let lab = FeedbackLab::new();
    lab.output(&["import", "-"], &line(0, "ann", "first"));
    let pattern = lab.path("judge-{annotator}.jsonl");
    let names = ["--annotator", "ann", "--annotator", "ben ../", "--annotator", "cy"];
    let to = ["export", "desk", "--output", pattern.to_str().unwrap()];
    let output = lab.feedback(&[&to[..], &names[..]].concat(), "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut lines = String::new();
    for (file, name) in [("judge-ann", "ann"), ("judge-ben----", "ben ../"), ("judge-cy", "cy")] {
        let text = std::fs::read_to_string(lab.path(&format!("{file}.jsonl"))).unwrap();
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!((2..=3).contains(&rows.len()), "{name}: {text}");
        assert!(rows.iter().all(|row| row["annotator"] == name), "{text}");
        rows.into_iter().for_each(|row| lines += &judged(row, "tie"));
    }
    assert_eq!(lines.lines().count(), 7, "two judgements of four comparisons, without the recorded one");
    lab.output(&["import", "-"], &lines);
    assert!(lab.rows(&[]).is_empty(), "every comparison has its judgements");
    for (path, names) in [
        ("judge.jsonl", ["ann", "ben"]),
        ("{annotator}.jsonl", ["a b", "a/b"]),
        ("{annotator}.jsonl", ["ann", "ann"]),
        ("-", ["ann", "ben"]),
    ] {
        let [one, other] = names;
        let args = ["export", "desk", "--output", path, "--annotator", one, "--annotator", other];
        let output = lab.feedback(&args, "");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && error.contains(one), "{error}");
    }
}

#[test]
fn an_export_to_too_few_annotators_warns_of_missing_judgements() {
    let cases = cases();
    let mut plan = plan(&cases);
    plan.learning.as_mut().unwrap().feedback.overlap = 3;
    let lab = FeedbackLab::with(&plan, &cases);
    let pattern = lab.path("{annotator}.csv");
    let args =
        ["export", "desk", "--output", pattern.to_str().unwrap(), "--annotator", "ann", "--annotator", "ben"];
    let notice = |lab: &FeedbackLab| String::from_utf8(lab.feedback(&args, "").stderr).unwrap();
    assert!(notice(&lab).contains("without an annotator"));
    lab.output(&["import", "-"], &(0..4).map(|at| line(at, "cy", "tie")).collect::<String>());
    assert!(!notice(&lab).contains("without an annotator"));
}

#[test]
fn a_command_beside_a_process_without_a_socket_gives_up_in_time() {
    let lab = FeedbackLab::new();
    let log = lab.log();
    for arguments in [&["import", "-"][..], &["status", "desk"]] {
        let begun = Instant::now();
        let output = lab.feedback(arguments, &line(0, "ann", "first"));
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(begun.elapsed() < Duration::from_secs(60));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("in use by another process") && said.contains("stop that process"), "{said}");
    }
    let bad = lab.feedback(&["import", "-"], &line(0, "ann", "left"));
    assert_eq!(bad.status.code(), Some(2));
    drop(log);
    assert!(lab.received().is_empty());
}

#[test]
fn exporting_comparisons_of_an_experiment_without_feedback_is_an_error() {
    let lab = FeedbackLab { folder: tempfile::tempdir().unwrap() };
    let cases = cases();
    let mut plan = plan(&cases);
    plan.learning = None;
    append(&lab.log(), &plan, &crate::report::history::history(&plan, &cases));
    let output = lab.feedback(&["export", "desk"], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("[feedback]"));
}
