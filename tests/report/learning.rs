//! The report of an experiment that learns.

use std::collections::BTreeMap;

use dissent::report::{self, Figure, ReportData, Status};
use dissent_domain::conflict::{Rule, SelectionSettings};
use dissent_domain::event::{
    Event, FeedbackReceived, FiguresByPrompt, PolicyEvaluated, PolicyTuned, RewardModelRefined, Stage,
    TrainingProgressed, TrainingStarted,
};
use dissent_domain::feedback::{Opponent, Verdict};
use dissent_domain::id::PromptId;
use dissent_domain::plan::{
    DegenerateCompletions, EvaluationPlan, FeedbackPlan, FeedbackSource, GoldPlan, GuardPlan, LearningPlan,
    Plan, PromptSource, RefinementPlan, TuningPlan,
};
use dissent_domain::training::{Hyperparameters, PolicyObjective};

use super::history::{Case, Run, measured, plan};
use super::{HOSTILE, acts_on_its_reader, case, reported, rounded};

/// Three prompts of four completions each, with four comparisons.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("opposed", None, &[(1.0, -10.0, 4), (2.0, -20.0, 8), (3.0, -30.0, 12), (4.0, -40.0, 16)]),
        case("agreed", None, &[(1.0, -40.0, 9), (2.0, -30.0, 9), (3.0, -20.0, 9), (4.5, -10.0, 9)]),
        case("mixed", None, &[(1.0, -11.0, 5), (1.5, -12.0, 5), (2.0, -7.0, 5), (-3.0, -5.0, 5)]),
    ]
}

/// Returns a plan that learns from two judgements of each comparison.
pub(crate) fn learning_plan(name: &str, cases: &[Case], rounds: u32) -> Plan {
    let learning = LearningPlan {
        feedback: FeedbackPlan {
            source: FeedbackSource::People,
            opponent: Opponent::Conflict,
            overlap: 2,
            budget: None,
            audit: 0.0,
            degenerate: DegenerateCompletions::Ask,
            focus: None,
        },
        refinement: RefinementPlan { original: None, hyperparameters: Hyperparameters::default() },
        tuning: TuningPlan {
            objective: PolicyObjective::default(),
            hyperparameters: Hyperparameters::default(),
        },
        evaluation: EvaluationPlan {
            prompts: PromptSource { artifact: "1e".repeat(32), count: 10 },
            samples: 4,
            gold: Some(GoldPlan { name: "gold".to_owned(), fingerprint: "g".to_owned() }),
        },
        guards: GuardPlan { stop_on_reward_hacking: true, ..GuardPlan::default() },
    };
    let mut plan = plan(name, cases);
    plan.rounds = rounds;
    plan.conflict.selection =
        SelectionSettings { rule: Rule::Budget, budget: Some(6), ..SelectionSettings::default() };
    plan.learning = Some(Box::new(learning));
    plan
}

fn evaluation(run: &Run<'_>, evaluation: u32, gold: [f64; 2], proxy: [f64; 2], kl: f64) -> Event {
    PolicyEvaluated {
        evaluation,
        policy: run.experiment.policy().unwrap().fingerprint,
        reward_model: run.experiment.reward_model().unwrap().fingerprint,
        prompts: 10,
        completions: 40,
        gold_reward: Some(gold),
        proxy_reward: proxy,
        refined_reward: [proxy[0] + 0.5, proxy[1]],
        proxy_agreement: Some(0.62),
        refined_agreement: Some(0.62 + 0.1 * f64::from(evaluation)),
        mean_abs_pacs: Some(1.1),
        kendall_tau: None,
        kl,
        response_tokens: 31.25,
        stopped: 0.9,
        samples: None,
        by_prompt: Some(Box::new(by_prompt(evaluation, gold[0], proxy[0], kl))),
    }
    .into()
}

/// Ten prompts around the means of an evaluation.
fn by_prompt(evaluation: u32, gold: f64, proxy: f64, kl: f64) -> FiguresByPrompt {
    let around = |mean: f64, factor: u32| -> Vec<f64> {
        (0..10).map(|at| mean + 0.02 * (f64::from((at * factor + 3 * evaluation) % 10) - 4.5)).collect()
    };
    let agreed = |of_six: u32| (0..10).map(|at| (of_six + at % 2).min(6)).collect::<Vec<u32>>();
    FiguresByPrompt {
        prompts: (0..10).map(|at| PromptId::new(format!("h{at}")).unwrap()).collect(),
        gold_reward: around(gold, 7),
        proxy_reward: around(proxy, 3),
        refined_reward: around(proxy + 0.5, 9),
        kl: around(kl, 1),
        response_tokens: vec![31.25; 10],
        stopped: vec![0.9; 10],
        ordered: vec![6; 10],
        proxy_agreed: agreed(3),
        refined_agreed: agreed(3 + evaluation),
        first_refined_agreed: if evaluation == 0 { Vec::new() } else { agreed(4) },
    }
}

/// All annotators prefer the first completion, except the second annotator in the last comparison.
fn judge(run: &mut Run<'_>, annotators: &[&str]) {
    let asked = run.experiment.rounds()[0].learning().comparisons().len();
    for comparison in 0..u32::try_from(asked).unwrap() {
        for (index, annotator) in annotators.iter().enumerate() {
            let is_last = comparison as usize + 1 == asked;
            let verdict = if is_last && index == 1 { Verdict::Second } else { Verdict::First };
            let (annotator, comment) = ((*annotator).to_owned(), None);
            run.propose(
                FeedbackReceived { round: 0, comparison, annotator, verdict, is_unsafe: None, comment }
                    .into(),
            );
        }
    }
}

fn train(run: &mut Run<'_>, stage: Stage) {
    run.propose(
        TrainingStarted { round: 0, stage, attempt: 0, worker: "w".to_owned(), lease_ms: 1000 }.into(),
    );
    for step in 1..=5_u32 {
        let metrics = BTreeMap::from([
            ("loss".to_owned(), 1.0 / f64::from(step)),
            ("accuracy".to_owned(), 0.1 * f64::from(step)),
            ("objective/kl".to_owned(), 0.2 * f64::from(step)),
        ]);
        let (sequence, step, steps) = (2 * (step - 1), u64::from(step), 5);
        let checkpoint = None;
        let progressed =
            TrainingProgressed { round: 0, stage, attempt: 0, sequence, step, steps, checkpoint, metrics };
        run.propose(progressed.clone().into());
        // A checkpoint of the same step has no metrics.
        let metrics = BTreeMap::new();
        let checkpoint = Some("c".repeat(64));
        run.propose(TrainingProgressed { sequence: sequence + 1, checkpoint, metrics, ..progressed }.into());
    }
    let (adapter, metrics) = ("a".repeat(64), BTreeMap::new());
    let fingerprint = format!("{}-new", stage.name());
    run.propose(match stage {
        Stage::Reward => RewardModelRefined {
            round: 0,
            attempt: 0,
            adapter,
            fingerprint,
            preferences: 3,
            rehearsed: 200,
            metrics,
        }
        .into(),
        Stage::Policy => PolicyTuned { round: 0, attempt: 0, adapter, fingerprint, metrics }.into(),
    });
    while run.record_due() {}
}

/// Returns a finished round whose last evaluation has this gold reward.
fn learnt<'a>(plan: &'a Plan, cases: &[Case], annotators: &[&str], gold: f64) -> Run<'a> {
    let mut run = measured(plan, cases);
    let first = evaluation(&run, 0, [0.25, 0.02], [1.0, 0.1], 0.0);
    run.propose(first);
    judge(&mut run, annotators);
    while run.record_due() {}
    train(&mut run, Stage::Reward);
    train(&mut run, Stage::Policy);
    let last = evaluation(&run, 1, [gold, 0.02], [1.75, 0.1], 3.5);
    run.propose(last);
    while run.record_due() {}
    run
}

#[test]
fn a_report_states_that_a_tuning_without_pairs_was_skipped() {
    let cases = cases();
    let plan = learning_plan("learnt", &cases, 2);
    let mut run = measured(&plan, &cases);
    let first = evaluation(&run, 0, [0.25, 0.02], [1.0, 0.1], 0.0);
    run.propose(first);
    judge(&mut run, &["ann", "bob"]);
    while run.record_due() {}
    train(&mut run, Stage::Reward);
    let (round, stage, attempt) = (0, Stage::Policy, 0);
    let worker = "test".to_owned();
    run.propose(TrainingStarted { round, stage, attempt, worker, lease_ms: 60_000 }.into());
    let metrics = BTreeMap::from([(PolicyTuned::PAIRS.to_owned(), 0.0)]);
    let (adapter, fingerprint) = ("a".repeat(64), "policy-new".to_owned());
    run.propose(PolicyTuned { round, attempt, adapter, fingerprint, metrics }.into());
    let said = report::markdown(&reported_round(&plan, &run)).unwrap();
    assert!(said.contains("Tuning of the policy: skipped, because the reward model rates"), "{said}");
}

/// Returns the report of a round whose last evaluation has this gold reward.
pub(crate) fn fixed(gold: f64) -> (Plan, ReportData) {
    let cases = cases();
    let plan = learning_plan("learnt", &cases, 2);
    let data = reported_round(&plan, &learnt(&plan, &cases, &["ann", "bob"], gold));
    (plan, data)
}

fn reported_round(plan: &Plan, run: &Run<'_>) -> ReportData {
    ReportData::from_events(&run.events, &plan.experiment, Some(0), 2).unwrap()
}

#[test]
fn markdown_of_a_learning_round_matches_the_snapshot() {
    insta::assert_snapshot!(report::markdown(&fixed(0.5).1).unwrap());
}

#[test]
fn json_of_a_learning_round_matches_the_snapshot() {
    let json = report::json(&fixed(0.5).1).unwrap();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&rounded(&value["learning"])).unwrap());
}

#[test]
fn the_summary_shows_before_and_after() {
    let summary = report::summary(&fixed(0.5).1);
    assert!(summary.lines().all(|line| line.chars().count() <= 110), "{summary}");
    insta::assert_snapshot!(summary);
}

#[test]
fn changes_compare_the_first_evaluation_with_the_last() {
    let learning = fixed(0.5).1.learning.unwrap();
    let change = |figure| learning.changes.iter().find(|change| change.figure == figure);
    let gold = change(Figure::GoldReward).unwrap();
    let difference = gold.difference.unwrap();
    assert!((difference.value - 0.25).abs() < 1e-12);
    assert!((difference.standard_error.unwrap() - 0.02 * 2.0_f64.sqrt()).abs() < 1e-12);
    assert_eq!(change(Figure::Kl).unwrap().after.unwrap().standard_error, None);
    assert_eq!(change(Figure::KendallTau), None, "it is undefined throughout");
    let feedback = &learning.feedback[0];
    assert_eq!((feedback.comparisons, feedback.judgements, feedback.ties), (4, 8, Some(1)));
    assert_eq!(feedback.annotators, [("ann".to_owned(), 4), ("bob".to_owned(), 4)]);
    assert_eq!((feedback.pairs.len(), feedback.agreement.observed), (1, Some(0.75)));
    assert!(learning.warnings.is_empty() && learning.stopped.is_none());
}

#[test]
fn a_page_shows_the_trainings_and_the_rounds_as_lines() {
    let page = report::html(&fixed(0.5).1).unwrap();
    for shown in [
        "Before and after",
        "Gold reward over rounds",
        "Loss of the reward model",
        "Accuracy of the reward model",
        "KL from the first policy, nats of the policy",
        "on 3 preferences from feedback and 200 from the original data",
    ] {
        assert!(page.contains(shown), "{shown}");
    }
    assert!(!page.contains("Reward hacking is suspected"));
    assert_eq!(page.matches("<svg ").count(), page.matches("</svg>").count());
}

#[test]
fn every_format_reports_suspected_reward_hacking_and_the_early_stop() {
    let (_, data) = fixed(0.1);
    for shown in [report::html(&data).unwrap(), report::markdown(&data).unwrap()] {
        assert!(shown.contains("Reward hacking is suspected"), "{shown}");
        assert!(
            shown.contains("the proxy reward rose by 0.750 (0.681 to 0.819) while the gold reward fell by")
        );
        assert!(shown.contains("guards.stop") && shown.contains("stopped before its last round"));
    }
    assert!(report::summary(&data).contains("reward hacking is suspected"));
}

#[test]
fn a_report_states_the_progress_of_a_round() {
    let cases = cases();
    let plan = learning_plan("waiting", &cases, 1);
    let mut run = measured(&plan, &cases);
    let data = reported(&plan, &run.events);
    assert_eq!(data.status, Status::Complete, "the selection is made");
    let stage = "waits for feedback: 4 of 4 comparisons are open";
    assert_eq!(data.learning.as_ref().unwrap().stage, stage);
    assert!(report::summary(&data).contains(stage));
    assert!(report::html(&data).unwrap().contains("No policy is evaluated yet"));
    let first = evaluation(&run, 0, [0.25, 0.02], [1.0, 0.1], 0.0);
    run.propose(first);
    judge(&mut run, &["ann", "bob"]);
    while run.record_due() {}
    assert_eq!(
        reported(&plan, &run.events).learning.unwrap().stage,
        "the reward model is about to be trained"
    );
}

#[test]
fn hostile_names_of_annotators_are_escaped() {
    let cases = cases();
    let plan = learning_plan("hostile", &cases, 2);
    let name: String = HOSTILE.chars().take(80).collect();
    let data = reported_round(&plan, &learnt(&plan, &cases, &[&name, "bob"], 0.5));
    let page = report::html(&data).unwrap();
    assert!(page.contains("&lt;script&gt;alert") && !page.contains("<script"));
    let text = report::markdown(&data).unwrap();
    assert!(text.contains(r"\<script\>") && !text.contains(" <script"));
    for shown in [page, text] {
        assert_eq!(shown.chars().find(|c| acts_on_its_reader(*c)), None);
    }
}
