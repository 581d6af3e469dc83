//! Reports of fixed histories, and their escaping of hostile text.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod explanation;
pub(crate) mod history;
pub(crate) mod learning;

use std::process::{Command, Output};
use std::task::{Context, Waker};

use dissent::report::{self, ReportData, ReportError, Status, TOP_DEFAULT, Verdict};
use dissent_domain::conflict::Rule;
use dissent_domain::event::{Recorded, RoundEvaluated};
use dissent_domain::log::{Append, EventLog, ExpectedVersion};
use dissent_domain::plan::Plan;
use dissent_storage::{MemoryLog, SledLog, SledOptions};
use history::{Case, ScoredCompletion, history, plan};

pub(crate) fn case(name: &str, category: Option<&str>, scores: &[(f64, f64, u32)]) -> Case {
    let completions = scores.iter().enumerate().map(|(index, &(reward, logprob, tokens))| ScoredCompletion {
        text: format!("answer {index} to {name}"),
        logprob,
        tokens,
        reward,
    });
    Case {
        prompt_id: name.to_owned(),
        prompt: format!("What is {name}?"),
        category: category.map(str::to_owned),
        completions: completions.collect(),
    }
}

/// Prompts with opposed, agreeing and degenerate scores, and one that is set aside.
fn cases() -> Vec<Case> {
    vec![
        case(
            "opposed",
            Some("odd"),
            &[(1.0, -10.0, 4), (2.0, -20.0, 8), (3.0, -30.0, 12), (4.0, -40.0, 128)],
        ),
        case("agreed", Some("even"), &[(1.0, -40.0, 9), (2.0, -30.0, 9), (3.0, -20.0, 9), (4.5, -10.0, 9)]),
        case("constant", None, &[(0.5, -4.0, 2), (0.5, -3.0, 2), (0.5, -2.0, 2), (0.5, -1.0, 2)]),
        case("unanswered", Some("odd"), &[]),
        case("mixed", Some("even"), &[(1.0, -11.0, 5), (1.0, -11.0, 5), (2.0, -7.0, 5), (-3.0, -5.0, 5)]),
    ]
}

pub(crate) fn reported(plan: &Plan, events: &[Recorded]) -> ReportData {
    ReportData::from_events(events, &plan.experiment, None, TOP_DEFAULT).unwrap()
}

fn fixed() -> (Plan, Vec<Recorded>) {
    let cases = cases();
    let plan = plan("fixed", &cases);
    let events = history(&plan, &cases);
    (plan, events)
}

/// Rounds numbers to six digits: further ones depend on the mathematics library.
pub(crate) fn rounded(value: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Number(number) if number.is_f64() => {
            let rounded = (number.as_f64().unwrap() * 1e6).round() / 1e6;
            serde_json::json!(if rounded == 0.0 { 0.0 } else { rounded })
        }
        Value::Array(items) => items.iter().map(rounded).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(key, field)| (key.clone(), rounded(field))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

#[test]
fn markdown_of_a_fixed_history_matches_the_snapshot() {
    let (plan, events) = fixed();
    insta::assert_snapshot!(report::markdown(&reported(&plan, &events)).unwrap());
}

#[test]
fn json_of_a_fixed_history_matches_the_snapshot() {
    let (plan, events) = fixed();
    let json = report::json(&reported(&plan, &events)).unwrap();
    let value = serde_json::from_str(&json).unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&rounded(&value)).unwrap());
}

#[test]
fn the_summary_fits_a_terminal() {
    let (plan, events) = fixed();
    let summary = report::summary(&reported(&plan, &events));
    assert!((8..=15).contains(&summary.lines().count()), "{summary}");
    assert!(summary.lines().all(|line| line.chars().count() <= 110), "{summary}");
    insta::assert_snapshot!(summary);
}

#[test]
fn report_figures_equal_those_of_the_round_evaluation() {
    let (plan, events) = fixed();
    let data = reported(&plan, &events);
    let evaluated =
        events.iter().find_map(|recorded| RoundEvaluated::try_from(recorded.decode().unwrap()).ok());
    let evaluated = evaluated.unwrap();
    let counts = data.counts;
    assert_eq!(
        (counts.measured, counts.degenerate, counts.set_aside, counts.selected),
        (evaluated.measured, evaluated.degenerate, evaluated.set_aside, evaluated.selected)
    );
    let near = |found: f64, expected: Option<f64>| (found - expected.unwrap()).abs() < 1e-12;
    assert!(near(data.figures.mean_abs_pacs.unwrap().mean, evaluated.mean_abs_pacs));
    assert!(near(data.figures.kendall_tau.unwrap().mean, evaluated.kendall_tau));
    let selected: usize =
        data.prompts.iter().flat_map(|prompt| &prompt.completions).filter(|a| a.selected).count();
    assert_eq!(selected, counts.selected as usize);
    assert_eq!(data.status, Status::Complete);
}

#[test]
fn a_case_shows_the_completion_that_the_other_model_prefers() {
    let (plan, events) = fixed();
    let data = reported(&plan, &events);
    let top = &data.proxy_favours[0];
    let preferred = top.preferred.as_ref().unwrap();
    assert_eq!((top.prompt_id.as_str(), top.completion.sample, preferred.sample), ("opposed", 3, 0));
    assert_eq!((top.completion.reward_rank, top.completion.logprob_rank), (1, 4));
    assert_eq!((preferred.reward_rank, preferred.logprob_rank), (4, 1));
    assert_eq!(top.completion.text, "answer 3 to opposed");
    assert_eq!(preferred.text, "answer 0 to opposed");
    let top = &data.policy_favours[0];
    assert_eq!((top.prompt_id.as_str(), top.completion.sample), ("mixed", 3));
    assert_eq!(top.preferred.as_ref().unwrap().sample, 2);
    let repeated: Vec<_> = data.proxy_favours.iter().filter(|case| case.completion.times == 2).collect();
    assert_eq!(repeated.len(), 1, "a repeated sample is listed once");
}

#[test]
fn prompts_are_reported_in_file_order() {
    let (plan, events) = fixed();
    let names: Vec<String> =
        reported(&plan, &events).prompts.iter().map(|prompt| prompt.prompt_id.to_string()).collect();
    assert_eq!(names, ["opposed", "agreed", "constant", "unanswered", "mixed"]);
}

#[test]
fn every_prefix_of_a_history_has_a_report() {
    let (plan, events) = fixed();
    for end in 1..=events.len() {
        let data = reported(&plan, &events[..end]);
        let page = report::html(&data).unwrap();
        let text = report::markdown(&data).unwrap();
        report::json(&data).unwrap();
        assert!(report::summary(&data).starts_with("fixed · round 0 · "));
        assert_eq!(data.status == Status::Complete, end >= events.len() - 1, "after {end} events");
        if data.status == Status::InProgress {
            let progress = format!("in progress: {} of 5 prompts measured", data.counts.measured);
            assert!(page.contains(&progress) && text.contains(&progress), "after {end} events");
        }
    }
}

#[test]
fn conflict_of_a_single_completion_is_undefined() {
    let cases = vec![case("single", None, &[(1.0, -1.0, 3)])];
    let plan = plan("single", &cases);
    let data = reported(&plan, &history(&plan, &cases));
    assert_eq!(data.null_band, None);
    assert_eq!(data.figures.mean_abs_pacs, None);
    assert!(report::html(&data).unwrap().contains("Conflict is undefined on every prompt"));
    assert!(report::markdown(&data).unwrap().contains("Conflict is undefined on every prompt"));
}

/// Twenty prompts whose log-probabilities oppose their rewards (`sign` −1) or agree with them (1).
fn sided(sign: f64) -> ReportData {
    let cases: Vec<Case> = (0..20)
        .map(|index| {
            let scores: Vec<(f64, f64, u32)> = (0..6)
                .map(|sample| {
                    let x = f64::from((sample * 7 + index * 3) % 11);
                    (sign * x, x * 10.0 - 200.0, 20)
                })
                .collect();
            case(&format!("p{index}"), None, &scores)
        })
        .collect();
    let plan = plan("sided", &cases);
    reported(&plan, &history(&plan, &cases))
}

#[test]
fn opposition_is_above_noise_and_agreement_below() {
    let verdicts = |data: &ReportData| {
        (data.figures.mean_abs_pacs.unwrap().verdict, data.figures.kendall_tau.unwrap().verdict)
    };
    assert_eq!(verdicts(&sided(-1.0)), (Verdict::Above, Verdict::Below));
    assert_eq!(verdicts(&sided(1.0)), (Verdict::Below, Verdict::Above));
    assert!(report::summary(&sided(-1.0)).contains("More conflict than between unrelated scores"));
    assert!(report::summary(&sided(1.0)).contains("Less conflict than between unrelated scores"));
}

pub(crate) const HOSTILE: &str = "<script>alert('x')</script><img src=x onerror=\"alert(1)\">\u{1b}[31mred\u{1b}]8;;http://evil\u{7}\0 \
                       \u{202E}desrever\u{202C} \u{9b}2J ```\n# title\n| a | b |\n[link](javascript:alert(1)) &lt; {{ 7*7 }} \
                       {% raw %} </blockquote></svg><!-- http://evil.example";

pub(crate) fn hostile() -> (ReportData, String) {
    let mut cases = cases();
    cases[0].prompt = HOSTILE.to_owned();
    cases[0].prompt_id = "\"><script>id".to_owned();
    for case in &mut cases {
        case.category = Some("</desc><script>category".to_owned());
        case.completions.iter_mut().for_each(|completion| completion.text = HOSTILE.to_owned());
    }
    let mut plan = plan("hostile", &cases);
    plan.policy.name = "<b>policy</b>".to_owned();
    plan.policy.template = "</td><script>{prompt}".to_owned();
    plan.conflict.selection.rule = Rule::Mean;
    let data = reported(&plan, &history(&plan, &cases));
    let page = report::html(&data).unwrap();
    (data, page)
}

fn rest(text: &str) -> &str {
    text.get(1..).unwrap_or_default()
}

pub(crate) fn acts_on_its_reader(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[test]
fn the_html_report_escapes_hostile_text() {
    let (_, page) = hostile();
    for forbidden in ["<script", "<img", "<b>policy", "</desc><", "{{", "{%", " src=", " href=", "<!--"] {
        let found = page.find(forbidden).map(|at| page[at..].chars().take(80).collect::<String>());
        let is_text = matches!(forbidden, "{{" | "{%" | " src=");
        assert!(is_text || found.is_none(), "{found:?}");
    }
    assert!(page.contains("&lt;script&gt;alert(&#x27;x&#x27;)&lt;&#x2f;script&gt;"));
    assert!(
        page.contains("&lt;img src=x onerror=&quot;alert(1)&quot;&gt;␛[31mred"),
        "quotes are escaped too"
    );
    assert!(page.contains("␀") && page.contains("⟨U+202E⟩desrever") && page.contains("⟨U+009B⟩2J"));
    assert_eq!(page.chars().find(|c| acts_on_its_reader(*c)), None);
    assert!(page.contains("default-src 'none'"));
    assert_eq!(page.matches("<svg ").count(), page.matches("</svg>").count());
}

#[test]
fn markdown_and_the_summary_escape_hostile_text() {
    let (data, _) = hostile();
    let text = report::markdown(&data).unwrap();
    // The text without escaped characters.
    let unescaped: String = text
        .split('\\')
        .enumerate()
        .map(|(index, part)| if index == 0 { part } else { rest(part) })
        .collect();
    for forbidden in
        ["<script", "<img", "](javascript", "http://evil", "\n# title", "> # title", "> | a", "```"]
    {
        assert!(!unescaped.contains(forbidden), "{forbidden}");
    }
    assert!(text.contains(r"\<script\>alert('x')\</script\>"));
    for shown in [text, report::summary(&data)] {
        assert_eq!(shown.chars().find(|c| acts_on_its_reader(*c)), None);
    }
}

#[test]
fn json_keeps_hostile_text_and_escapes_control_characters() {
    let (data, _) = hostile();
    let json = report::json(&data).unwrap();
    assert_eq!(json.chars().find(|c| acts_on_its_reader(*c)), None);
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["proxy_favours"][0]["answer"]["text"], HOSTILE);
}

pub(crate) fn append(log: &dyn EventLog, plan: &Plan, events: &[Recorded]) {
    for event in events {
        let append = Append {
            experiment: plan.experiment.clone(),
            expected: ExpectedVersion::Any,
            events: vec![event.event.clone()],
        };
        let mut appended = log.append(append);
        let mut context = Context::from_waker(Waker::noop());
        // One poll may precede durability; flush waits for it.
        if appended.as_mut().poll(&mut context).is_pending() {
            log.flush().unwrap();
        }
    }
    log.flush().unwrap();
}

fn many() -> (Plan, Vec<Recorded>) {
    let cases: Vec<Case> = (0..50)
        .map(|index| {
            let x = f64::from(index);
            case(
                &format!("p{index}"),
                None,
                &[(x.sin(), -x, 3), (x.cos(), -7.0, 4), (1.0, -3.0 * x.cos(), 5)],
            )
        })
        .collect();
    let plan = plan("many", &cases);
    let events = history(&plan, &cases);
    (plan, events)
}

#[test]
fn a_report_reads_a_log_of_several_pages() {
    let (plan, events) = many();
    let log = MemoryLog::new();
    append(&log, &plan, &events);
    let other = fixed();
    append(&log, &other.0, &other.1);
    let from_log = ReportData::from_log(&log, &plan.experiment, None).unwrap();
    assert_eq!(from_log, reported(&plan, &events));
    assert_eq!(from_log.counts.measured, 50);
}

#[test]
fn an_unknown_experiment_or_round_is_named_with_the_existing_ones() {
    let (plan, events) = fixed();
    let log = MemoryLog::new();
    append(&log, &plan, &events);
    let absent = "absent".to_owned().try_into().unwrap();
    let error = ReportData::from_log(&log, &absent, None).unwrap_err();
    assert_eq!(error.to_string(), "unknown experiment absent: the event log has fixed");
    let error = ReportData::from_log(&log, &plan.experiment, Some(3)).unwrap_err();
    assert!(matches!(error, ReportError::UnknownRound { round: 3, opened: 1, .. }), "{error}");
    assert!(error.to_string().ends_with("use 0, the only opened round"), "{error}");
    let empty = ReportData::from_log(&MemoryLog::new(), &absent, None).unwrap_err();
    assert!(empty.to_string().contains("dissent run"), "{empty}");
}

fn dissent(data_dir: &std::path::Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dissent"));
    command.arg("--data-dir").arg(data_dir).arg("report").args(args).output().unwrap()
}

#[test]
fn report_writes_html_to_a_file_and_prints_other_formats() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, events) = fixed();
    let log = SledLog::open(folder.path().join("log"), &SledOptions::default()).unwrap();
    append(&log, &plan, &events);
    drop(log);
    let said = |args: &[&str]| {
        let output = dissent(folder.path(), args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let page = folder.path().join("reports/fixed.html");
    assert_eq!(said(&["fixed"]).trim_end(), page.display().to_string());
    assert!(std::fs::read_to_string(&page).unwrap().starts_with("<!DOCTYPE html>"));
    assert_eq!(std::fs::read_dir(page.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    assert!(said(&["fixed", "--format", "md"]).starts_with("# Where"));
    assert!(said(&["fixed", "--format", "html", "--output", "-"]).starts_with("<!DOCTYPE html>"));
    let json: serde_json::Value =
        serde_json::from_str(&said(&["fixed", "--format", "json", "--top", "1"])).unwrap();
    assert_eq!(json["schema"], "dissent.report/1");
    assert_eq!(json["proxy_favours"].as_array().unwrap().len(), 1);
    assert_eq!(json["prompts"].as_array().unwrap().len(), 5);
}

#[test]
fn report_refuses_a_missing_log_and_creates_none() {
    let folder = tempfile::tempdir().unwrap();
    let output = dissent(folder.path(), &["fixed"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no event log"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    let (plan, events) = fixed();
    let log = SledLog::open(folder.path().join("log"), &SledOptions::default()).unwrap();
    append(&log, &plan, &events[..3]);
    drop(log);
    let output = dissent(folder.path(), &["other"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the event log has fixed"));
}
