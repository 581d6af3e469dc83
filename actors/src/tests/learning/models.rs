//! Rounds in which the tiny models themselves learn, by each method.

use dissent_domain::event::{PolicyTuned, RewardModelRefined, Stage};
use dissent_domain::learning::RequestedComparison;
use dissent_domain::training::{PolicyMethod, PpoSettings};

use super::*;
use crate::{OnnxTrainer, TrainableModel};

fn trainer(place: &Place, kind: RewardKind) -> Box<dyn Trainer> {
    let [raw, scored] = templates();
    Box::new(OnnxTrainer {
        policy: TrainableModel { base: place.policy.clone(), template: raw },
        reward: TrainableModel { base: place.reward.clone(), template: scored },
        kind,
    })
}

fn plan(place: &Place, rounds: u32, method: PolicyMethod) -> Plan {
    let mut plan = place.plan(rounds, FeedbackSource::Oracle);
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

fn refined(place: &Place) -> Vec<RewardModelRefined> {
    let of = |event| if let Event::RewardModelRefined(e) = event { e } else { panic!("{event:?}") };
    place.of_kind(EventType::RewardModelRefined).into_iter().map(of).collect()
}

fn tuned(place: &Place) -> Vec<PolicyTuned> {
    let of = |event| if let Event::PolicyTuned(e) = event { e } else { panic!("{event:?}") };
    place.of_kind(EventType::PolicyTuned).into_iter().map(of).collect()
}

/// A figure of the trainings of a stage, in the order of their steps.
fn reported(place: &Place, stage: Stage, round: u32, metric: &str) -> Vec<f64> {
    let figure = |event| {
        let Event::TrainingProgressed(e) = event else { return None };
        if (e.stage, e.round) == (stage, round) { e.metrics.get(metric).copied() } else { None }
    };
    place.of_kind(EventType::TrainingProgressed).into_iter().filter_map(figure).collect()
}

fn models_learn(method: PolicyMethod, check: impl FnOnce(&Place)) {
    with_place(async |place| {
        let plan = plan(place, 2, method);
        place.finish(&plan, trainer(place, RewardKind::Reward)).await;
        let replay = place.verified();
        let [first, .., last] = replay.experiment().evaluations() else { panic!() };
        assert!(first.kl == 0.0 && last.kl != 0.0, "{last:?}");
        check(place);
        let again = recompute::again(place, &place.log, &plan, trainer(place, RewardKind::Reward));
        assert_eq!(again.differences, [], "computed again it is the same");
    });
}

/// The policy's last figures have these, all finite.
fn assert_figures(place: &Place, names: &[&str]) {
    for tuned in tuned(place) {
        assert!(names.iter().all(|&name| tuned.metrics.contains_key(name)), "{tuned:?}");
    }
}

#[test]
fn models_learn_from_the_feedback_by_dpo() {
    models_learn(PolicyMethod::Dpo, |place| {
        let [first, second] = &refined(place)[..] else { panic!() };
        assert!(first.metrics["loss"] > 0.0 && first.preferences > 0, "{first:?}");
        assert!(second.preferences > first.preferences, "the feedback of all rounds counts");
        let steps = place.of_kind(EventType::TrainingProgressed);
        assert!(steps.iter().any(|e| matches!(e, Event::TrainingProgressed(e) if e.step == 3)));
        assert_figures(place, &["rewards/margins", PolicyTuned::PAIRS]);
        assert!(tuned(place).iter().all(|tuned| !tuned.is_unchanged()));
    });
}

#[test]
fn models_learn_from_the_feedback_by_rso() {
    models_learn(PolicyMethod::Rso, |place| assert_figures(place, &["rewards/margins", PolicyTuned::PAIRS]));
}

#[test]
fn models_learn_from_the_feedback_by_ppo() {
    models_learn(PolicyMethod::Ppo, |place| assert_figures(place, &["objective/kl", "loss/value_avg"]));
}

#[test]
fn models_learn_from_the_feedback_by_grpo() {
    models_learn(PolicyMethod::Grpo, |place| assert_figures(place, &["kl", "reward", "clip_ratio"]));
}

#[test]
fn models_learn_from_the_feedback_by_rloo() {
    models_learn(PolicyMethod::Rloo, |place| assert_figures(place, &["kl", "reward", "entropy"]));
}

/// A plan in which costs are learnt: all comparisons in each step, and in so many that the direction shows.
fn cost_plan(place: &Place, source: FeedbackSource) -> Plan {
    let mut plan = plan(place, 1, PolicyMethod::Dpo);
    plan.reward.kind = RewardKind::Cost;
    learning(&mut plan).feedback.source = source;
    let refinement = &mut learning(&mut plan).refinement.hyperparameters;
    (refinement.steps, refinement.batch_size, refinement.learning_rate) = (Some(12), 16, 1e-2);
    plan
}

#[test]
fn a_cost_model_learns_that_what_is_preferred_costs_less() {
    with_place(async |place| {
        let plan = cost_plan(place, FeedbackSource::Oracle);
        place.finish(&plan, trainer(place, RewardKind::Cost)).await;
        let replay = place.verified();
        // What was preferred should cost less. Before the first step, that is what the proxy said.
        let ahead = |asked: &RequestedComparison| {
            let [first, second] = asked.rewards;
            match asked.judgements.majority()? {
                Verdict::First => Some(first - second),
                Verdict::Second => Some(second - first),
                Verdict::Tie => None,
            }
        };
        let ahead: Vec<f64> =
            replay.experiment().rounds()[0].learning().comparisons().iter().filter_map(ahead).collect();
        let margins = reported(place, Stage::Reward, 0, "margin");
        let expected = ahead.iter().sum::<f64>() / ahead.len() as f64;
        assert!((margins[0] - expected).abs() < 1e-4, "{margins:?} {expected}");
        assert!(margins[margins.len() - 1] > margins[0] + 0.1, "{margins:?}");
    });
}

#[test]
fn a_cost_model_learns_the_signs_of_safe_and_unsafe_answers() {
    with_place(async |place| {
        let plan = cost_plan(place, FeedbackSource::People);
        // The second answer is preferred, the first one unsafe.
        let trainers = [(); 2].map(|()| trainer(place, RewardKind::Cost));
        place.judge_when_asked(&plan, trainers, Some([true, false])).await;
        place.verified();
        let [refined] = &refined(place)[..] else { panic!() };
        assert!(refined.metrics["sign_accuracy"] > 0.5 && refined.metrics["margin"] > 0.0, "{refined:?}");
    });
}

#[test]
fn a_policy_with_an_adapter_of_its_own_is_held_to_it_by_ppo() {
    within(Place::with_policy(Some("llama-lora")), async |place| {
        place.finish(&plan(place, 2, PolicyMethod::Ppo), trainer(place, RewardKind::Reward)).await;
        place.verified();
        // What is sampled first comes from the policy that it is held to; in the second round it has moved
        // away.
        let [first, second] = [0, 1].map(|round| reported(place, Stage::Policy, round, "objective/kl"));
        assert!(first[0].abs() < 1e-4 && second[0].abs() > 1e-3, "{first:?} {second:?}");
    });
}

#[test]
fn a_policy_with_an_adapter_of_its_own_is_held_to_it_by_dpo() {
    within(Place::with_policy(Some("llama-lora")), async |place| {
        place.finish(&plan(place, 2, PolicyMethod::Dpo), trainer(place, RewardKind::Reward)).await;
        let replay = place.verified();
        let kl = replay.experiment().evaluations()[0].kl;
        assert!(kl.abs() < 1e-12, "KL is that from the policy with its adapter: {kl}");
        let [first, second] = [0, 1].map(|round| reported(place, Stage::Policy, round, "rewards/margins"));
        assert!(first[0].abs() < 1e-6 && second[0].abs() > 1e-4, "{first:?} {second:?}");
    });
}

/// Stops a run once its training of so many steps has begun.
async fn stop_in_training(place: &Place, plan: &Plan, steps: u64) {
    let pipeline = place.start(plan, trainer(place, RewardKind::Reward), None).await;
    let mut progress = pipeline.progress();
    let begun = progress.wait_for(|now| now.training.is_some_and(|(done, of)| of == steps && done > 0));
    tokio::time::timeout(Duration::from_secs(120), begun).await.expect("it begins").unwrap();
    pipeline.drain().await.unwrap();
}

#[test]
fn models_that_were_stopped_in_training_go_on_from_their_checkpoints_to_the_same_result() {
    let Some(undisturbed) = Place::new() else { return };
    // More than the reports that may be on their way: a training cannot be done before the test hears that it
    // has begun.
    let (refinement, tuning) = (100, 24);
    let mut plan = plan(&undisturbed, 1, PolicyMethod::Ppo);
    learning(&mut plan).refinement.hyperparameters.steps = Some(refinement);
    learning(&mut plan).tuning.objective.ppo.iterations = tuning;
    actix::System::new().block_on(undisturbed.finish(&plan, trainer(&undisturbed, RewardKind::Reward)));
    with_place(async |place| {
        stop_in_training(place, &plan, refinement).await;
        stop_in_training(place, &plan, u64::from(tuning)).await;
        place.finish(&plan, trainer(place, RewardKind::Reward)).await;
        let resumed = place.of_kind(EventType::TrainingRequested).into_iter().filter_map(|event| {
            let Event::TrainingRequested(e) = event else { return None };
            e.resume_from.map(|_| e.stage)
        });
        assert_eq!(resumed.collect::<Vec<_>>(), [Stage::Reward, Stage::Policy]);
        assert_eq!(place.results(), undisturbed.results());
        place.verified();
    });
}

#[test]
fn a_policy_whose_answers_are_all_alike_stays_as_it_is_and_the_round_goes_on() {
    for adapter in [None, Some("llama-lora")] {
        within(Place::with_policy(adapter), async |place| {
            let mut plan = plan(place, 1, PolicyMethod::Dpo);
            plan.sampling.temperature = 0.0;
            place.finish(&plan, trainer(place, RewardKind::Reward)).await;
            let replay = place.verified();
            assert!(replay.experiment().is_finished());
            let [before, after] = replay.experiment().evaluations() else { panic!() };
            // An adapter that changes nothing is another product of matrices, which may round otherwise.
            assert!(after.kl.abs() < 1e-4, "{after:?}");
            assert!((after.proxy_reward[0] - before.proxy_reward[0]).abs() < 1e-6, "{before:?} {after:?}");
            let [tuned] = &tuned(place)[..] else { panic!() };
            assert!(tuned.is_unchanged(), "{tuned:?}");
            let kept = ArtifactStore::open(place.folder.path().join("artifacts")).unwrap();
            let kept = kept.read(&tuned.adapter.parse().unwrap(), u64::MAX).unwrap();
            let kept = LoraAdapter::from_artifact(&kept).unwrap();
            assert_eq!(tuned.fingerprint, fingerprint(&place.policy.checkpoint, Some(&kept)));
            assert!(refined(place).is_empty(), "nor was there anything to ask");
        });
    }
}

#[test]
fn examples_that_are_all_too_long_are_an_error_that_names_the_key() {
    for (section, shorten) in [("refinement", true), ("tuning", false)] {
        with_place(async |place| {
            let mut plan = plan(place, 1, PolicyMethod::Dpo);
            let learning = learning(&mut plan);
            let shortened = match shorten {
                true => &mut learning.refinement.hyperparameters,
                false => &mut learning.tuning.hyperparameters,
            };
            shortened.max_length = 3;
            let mut pipeline = place.start(&plan, trainer(place, RewardKind::Reward), None).await;
            let failed = tokio::time::timeout(Duration::from_secs(60), pipeline.finished()).await.unwrap();
            let reason = failed.unwrap_err().to_string();
            assert!(reason.contains(&format!("longer than {section}.max_length, 3 tokens")), "{reason}");
            pipeline.drain().await.unwrap();
        });
    }
}
