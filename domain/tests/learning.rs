//! Rounds with learning, made by the rules without models: feedback, refinement, tuning, evaluation, and the
//! next round.
#![expect(clippy::unwrap_used, reason = "a test that cannot continue fails")]

mod support;

use std::collections::BTreeMap;

use dissent_domain::event::{
    Event, EventId, EventType, FeedbackReceived, NewEvent, PolicyEvaluated, PolicyTuned, RewardModelRefined,
    Stage, StopReason, TrainingLeaseExpired, TrainingProgressed, TrainingRequested, TrainingStarted,
};
use dissent_domain::event_ids::feedback_requested_id;
use dissent_domain::feedback::{Opponent, Verdict};
use dissent_domain::learning::{ComparisonRejection, EvaluationRejection, TrainingRejection};
use dissent_domain::plan::{
    DegenerateCompletions, EvaluationPlan, FeedbackPlan, FeedbackSource, GuardPlan, LearningPlan, Plan,
    PromptSource, RefinementPlan, TuningPlan,
};
use dissent_domain::rejection::Rejection;
use dissent_domain::training::{Hyperparameters, PolicyObjective};
use proptest::prelude::*;

use support::{History, plan, replayed};

const PROMPTS: u32 = 4;

fn learning_plan(rounds: u32) -> Plan {
    let learning = LearningPlan {
        feedback: FeedbackPlan {
            source: FeedbackSource::People,
            opponent: Opponent::Conflict,
            overlap: 1,
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
            prompts: PromptSource { artifact: "1".repeat(64), count: 2 },
            samples: 4,
            gold: None,
        },
        guards: GuardPlan::default(),
    };
    Plan { rounds, learning: Some(Box::new(learning)), ..plan(PROMPTS) }
}

fn changed(rounds: u32, change: impl Fn(&mut LearningPlan)) -> Plan {
    let mut plan = learning_plan(rounds);
    change(plan.learning.as_mut().unwrap());
    plan
}

/// A round with requested comparisons, and an evaluation of the initial policy.
fn with_comparisons(plan: Plan) -> History {
    let mut history = History::begin(plan);
    evaluate(&mut history, 1.0, 0.0);
    measure(&mut history);
    history
}

fn measure(history: &mut History) {
    let admitted = history.admit_all(PROMPTS);
    for index in 0..PROMPTS {
        history.process(index, admitted[index as usize], false);
    }
    history.coordinate();
}

fn last_id(history: &History, kind: EventType) -> EventId {
    let last = history.recorded.iter().rev().find(|e| e.event.event_type == kind.name());
    last.unwrap().event.id
}

fn count(history: &History, kind: EventType) -> usize {
    history.recorded.iter().filter(|e| e.event.event_type == kind.name()).count()
}

fn evaluate(history: &mut History, gold: f64, kl: f64) {
    evaluate_as(history, |e| {
        e.gold_reward = Some([gold, 0.01]);
        e.kl = kl;
    });
}

fn evaluate_as(history: &mut History, change: impl Fn(&mut PolicyEvaluated)) {
    let number = u32::try_from(history.experiment.evaluations().len()).unwrap();
    let mut evaluated = PolicyEvaluated {
        evaluation: number,
        policy: history.experiment.policy().unwrap().fingerprint,
        reward_model: history.experiment.reward_model().unwrap().fingerprint,
        prompts: 2,
        completions: 8,
        gold_reward: None,
        proxy_reward: [f64::from(number), 0.1],
        refined_reward: [f64::from(number), 0.1],
        proxy_agreement: None,
        refined_agreement: None,
        mean_abs_pacs: Some(1.0),
        kendall_tau: None,
        kl: 0.0,
        response_tokens: 3.0,
        stopped: 1.0,
        samples: None,
        by_prompt: None,
    };
    change(&mut evaluated);
    let cause = last_id(history, EventType::EvaluationRequested);
    history.propose(cause, &evaluated.into());
    history.coordinate();
}

fn judgement(comparison: u32, annotator: &str, verdict: Verdict) -> FeedbackReceived {
    FeedbackReceived {
        round: 0,
        comparison,
        annotator: annotator.to_owned(),
        verdict,
        is_unsafe: None,
        comment: None,
    }
}

fn judge(history: &mut History, received: FeedbackReceived) {
    let cause =
        feedback_requested_id(history.experiment.plan().unwrap(), received.round, received.comparison);
    let id = cause.judged_by(&received.annotator);
    history.append(NewEvent::new(id, Some(cause), "feedback", 0, &received.into()).unwrap());
    history.coordinate();
}

fn judge_all(history: &mut History, verdict: Verdict) {
    let round = history.round();
    for comparison in
        0..u32::try_from(history.experiment.rounds().last().unwrap().learning().comparisons().len()).unwrap()
    {
        judge(history, FeedbackReceived { round, ..judgement(comparison, "ann", verdict) });
    }
}

fn start(history: &mut History, stage: Stage, attempt: u32) {
    let (round, worker) = (history.round(), "worker".to_owned());
    let cause = last_id(history, EventType::TrainingRequested);
    history.propose(cause, &TrainingStarted { round, stage, attempt, worker, lease_ms: 60_000 }.into());
}

fn progressed(round: u32, stage: Stage, attempt: u32, step: u64) -> TrainingProgressed {
    TrainingProgressed {
        round,
        stage,
        attempt,
        sequence: 0,
        step,
        steps: 10,
        checkpoint: Some(format!("checkpoint {step}")),
        metrics: BTreeMap::new(),
    }
}

fn train(history: &mut History, stage: Stage, attempt: u32) {
    let round = history.round();
    start(history, stage, attempt);
    let cause = last_id(history, EventType::TrainingRequested);
    let (adapter, fingerprint) = (format!("adapter {round}"), format!("{} {round}", stage.name()));
    let metrics = BTreeMap::new();
    let trained: Event = match stage {
        Stage::Reward => {
            RewardModelRefined { round, attempt, adapter, fingerprint, preferences: 4, rehearsed: 0, metrics }
                .into()
        }
        Stage::Policy => PolicyTuned { round, attempt, adapter, fingerprint, metrics }.into(),
    };
    history.propose(cause, &trained);
    history.coordinate();
}

#[test]
fn the_next_round_uses_the_models_that_a_round_trained() {
    let mut history = with_comparisons(learning_plan(2));
    for round in 0..2 {
        judge_all(&mut history, Verdict::First);
        train(&mut history, Stage::Reward, 0);
        train(&mut history, Stage::Policy, 0);
        evaluate(&mut history, 1.5 + f64::from(round), 0.5);
        if round == 0 {
            assert_eq!(history.experiment.policy().unwrap().fingerprint, "policy 0");
            measure(&mut history);
        }
    }
    assert!(history.experiment.is_finished());
    assert_eq!(history.experiment.evaluations().len(), 3);
    let replay = replayed(&history.recorded).unwrap();
    assert_eq!(replay.experiment(), &history.experiment);
}

#[test]
fn every_selected_completion_has_at_most_one_comparison() {
    let history = with_comparisons(learning_plan(1));
    let comparisons = history.experiment.rounds()[0].learning().comparisons().to_vec();
    assert!(!comparisons.is_empty() && comparisons.len() <= 5, "{}", comparisons.len());
    for (number, comparison) in comparisons.iter().enumerate() {
        let pair = |e: &dissent_domain::event::FeedbackRequested| {
            (e.prompt_id.clone(), e.first.min(e.second), e.first.max(e.second))
        };
        assert_eq!(comparison.request.comparison as usize, number);
        assert!(
            comparisons.iter().filter(|other| pair(&other.request) == pair(&comparison.request)).count() == 1
        );
    }
}

#[test]
fn nothing_is_trained_before_every_comparison_is_judged() {
    let mut history = with_comparisons(learning_plan(1));
    let comparisons = u32::try_from(history.experiment.rounds()[0].learning().comparisons().len()).unwrap();
    assert!(history.experiment.waits_for_people());
    for comparison in (0..comparisons).rev() {
        assert_eq!(count(&history, EventType::TrainingRequested), 0);
        judge(&mut history, judgement(comparison, "ann", Verdict::Second));
    }
    assert!(!history.experiment.waits_for_people());
    assert_eq!(count(&history, EventType::TrainingRequested), 1);
}

#[test]
fn feedback_ends_when_its_budget_is_spent() {
    let mut history = with_comparisons(changed(1, |learning| learning.feedback.budget = Some(2)));
    judge(&mut history, judgement(1, "ann", Verdict::First));
    judge(&mut history, judgement(0, "ben", Verdict::Tie));
    let settled = history.experiment.rounds()[0].learning().settled().unwrap().clone();
    assert_eq!((settled.judgements, settled.preferences, settled.ties), (2, 1, 1));
}

#[test]
fn an_annotator_judges_a_comparison_once_and_late_judgements_are_rejected() {
    let mut history = with_comparisons(changed(1, |learning| learning.feedback.overlap = 2));
    judge(&mut history, judgement(0, "ann", Verdict::First));
    let again = history.experiment.decide(&judgement(0, "ann", Verdict::Second).into());
    let rejected = |comparison, reason| Err(Rejection::Comparison { round: 0, comparison, reason });
    assert_eq!(again, rejected(0, ComparisonRejection::AlreadyJudged));
    let unknown = history.experiment.decide(&judgement(99, "ann", Verdict::First).into());
    assert_eq!(unknown, rejected(99, ComparisonRejection::Unknown));
    judge_all_by(&mut history, &["ben", "cyd"]);
    let late = history.experiment.decide(&judgement(0, "dan", Verdict::First).into());
    assert_eq!(late, rejected(0, ComparisonRejection::Settled));
}

fn judge_all_by(history: &mut History, annotators: &[&str]) {
    let comparisons = u32::try_from(history.experiment.rounds()[0].learning().comparisons().len()).unwrap();
    for comparison in 0..comparisons {
        for annotator in annotators {
            let received = judgement(comparison, annotator, Verdict::First);
            if history.experiment.decide(&received.clone().into()).is_ok() {
                judge(history, received);
            }
        }
    }
}

#[test]
fn without_preferences_the_policy_is_tuned_against_the_unchanged_reward_model() {
    let mut history = with_comparisons(learning_plan(1));
    judge_all(&mut history, Verdict::Tie);
    train(&mut history, Stage::Policy, 0);
    evaluate(&mut history, 1.0, 0.0);
    assert!(history.experiment.is_finished());
    assert_eq!(count(&history, EventType::RewardModelRefined), 0);
    assert!(replayed(&history.recorded).is_ok());
}

#[test]
fn a_training_whose_lease_expired_is_requested_again_from_its_last_checkpoint() {
    let mut history = with_comparisons(learning_plan(1));
    judge_all(&mut history, Verdict::First);
    start(&mut history, Stage::Reward, 0);
    let cause = last_id(&history, EventType::TrainingRequested);
    history.propose(cause, &progressed(0, Stage::Reward, 0, 5).into());
    history.propose(cause, &TrainingLeaseExpired { round: 0, stage: Stage::Reward, attempt: 0 }.into());
    history.coordinate();
    let requested = TrainingRequested::try_from(history.recorded.last().unwrap().decode().unwrap()).unwrap();
    assert_eq!((requested.attempt, requested.resume_from.as_deref()), (1, Some("checkpoint 5")));
    let late = history.experiment.decide(&progressed(0, Stage::Reward, 0, 6).into());
    let (round, stage, reason) = (0, Stage::Reward, TrainingRejection::OtherAttempt);
    assert_eq!(late, Err(Rejection::Training { round, stage, reason }));
    train(&mut history, Stage::Reward, 1);
    train(&mut history, Stage::Policy, 0);
    evaluate(&mut history, 2.0, 0.1);
    assert!(history.experiment.is_finished());
    assert!(replayed(&history.recorded).is_ok());
}

#[test]
fn a_heartbeat_with_an_earlier_step_is_rejected() {
    let mut history = with_comparisons(learning_plan(1));
    judge_all(&mut history, Verdict::First);
    start(&mut history, Stage::Reward, 0);
    let cause = last_id(&history, EventType::TrainingRequested);
    history.propose(cause, &progressed(0, Stage::Reward, 0, 5).into());
    for step in [4, 11] {
        assert!(history.experiment.decide(&progressed(0, Stage::Reward, 0, step).into()).is_err());
    }
}

#[test]
fn training_metrics_that_are_not_finite_are_rejected() {
    let mut history = with_comparisons(learning_plan(1));
    judge_all(&mut history, Verdict::First);
    start(&mut history, Stage::Reward, 0);
    let metrics = BTreeMap::from([("loss".to_owned(), f64::NAN)]);
    let progress = TrainingProgressed { metrics: metrics.clone(), ..progressed(0, Stage::Reward, 0, 1) };
    let text = "?".to_owned();
    let (adapter, fingerprint) = (text.clone(), text);
    let refined = RewardModelRefined {
        round: 0,
        attempt: 0,
        adapter,
        fingerprint,
        preferences: 1,
        rehearsed: 0,
        metrics,
    };
    for event in [Event::from(progress), refined.into()] {
        let (round, stage, reason) = (0, Stage::Reward, TrainingRejection::MetricNotFinite);
        assert_eq!(history.experiment.decide(&event), Err(Rejection::Training { round, stage, reason }));
    }
}

/// Runs a round from its feedback to its end.
fn finish(history: &mut History, change: impl Fn(&mut PolicyEvaluated)) {
    judge_all(history, Verdict::First);
    train(history, Stage::Reward, 0);
    train(history, Stage::Policy, 0);
    evaluate_as(history, change);
}

#[test]
fn a_kl_divergence_above_the_limit_ends_the_experiment() {
    let mut history = with_comparisons(changed(3, |learning| learning.guards.kl_max = Some(2.0)));
    finish(&mut history, |e| e.kl = 2.5);
    assert_eq!(history.experiment.stopped().unwrap().reason, StopReason::Kl);
    assert!(history.experiment.is_finished());
    assert!(replayed(&history.recorded).is_ok());
}

#[test]
fn a_reward_that_rises_while_gold_falls_warns_and_stops_only_if_configured() {
    for stop in [false, true] {
        let mut history =
            with_comparisons(changed(2, |learning| learning.guards.stop_on_reward_hacking = stop));
        finish(&mut history, |e| e.gold_reward = Some([0.5, 0.01]));
        assert_eq!(history.experiment.warnings().len(), 1);
        assert!(history.experiment.warnings()[0].signs[0].contains("gold reward fell"));
        assert_eq!(history.experiment.is_finished(), stop);
    }
}

#[test]
fn a_fall_of_the_gold_reward_within_its_standard_error_is_no_sign() {
    let mut history = with_comparisons(learning_plan(2));
    finish(&mut history, |e| e.gold_reward = Some([0.95, 0.1]));
    assert!(history.experiment.warnings().is_empty());
}

#[test]
fn an_evaluation_of_other_models_is_rejected() {
    let mut history = with_comparisons(learning_plan(1));
    judge_all(&mut history, Verdict::First);
    train(&mut history, Stage::Reward, 0);
    train(&mut history, Stage::Policy, 0);
    let decoded = history.recorded.iter().map(|recorded| recorded.decode().unwrap());
    let mut e = decoded.map(PolicyEvaluated::try_from).find_map(Result::ok).unwrap();
    e.evaluation = 1;
    let rejection = Rejection::Evaluation { evaluation: 1, reason: EvaluationRejection::OtherModels };
    assert_eq!(history.experiment.decide(&e.into()), Err(rejection));
}

proptest! {
    /// For every order of judgements, the summary of the feedback is the same.
    #[test]
    fn the_order_of_judgements_does_not_change_the_result(
        order in Just((0..15_usize).collect::<Vec<_>>()).prop_shuffle(),
        verdicts in prop::collection::vec(0..3_usize, 15),
    ) {
        let settled = |order: &[usize]| {
            let mut history = with_comparisons(changed(1, |learning| learning.feedback.overlap = 3));
            let comparisons = history.experiment.rounds()[0].learning().comparisons().len();
            for &at in order {
                let (comparison, annotator) = (at / 3, ["ann", "ben", "cyd"][at % 3]);
                if comparison < comparisons {
                    let verdict = [Verdict::First, Verdict::Second, Verdict::Tie][verdicts[at]];
                    judge(&mut history, judgement(u32::try_from(comparison).unwrap(), annotator, verdict));
                }
            }
            assert!(replayed(&history.recorded).is_ok());
            history.experiment.rounds()[0].learning().settled().cloned()
        };
        let in_order: Vec<usize> = (0..15).collect();
        let expected = settled(&in_order);
        prop_assert!(expected.is_some());
        prop_assert_eq!(settled(&order), expected);
    }
}
