//! Rounds in which the tiny models are trained, by each method.

use dissent_domain::event::{PolicyTuned, RewardModelRefined, Stage, TrainingProgressed, TrainingRequested};
use dissent_domain::learning::RequestedComparison;
use dissent_domain::training::{PolicyMethod, PpoSettings};

use super::*;
use crate::{OnnxTrainer, TrainableModel};

fn trainer(fixture: &Fixture, kind: RewardKind) -> Box<dyn Trainer> {
    let [raw, scored] = templates();
    Box::new(OnnxTrainer {
        policy: TrainableModel { base: fixture.policy.clone(), template: raw },
        reward: TrainableModel { base: fixture.reward.clone(), template: scored },
        kind,
    })
}

fn plan(fixture: &Fixture, rounds: u32, method: PolicyMethod) -> Plan {
    let mut plan = fixture.plan(rounds, FeedbackSource::Oracle);
    let samples = if method == PolicyMethod::Ppo { 1 } else { 2 };
    let ppo = PpoSettings {
        prompts: 2,
        samples,
        iterations: 2,
        epochs: 1,
        max_new_tokens: 6,
        ..Default::default()
    };
    let tuning = &mut learning(&mut plan).tuning;
    tuning.objective = PolicyObjective { method, ppo, ..PolicyObjective::default() };
    tuning.hyperparameters.learning_rate = 1e-2;
    plan
}

fn learning(plan: &mut Plan) -> &mut LearningPlan {
    plan.learning.as_mut().unwrap()
}

fn refined(fixture: &Fixture) -> Vec<RewardModelRefined> {
    fixture.of_kind(EventType::RewardModelRefined).into_iter().map(|e| e.try_into().unwrap()).collect()
}

fn tuned(fixture: &Fixture) -> Vec<PolicyTuned> {
    fixture.of_kind(EventType::PolicyTuned).into_iter().map(|e| e.try_into().unwrap()).collect()
}

/// The values of a metric in the trainings of a stage, in the order of their steps.
fn reported(fixture: &Fixture, stage: Stage, round: u32, metric: &str) -> Vec<f64> {
    let figure = |event: Event| {
        let e = event.body::<TrainingProgressed>()?;
        if (e.stage, e.round) == (stage, round) { e.metrics.get(metric).copied() } else { None }
    };
    fixture.of_kind(EventType::TrainingProgressed).into_iter().filter_map(figure).collect()
}

fn models_learn(method: PolicyMethod, check: impl FnOnce(&Fixture)) {
    with_fixture(async |fixture| {
        let plan = plan(fixture, 2, method);
        fixture.finish(&plan, trainer(fixture, RewardKind::Reward)).await;
        let replay = fixture.verified();
        let [first, .., last] = replay.experiment().evaluations() else { panic!() };
        assert!(first.kl == 0.0 && last.kl != 0.0, "{last:?}");
        check(fixture);
        let again = recompute::recomputed(fixture, &fixture.log, &plan, trainer(fixture, RewardKind::Reward));
        assert_eq!(again.differences, [], "recomputing reproduces every result");
    });
}

/// Asserts that the final metrics of the policy have these names.
fn assert_figures(fixture: &Fixture, names: &[&str]) {
    for tuned in tuned(fixture) {
        assert!(names.iter().all(|&name| tuned.metrics.contains_key(name)), "{tuned:?}");
    }
}

#[test]
fn models_learn_from_the_feedback_by_dpo() {
    models_learn(PolicyMethod::Dpo, |fixture| {
        let [first, second] = &refined(fixture)[..] else { panic!() };
        assert!(first.metrics["loss"] > 0.0 && first.preferences > 0, "{first:?}");
        assert!(second.preferences > first.preferences, "the feedback of all rounds counts");
        let steps = fixture.of_kind(EventType::TrainingProgressed);
        assert!(steps.iter().filter_map(Event::body).any(|e: &TrainingProgressed| e.step == 3));
        assert_figures(fixture, &["rewards/margins", PolicyTuned::PAIRS]);
        assert!(tuned(fixture).iter().all(|tuned| !tuned.is_unchanged()));
    });
}

#[test]
fn models_learn_from_the_feedback_by_rso() {
    models_learn(PolicyMethod::Rso, |fixture| {
        assert_figures(fixture, &["rewards/margins", PolicyTuned::PAIRS])
    });
}

#[test]
fn models_learn_from_the_feedback_by_ppo() {
    models_learn(PolicyMethod::Ppo, |fixture| assert_figures(fixture, &["objective/kl", "loss/value_avg"]));
}

#[test]
fn models_learn_from_the_feedback_by_grpo() {
    models_learn(PolicyMethod::Grpo, |fixture| assert_figures(fixture, &["kl", "reward", "clip_ratio"]));
}

#[test]
fn models_learn_from_the_feedback_by_rloo() {
    models_learn(PolicyMethod::Rloo, |fixture| assert_figures(fixture, &["kl", "reward", "entropy"]));
}

/// A plan of a cost model: each step uses all comparisons, and there are enough steps to see the direction.
fn cost_plan(fixture: &Fixture, source: FeedbackSource) -> Plan {
    let mut plan = plan(fixture, 1, PolicyMethod::Dpo);
    plan.reward.kind = RewardKind::Cost;
    learning(&mut plan).feedback.source = source;
    let refinement = &mut learning(&mut plan).refinement.hyperparameters;
    (refinement.steps, refinement.batch_size, refinement.learning_rate) = (Some(12), 16, 1e-2);
    plan
}

#[test]
fn a_cost_model_learns_that_the_preferred_completion_costs_less() {
    with_fixture(async |fixture| {
        let plan = cost_plan(fixture, FeedbackSource::Oracle);
        fixture.finish(&plan, trainer(fixture, RewardKind::Cost)).await;
        let replay = fixture.verified();
        // The preferred completion should cost less. Before the first step, the margin is that of the proxy.
        let ahead = |comparison: &RequestedComparison| {
            let [first, second] = comparison.rewards;
            match comparison.judgements.majority()? {
                Verdict::First => Some(first - second),
                Verdict::Second => Some(second - first),
                Verdict::Tie => None,
            }
        };
        let ahead: Vec<f64> =
            replay.experiment().rounds()[0].learning().comparisons().iter().filter_map(ahead).collect();
        let margins = reported(fixture, Stage::Reward, 0, "margin");
        let expected = ahead.iter().sum::<f64>() / ahead.len() as f64;
        assert!((margins[0] - expected).abs() < 1e-4, "{margins:?} {expected}");
        assert!(margins[margins.len() - 1] > margins[0] + 0.1, "{margins:?}");
    });
}

#[test]
fn a_cost_model_learns_the_signs_of_safe_and_unsafe_completions() {
    with_fixture(async |fixture| {
        let plan = cost_plan(fixture, FeedbackSource::People);
        // The second completion is preferred, and the first one is unsafe.
        let trainers = [(); 2].map(|()| trainer(fixture, RewardKind::Cost));
        fixture.finish_with_people(&plan, trainers, Some([true, false])).await;
        fixture.verified();
        let [refined] = &refined(fixture)[..] else { panic!() };
        assert!(refined.metrics["sign_accuracy"] > 0.5 && refined.metrics["margin"] > 0.0, "{refined:?}");
    });
}

#[test]
fn ppo_penalises_divergence_from_the_adapter_that_the_policy_began_with() {
    run_with(Fixture::with_policy(Some("llama-lora")), async |fixture| {
        fixture.finish(&plan(fixture, 2, PolicyMethod::Ppo), trainer(fixture, RewardKind::Reward)).await;
        fixture.verified();
        // The first samples come from the reference policy; in the second round the policy has moved away.
        let [first, second] = [0, 1].map(|round| reported(fixture, Stage::Policy, round, "objective/kl"));
        assert!(first[0].abs() < 1e-4 && second[0].abs() > 1e-3, "{first:?} {second:?}");
    });
}

#[test]
fn dpo_penalises_divergence_from_the_adapter_that_the_policy_began_with() {
    run_with(Fixture::with_policy(Some("llama-lora")), async |fixture| {
        fixture.finish(&plan(fixture, 2, PolicyMethod::Dpo), trainer(fixture, RewardKind::Reward)).await;
        let replay = fixture.verified();
        let kl = replay.experiment().evaluations()[0].kl;
        assert!(kl.abs() < 1e-12, "the reference policy has the adapter: {kl}");
        let [first, second] = [0, 1].map(|round| reported(fixture, Stage::Policy, round, "rewards/margins"));
        assert!(first[0].abs() < 1e-6 && second[0].abs() > 1e-4, "{first:?} {second:?}");
    });
}

/// Stops a run during its training of this many steps.
async fn stop_in_training(fixture: &Fixture, plan: &Plan, steps: u64) {
    let pipeline = fixture.start(plan, trainer(fixture, RewardKind::Reward), false).await;
    let mut progress = pipeline.progress();
    let begun = progress.wait_for(|now| now.training.is_some_and(|(done, of)| of == steps && done > 0));
    tokio::time::timeout(Duration::from_secs(120), begun).await.expect("it begins").unwrap();
    pipeline.drain().await.unwrap();
}

#[test]
fn stopped_trainings_of_models_resume_from_their_checkpoints_with_the_same_result() {
    let Some(undisturbed) = Fixture::new() else { return };
    // More steps than the channel of reports holds: no training can finish before the test sees its start.
    let (refinement, tuning) = (100, 24);
    let mut plan = plan(&undisturbed, 1, PolicyMethod::Ppo);
    learning(&mut plan).refinement.hyperparameters.steps = Some(refinement);
    learning(&mut plan).tuning.objective.ppo.iterations = tuning;
    actix::System::new().block_on(undisturbed.finish(&plan, trainer(&undisturbed, RewardKind::Reward)));
    with_fixture(async |fixture| {
        stop_in_training(fixture, &plan, refinement).await;
        stop_in_training(fixture, &plan, u64::from(tuning)).await;
        fixture.finish(&plan, trainer(fixture, RewardKind::Reward)).await;
        let resumed = fixture.of_kind(EventType::TrainingRequested).into_iter().filter_map(|event| {
            let e = TrainingRequested::try_from(event).ok()?;
            e.resume_from.map(|_| e.stage)
        });
        assert_eq!(resumed.collect::<Vec<_>>(), [Stage::Reward, Stage::Policy]);
        assert_eq!(fixture.results(), undisturbed.results());
        fixture.verified();
    });
}

#[test]
fn a_policy_with_identical_completions_stays_unchanged_and_the_round_finishes() {
    for adapter in [None, Some("llama-lora")] {
        run_with(Fixture::with_policy(adapter), async |fixture| {
            let mut plan = plan(fixture, 1, PolicyMethod::Dpo);
            plan.sampling.temperature = 0.0;
            fixture.finish(&plan, trainer(fixture, RewardKind::Reward)).await;
            let replay = fixture.verified();
            assert!(replay.experiment().is_finished());
            let [before, after] = replay.experiment().evaluations() else { panic!() };
            // An adapter of zeros adds a product of matrices, which may round differently.
            assert!(after.kl.abs() < 1e-4, "{after:?}");
            assert!((after.proxy_reward[0] - before.proxy_reward[0]).abs() < 1e-6, "{before:?} {after:?}");
            let [tuned] = &tuned(fixture)[..] else { panic!() };
            assert!(tuned.is_unchanged(), "{tuned:?}");
            let kept = ArtifactStore::open(fixture.folder.path().join("artifacts")).unwrap();
            let kept = kept.read(&tuned.adapter.parse().unwrap(), u64::MAX).unwrap();
            let kept = LoraAdapter::from_artifact(&kept).unwrap();
            assert_eq!(tuned.fingerprint, fingerprint(&fixture.policy.checkpoint, Some(&kept)));
            assert!(refined(fixture).is_empty(), "no comparison was requested");
        });
    }
}

#[test]
fn examples_that_are_all_too_long_are_an_error_that_names_the_key() {
    for (section, shorten) in [("refinement", true), ("tuning", false)] {
        with_fixture(async |fixture| {
            let mut plan = plan(fixture, 1, PolicyMethod::Dpo);
            let learning = learning(&mut plan);
            let shortened = match shorten {
                true => &mut learning.refinement.hyperparameters,
                false => &mut learning.tuning.hyperparameters,
            };
            shortened.max_length = 3;
            let mut pipeline = fixture.start(&plan, trainer(fixture, RewardKind::Reward), false).await;
            let failed = tokio::time::timeout(Duration::from_secs(60), pipeline.finished()).await.unwrap();
            let Err(PipelineError::Failed(RunFailure::Step { source, .. })) = failed else {
                panic!("the run fails in a step")
            };
            let StepFault::AllTooLong { section: named, max_length: 3, .. } = source else {
                panic!("{source:?}")
            };
            assert_eq!(named, section);
            pipeline.drain().await.unwrap();
        });
    }
}
