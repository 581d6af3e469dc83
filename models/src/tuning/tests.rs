//! Tests the loop with a policy that can be computed by hand.

mod bigram;

use dissent_domain::training::{
    Dialogue, Hyperparameters, KlEstimator, PolicyMethod, PolicyObjective, PpoSettings, Schedule,
};

use super::*;
use crate::error::{InvalidKind, ModelError};
use crate::runtime::CancelFlag;
use bigram::Bigram;

/// Rewards the share of tokens with id 2.
struct ShareOfTwos;

impl Scorer for ShareOfTwos {
    fn score(
        &mut self,
        completions: &[SampledCompletion<'_>],
        _: &CancelFlag,
    ) -> Result<Vec<f64>, ModelError> {
        let share = |completion: &SampledCompletion<'_>| {
            assert!(!completion.token_ids.contains(&0), "a completion is cut at its stop token");
            assert_eq!(completion.text.len(), completion.token_ids.len());
            let twos = completion.token_ids.iter().filter(|&&id| id == 2).count();
            twos as f64 / completion.token_ids.len().max(1) as f64
        };
        Ok(completions.iter().map(share).collect())
    }
}

/// Always returns these rewards.
struct Fixed(Vec<f64>);

impl Scorer for Fixed {
    fn score(&mut self, _: &[SampledCompletion<'_>], _: &CancelFlag) -> Result<Vec<f64>, ModelError> {
        Ok(self.0.clone())
    }
}

fn prompts() -> Vec<TuningPrompt> {
    let prompt =
        |ids: &[u32]| TuningPrompt { dialogue: Dialogue::Text(format!("{ids:?}")), ids: ids.to_vec() };
    vec![prompt(&[1]), prompt(&[3, 2, 4]), prompt(&[4, 3])]
}

fn settings(method: PolicyMethod) -> TuningSettings {
    let ppo = PpoSettings {
        prompts: 8,
        samples: if method == PolicyMethod::Ppo { 2 } else { 4 },
        iterations: 40,
        epochs: 2,
        max_new_tokens: 12,
        temperature: 1.0,
        kl_coefficient: 0.02,
        kl_estimator: KlEstimator::K3,
        ..PpoSettings::default()
    };
    let training = Hyperparameters {
        learning_rate: 0.05,
        schedule: Schedule::Constant,
        batch_size: 8,
        gradient_accumulation: 1,
        seed: 5,
        ..Hyperparameters::default()
    };
    TuningSettings { objective: PolicyObjective { method, ppo, ..PolicyObjective::default() }, training }
}

fn tuner(settings: TuningSettings) -> PolicyTuner<Bigram> {
    PolicyTuner::new(Bigram::new(), prompts(), settings).expect("a tuner")
}

fn iterate(tuner: &mut PolicyTuner<Bigram>) -> IterationReport {
    tuner.iterate(&mut ShareOfTwos, &CancelFlag::new()).expect("an iteration")
}

const METHODS: [(PolicyMethod, &str, &str); 3] = [
    (PolicyMethod::Ppo, "objective/scores", "objective/kl"),
    (PolicyMethod::Grpo, "reward", "kl"),
    (PolicyMethod::Rloo, "reward", "kl"),
];

#[test]
fn every_method_raises_the_reward_and_leaves_the_reference() {
    for (method, reward, kl) in METHODS {
        let mut tuner = tuner(settings(method));
        let reports: Vec<IterationReport> = (0..40).map(|_| iterate(&mut tuner)).collect();
        assert!(tuner.is_done());
        let (first, last) = (&reports[0].metrics, &reports[39].metrics);
        assert!(first[reward] < 0.35 && last[reward] > 0.8, "{method:?}: {} {}", first[reward], last[reward]);
        assert!(reports.iter().all(|report| report.metrics[kl] >= 0.0), "{method:?}: k3 is never negative");
        assert!(last[kl] > 0.1, "{method:?}: {}", last[kl]);
    }
}

#[test]
fn the_first_iteration_has_no_divergence_from_the_reference() {
    let metrics = iterate(&mut tuner(settings(PolicyMethod::Ppo))).metrics;
    for name in ["objective/kl", "objective/non_score_reward"] {
        assert!(metrics[name].abs() < 1e-12, "{name}: {}", metrics[name]);
    }
    assert!((metrics["objective/rlhf_reward"] - metrics["objective/scores"]).abs() < 1e-12);
    assert!(metrics["objective/entropy"] > 1.0);
}

#[test]
fn metrics_have_the_names_of_trl() {
    let names =
        |method| -> Vec<String> { iterate(&mut tuner(settings(method))).metrics.into_keys().collect() };
    let ppo = names(PolicyMethod::Ppo);
    for name in [
        "objective/kl",
        "objective/entropy",
        "objective/non_score_reward",
        "objective/rlhf_reward",
        "objective/scores",
        "policy/approxkl_avg",
        "policy/clipfrac_avg",
        "policy/entropy_avg",
        "loss/policy_avg",
        "loss/value_avg",
        "val/ratio",
        "val/clipfrac_avg",
        "val/num_eos_tokens",
        "lr",
        "episode",
        "eps",
    ] {
        assert!(ppo.iter().any(|known| known == name), "{name} is missing from {ppo:?}");
    }
    for method in [PolicyMethod::Grpo, PolicyMethod::Rloo] {
        let names = names(method);
        for name in ["reward", "reward_std", "kl", "completion_length", "clip_ratio", "loss", "lr", "episode"]
        {
            assert!(names.iter().any(|known| known == name), "{name} is missing from {names:?}");
        }
    }
}

#[test]
fn a_killed_tuning_resumes_identically() {
    for (method, ..) in METHODS {
        let mut settings = settings(method);
        settings.objective.ppo.kl_target = Some(0.5);
        let mut whole = tuner(settings.clone());
        let mut checkpoint = Vec::new();
        let mut expected = Vec::new();
        for iteration in 1..=7 {
            let report = iterate(&mut whole);
            if iteration == 4 {
                checkpoint = whole.checkpoint().expect("a checkpoint");
            } else if iteration > 4 {
                expected.push(report.metrics);
            }
        }
        let mut resumed = tuner(settings);
        resumed.restore(&checkpoint).expect("its own checkpoint");
        assert_eq!(resumed.iteration(), 4);
        for expected in expected {
            let mut metrics = iterate(&mut resumed).metrics;
            metrics.insert("eps".to_owned(), expected["eps"]);
            assert_eq!(metrics, expected, "{method:?}");
        }
        assert_eq!(resumed.policy().state(), whole.policy().state());
    }
}

#[test]
fn a_checkpoint_of_another_tuning_is_refused() {
    let checkpoint = tuner(settings(PolicyMethod::Ppo)).checkpoint().expect("a checkpoint");
    let mut other = settings(PolicyMethod::Ppo);
    other.training.seed += 1;
    let error = tuner(other).restore(&checkpoint).expect_err("another seed");
    assert_eq!(error.invalid_kind(), Some(InvalidKind::Checkpoint), "{error}");
    let mut fewer = prompts();
    fewer.pop();
    let mut tuner = PolicyTuner::new(Bigram::new(), fewer, settings(PolicyMethod::Ppo)).expect("a tuner");
    assert!(tuner.restore(&checkpoint).is_err(), "other prompts");
}

#[test]
fn micro_batches_of_a_step_add_up_to_the_whole() {
    for (method, ..) in METHODS {
        let parameters = |batch_size, gradient_accumulation| {
            let mut settings = settings(method);
            settings.training = Hyperparameters { batch_size, gradient_accumulation, ..settings.training };
            let mut tuner = tuner(settings);
            iterate(&mut tuner);
            tuner.into_policy().state().parameters.clone()
        };
        for (whole, parts) in parameters(8, 1).iter().zip(&parameters(2, 4)) {
            assert!((whole - parts).abs() < 1e-4, "{method:?}: {whole} {parts}");
        }
    }
}

#[test]
fn invalid_rewards_are_named_and_change_nothing() {
    let mut tuner = tuner(settings(PolicyMethod::Ppo));
    let before = tuner.policy().state().clone();
    let mut refusal =
        |rewards: Vec<f64>| tuner.iterate(&mut Fixed(rewards), &CancelFlag::new()).expect_err("refused");
    let error = refusal(vec![0.0; 15]);
    assert_eq!(error.invalid_kind(), Some(InvalidKind::Data), "{error}");
    let mut rewards = vec![0.0; 16];
    rewards[3] = f64::NAN;
    let error = refusal(rewards);
    assert_eq!(error.invalid_kind(), Some(InvalidKind::NotFinite), "{error}");
    assert!(error.to_string().contains("NaN for completion 3"), "{error}");
    assert_eq!(tuner.policy().state(), &before);
    assert_eq!(tuner.iteration(), 0);
}

#[test]
fn a_failed_iteration_is_rolled_back() {
    let mut undisturbed = tuner(settings(PolicyMethod::Grpo));
    let mut policy = Bigram::new();
    policy.failing_call = Some(3);
    let mut disturbed = PolicyTuner::new(policy, prompts(), settings(PolicyMethod::Grpo)).expect("a tuner");
    let error = disturbed.iterate(&mut ShareOfTwos, &CancelFlag::new()).expect_err("it fails").to_string();
    assert!(error.contains("on fire"), "{error}");
    assert_eq!(disturbed.policy().state(), undisturbed.policy().state());
    iterate(&mut disturbed);
    iterate(&mut undisturbed);
    assert_eq!(disturbed.policy().state(), undisturbed.policy().state());
}

#[test]
fn a_cancelled_tuning_returns_cancelled() {
    let cancel = CancelFlag::new();
    cancel.cancel();
    let error =
        tuner(settings(PolicyMethod::Rloo)).iterate(&mut ShareOfTwos, &cancel).expect_err("cancelled");
    assert!(matches!(error, ModelError::Cancelled), "{error}");
}

#[test]
fn a_run_reports_every_iteration_and_emits_checkpoints() {
    let mut settings = settings(PolicyMethod::Ppo);
    settings.objective.ppo.iterations = 5;
    let mut tuner = tuner(settings.clone());
    let (mut told, mut kept) = (Vec::new(), Vec::new());
    let hooks = TuningHooks {
        on_iteration: &mut |report| told.push(report.iteration),
        checkpoint_every: 2,
        on_checkpoint: &mut |iteration, bytes| {
            kept.push((iteration, bytes));
            Ok(())
        },
    };
    tuner.run(&mut ShareOfTwos, hooks, &CancelFlag::new()).expect("a run");
    assert_eq!(told, [1, 2, 3, 4, 5]);
    assert_eq!(kept.iter().map(|(iteration, _)| *iteration).collect::<Vec<_>>(), [2, 4]);
    let mut resumed = PolicyTuner::new(Bigram::new(), prompts(), settings).expect("a tuner");
    resumed.restore(&kept[1].1).expect("a checkpoint");
    assert_eq!((resumed.iteration(), resumed.is_done()), (4, false));
}

#[test]
fn the_kl_coefficient_adapts_to_the_target() {
    let mut settings = settings(PolicyMethod::Ppo);
    settings.objective.ppo.kl_target = Some(1e-3);
    settings.objective.ppo.kl_horizon = 100.0;
    let mut tuner = tuner(settings);
    let coefficients: Vec<f64> = (0..12).map(|_| iterate(&mut tuner).metrics["kl_coef"]).collect();
    assert!(coefficients[1] < coefficients[0], "at first the policy is the reference: {coefficients:?}");
    assert!(coefficients[11] > coefficients[5], "then it is beyond the target: {coefficients:?}");
}

#[test]
fn completions_without_stop_token_pay_the_penalty() {
    let score = |missing_eos_penalty| {
        let mut settings = settings(PolicyMethod::Ppo);
        settings.objective.ppo =
            PpoSettings { missing_eos_penalty, max_new_tokens: 2, ..settings.objective.ppo };
        let metrics = iterate(&mut tuner(settings)).metrics;
        (metrics["objective/scores"], metrics["val/num_eos_tokens"])
    };
    let ((plain, stopped), (penalised, _)) = (score(None), score(Some(3.0)));
    assert!(stopped > 0.0 && stopped < 16.0, "{stopped}");
    assert!((plain - penalised - 3.0 * (16.0 - stopped) / 16.0).abs() < 1e-12, "{plain} {penalised}");
}

/// Counts completions whose text is cut before the stop text `d`, which is token 3.
#[derive(Default)]
struct CutTexts(usize);

impl Scorer for CutTexts {
    fn score(
        &mut self,
        completions: &[SampledCompletion<'_>],
        _: &CancelFlag,
    ) -> Result<Vec<f64>, ModelError> {
        for completion in completions {
            assert!(!completion.text.contains('d') && !completion.token_ids.contains(&0));
            let stopped = completion.token_ids.last() == Some(&3);
            assert_eq!(completion.text.len() + usize::from(stopped), completion.token_ids.len());
            self.0 += usize::from(stopped);
        }
        Ok(vec![0.0; completions.len()])
    }
}

#[test]
fn a_stop_text_ends_a_completion_and_is_no_part_of_the_scored_text() {
    let mut settings = settings(PolicyMethod::Ppo);
    settings.objective.ppo.stop = vec!["d".to_owned()];
    settings.objective.ppo.missing_eos_penalty = Some(1e3);
    let mut scorer = CutTexts::default();
    let mut tuner = tuner(settings);
    let metrics = tuner.iterate(&mut scorer, &CancelFlag::new()).expect("an iteration").metrics;
    assert!(scorer.0 > 0, "no completion has the stop text");
    let stopped = metrics["val/num_eos_tokens"];
    assert!((metrics["objective/scores"] + 1e3 * (16.0 - stopped) / 16.0).abs() < 1e-9, "{metrics:?}");
    assert!(stopped >= scorer.0 as f64);
}

#[test]
fn prompts_without_room_for_a_completion_are_skipped() {
    let mut settings = settings(PolicyMethod::Ppo);
    settings.training.max_length = 14;
    assert_eq!(tuner(settings.clone()).skipped_prompts(), 1);
    iterate(&mut tuner(settings.clone()));
    settings.training.max_length = 12;
    let error = PolicyTuner::new(Bigram::new(), prompts(), settings).err().expect("no prompt").to_string();
    assert!(error.contains("all 3 prompts are too long") && error.contains("max_new_tokens"), "{error}");
}

#[test]
fn invalid_tunings_are_refused_at_once() {
    let refusal = |prompts, settings| {
        let error = PolicyTuner::new(Bigram::new(), prompts, settings).err().expect("refused");
        error.invalid_kind().expect("an invalid input")
    };
    assert_eq!(refusal(prompts(), settings(PolicyMethod::Dpo)), InvalidKind::Unsupported);
    let mut group_of_one = settings(PolicyMethod::Grpo);
    group_of_one.objective.ppo.samples = 1;
    assert_eq!(refusal(prompts(), group_of_one), InvalidKind::Setting);
    let empty = TuningPrompt { dialogue: Dialogue::Text(String::new()), ids: Vec::new() };
    assert_eq!(refusal(vec![empty], settings(PolicyMethod::Ppo)), InvalidKind::Empty);
    assert_eq!(refusal(Vec::new(), settings(PolicyMethod::Ppo)), InvalidKind::Data);
}
