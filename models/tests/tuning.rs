//! Tests tuning of real, tiny policies in ONNX Runtime against a rule.

mod support;

use dissent_domain::training::{
    Dialogue, Hyperparameters, KlEstimator, LoraSettings, PolicyMethod, PolicyObjective, PpoSettings,
    Schedule,
};
use dissent_models::runtime::{CancelFlag, OnnxRuntime};
use dissent_models::scoring::{PolicyScorer, RewardModel, ScoreItem};
use dissent_models::template::PromptTemplate;
use dissent_models::tuning::{
    IterationReport, LoraPolicy, PolicyStart, PolicyTuner, ReferencePolicy, RewardScorer, SampledCompletion,
    Scorer, TunedPolicy, TuningPrompt, TuningSettings,
};
use dissent_models::{InvalidKind, ModelError};
use support::{adapter, options, runtime, tiny};

/// Rewards the share of tokens from the first quarter of the vocabulary.
struct FirstQuarter;

impl Scorer for FirstQuarter {
    fn score(
        &mut self,
        completions: &[SampledCompletion<'_>],
        _: &CancelFlag,
    ) -> Result<Vec<f64>, ModelError> {
        let share = |completion: &SampledCompletion<'_>| {
            let hits = completion.token_ids.iter().filter(|&&id| id < 40).count();
            hits as f64 / completion.token_ids.len().max(1) as f64
        };
        Ok(completions.iter().map(share).collect())
    }
}

fn prompts() -> Vec<TuningPrompt> {
    let prompt = |start: u32, length: u32| TuningPrompt {
        dialogue: Dialogue::Text(format!("prompt {start}")),
        ids: (0..length).map(|place| (start + 29 * place) % 160).collect(),
    };
    vec![prompt(3, 4), prompt(50, 1), prompt(7, 9), prompt(99, 6)]
}

fn settings(method: PolicyMethod, iterations: u32) -> TuningSettings {
    let ppo = PpoSettings {
        prompts: 8,
        samples: if method == PolicyMethod::Ppo { 4 } else { 8 },
        iterations,
        epochs: 2,
        max_new_tokens: 10,
        temperature: 1.0,
        kl_coefficient: 0.01,
        kl_estimator: KlEstimator::K3,
        ..PpoSettings::default()
    };
    let targets = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"].map(str::to_owned).to_vec();
    let training = Hyperparameters {
        learning_rate: 5e-3,
        schedule: Schedule::Constant,
        batch_size: 16,
        lora: Some(LoraSettings { r: 4, alpha: 16.0, targets }),
        seed: 11,
        ..Hyperparameters::default()
    };
    TuningSettings { objective: PolicyObjective { method, ppo, ..PolicyObjective::default() }, training }
}

fn tuner(runtime: &'static OnnxRuntime, settings: TuningSettings) -> PolicyTuner<LoraPolicy> {
    let policy = LoraPolicy::open(runtime, &tiny("llama"), &settings, PolicyStart::default(), &options(16))
        .expect("the policy opens");
    PolicyTuner::new(policy, prompts(), settings).expect("a tuner")
}

fn iterate(tuner: &mut PolicyTuner<LoraPolicy>) -> IterationReport {
    tuner.iterate(&mut FirstQuarter, &CancelFlag::new()).expect("an iteration")
}

fn raises_the_reward(method: PolicyMethod, reward: &str, kl: &str) {
    let Some(runtime) = runtime() else { return };
    let mut tuner = tuner(runtime, settings(method, 30));
    let reports: Vec<IterationReport> = (0..30).map(|_| iterate(&mut tuner)).collect();
    let rewards: Vec<f64> = reports.iter().map(|report| report.metrics[reward]).collect();
    let mean = |rewards: &[f64]| rewards.iter().sum::<f64>() / rewards.len() as f64;
    let (first, last) = (mean(&rewards[..3]), mean(&rewards[27..]));
    assert!(last > first + 0.3, "{method:?}: {rewards:.2?}");
    let kls: Vec<f64> = reports.iter().map(|report| report.metrics[kl]).collect();
    assert!(kls.iter().all(|&kl| kl >= 0.0), "{method:?}: k3 is never negative: {kls:?}");
    assert!(kls[29] > 0.01, "{method:?}: {kls:?}");
}

#[test]
fn ppo_raises_the_reward_of_a_llama() {
    raises_the_reward(PolicyMethod::Ppo, "objective/scores", "objective/kl");
}

#[test]
fn grpo_raises_the_reward_of_a_llama() {
    raises_the_reward(PolicyMethod::Grpo, "reward", "kl");
}

#[test]
fn rloo_raises_the_reward_of_a_llama() {
    raises_the_reward(PolicyMethod::Rloo, "reward", "kl");
}

#[test]
fn grpo_tunes_a_neox() {
    let Some(runtime) = runtime() else { return };
    for name in ["neox-parallel", "neox-sequential"] {
        let mut settings = settings(PolicyMethod::Ppo, 2);
        settings.training.lora = Some(LoraSettings::default());
        let start = PolicyStart::default();
        let policy =
            LoraPolicy::open(runtime, &tiny(name), &settings, start, &options(16)).expect("the policy opens");
        let mut tuner = PolicyTuner::new(policy, prompts(), settings).expect("a tuner");
        assert!(iterate(&mut tuner).metrics["objective/kl"].abs() < 1e-12, "{name}");
        assert!(iterate(&mut tuner).metrics["objective/kl"] > 0.0, "{name}");
    }
}

#[test]
fn a_killed_tuning_resumes_within_a_millionth() {
    let Some(runtime) = runtime() else { return };
    for method in [PolicyMethod::Ppo, PolicyMethod::Grpo, PolicyMethod::Rloo] {
        let mut whole = tuner(runtime, settings(method, 6));
        iterate(&mut whole);
        iterate(&mut whole);
        let checkpoint = whole.checkpoint().expect("a checkpoint");
        let mut resumed = tuner(runtime, settings(method, 6));
        resumed.restore(&checkpoint).expect("its own checkpoint");
        for _ in 0..2 {
            let (expected, found) = (iterate(&mut whole).metrics, iterate(&mut resumed).metrics);
            for (name, expected) in expected.iter().filter(|(name, _)| *name != "eps") {
                assert!(
                    (found[name] - expected).abs() < 1e-6,
                    "{method:?} {name}: {} {expected}",
                    found[name]
                );
            }
        }
    }
}

#[test]
fn the_resulting_adapter_is_the_tuned_policy() {
    let Some(runtime) = runtime() else { return };
    let mut tuner = tuner(runtime, settings(PolicyMethod::Ppo, 3));
    for _ in 0..3 {
        iterate(&mut tuner);
    }
    let policy = tuner.policy();
    assert!(policy.value_head().is_some_and(|head| head.weight.iter().any(|&number| number != 0.0)));
    let adapter = policy.adapter(None).expect("an adapter");
    let item = ScoreItem { prompt_ids: prompts()[0].ids.clone(), completion_ids: vec![5, 90, 17, 33] };
    let logprobs = |adapter| {
        let mut scorer =
            PolicyScorer::open(runtime, &tiny("llama"), adapter, &options(1)).expect("the scorer opens");
        scorer.score(std::slice::from_ref(&item), &CancelFlag::new(), &mut |_| {}).expect("scores")[0].clone()
    };
    let sequence = dissent_models::training::TrainingSequence {
        ids: item.prompt_ids.iter().chain(&item.completion_ids).copied().collect(),
        completion_start: item.prompt_ids.len(),
        skipped: Vec::new(),
    };
    let mut policy = tuner.into_policy();
    let mut logprobs_of = |model| {
        policy.evaluate(model, std::slice::from_ref(&sequence), &CancelFlag::new()).expect("figures").logprobs
    };
    let pairs = [
        (logprobs_of(dissent_models::tuning::EvaluatedModel::Policy), logprobs(Some(&adapter))),
        (logprobs_of(dissent_models::tuning::EvaluatedModel::Reference), logprobs(None)),
    ];
    for (told, scored) in &pairs {
        for (told, scored) in told.iter().zip(scored) {
            assert!((told - scored).abs() < 1e-4, "{pairs:?}");
        }
    }
    assert!((pairs[0].0[0] - pairs[1].0[0]).abs() > 1e-3, "the policy has moved: {pairs:?}");
}

#[test]
fn the_reference_is_the_start_another_adapter_or_the_base() {
    let Some(runtime) = runtime() else { return };
    let begun = adapter("llama-lora");
    let open = |adapter, reference| {
        let start = PolicyStart { adapter, reference, ..PolicyStart::default() };
        LoraPolicy::open(runtime, &tiny("llama"), &settings(PolicyMethod::Ppo, 1), start, &options(16))
    };
    let kl = |reference| {
        let settings = settings(PolicyMethod::Ppo, 1);
        let policy = open(Some(&begun), reference).expect("the policy opens");
        let mut tuner = PolicyTuner::new(policy, prompts(), settings).expect("a tuner");
        iterate(&mut tuner).metrics["objective/kl"]
    };
    assert!(kl(ReferencePolicy::Start).abs() < 1e-12);
    assert!(kl(ReferencePolicy::Adapter(&begun)).abs() < 1e-12);
    assert!(kl(ReferencePolicy::Base) > 1e-6);
    let error = open(None, ReferencePolicy::Adapter(&begun)).err().expect("another shape");
    assert_eq!(error.invalid_kind(), Some(InvalidKind::ShapeMismatch), "{error}");
}

#[test]
fn a_reward_scorer_gives_the_scores_of_the_reward_model() {
    let Some(runtime) = runtime() else { return };
    let checkpoint = tiny("llama");
    let open = || {
        RewardModel::open(runtime, &checkpoint, Some(&adapter("llama-reward")), &options(1))
            .expect("the model opens")
    };
    let dialogue = Dialogue::Text("what is it".to_owned());
    let completion =
        SampledCompletion { prompt: 0, dialogue: &dialogue, text: " a thing", token_ids: &[2, 3] };
    let tokenizer = checkpoint.tokenizer.clone();
    let mut scorer = RewardScorer::new(open(), tokenizer.clone(), PromptTemplate::Raw);
    let found = scorer.score(&[completion, completion], &CancelFlag::new()).expect("rewards");
    let ids = PromptTemplate::Raw.encode_with_completion(&tokenizer, "what is it", " a thing").expect("ids");
    let expected = open().score(&[ids], &CancelFlag::new(), &mut |_| {}).expect("a reward")[0];
    assert_eq!(found, [f64::from(expected); 2]);
}

#[test]
fn little_time_is_spent_outside_the_models() {
    let Some(runtime) = runtime() else { return };
    let mut tuner = tuner(runtime, settings(PolicyMethod::Ppo, 4));
    let phases: Vec<_> = (0..4).map(|_| iterate(&mut tuner).phases).collect();
    // Holds even with models so small that they hardly take time.
    let least = phases.iter().map(|phases| phases.overhead()).fold(1.0, f64::min);
    assert!(least < 0.1, "{phases:?}");
}

#[test]
fn a_policy_without_a_low_rank_change_is_refused() {
    let Some(runtime) = runtime() else { return };
    let mut settings = settings(PolicyMethod::Ppo, 1);
    settings.training.lora = None;
    let start = PolicyStart::default();
    let error =
        LoraPolicy::open(runtime, &tiny("llama"), &settings, start, &options(16)).err().expect("refused");
    assert_eq!(error.invalid_kind(), Some(InvalidKind::Setting), "{error}");
}
