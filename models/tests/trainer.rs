//! Tests whole trainings: they reduce the loss, resume where they stopped, and produce the result that they
//! report.

mod support;

use dissent_domain::training::{DpoLoss, Hyperparameters, LoraSettings, Schedule, Warmup};
use dissent_models::adapter::LoraAdapter;
use dissent_models::runtime::CancelFlag;
use dissent_models::scoring::{PolicyScorer, RewardModel, ScoreItem};
use dissent_models::training::{
    DataOrder, Details, Evaluation, Objective, StepMetrics, TokenPair, Trainer, TrainingData,
    TrainingObserver, TrainingSequence, TrainingSetup,
};
use dissent_models::{InvalidKind, ModelError};
use support::{open, options, runtime, tiny};

/// Returns a completion after a prompt, of varying lengths. Good completions consist of token 7, others of
/// token 8.
fn sequence(number: u32, is_good: bool) -> TrainingSequence {
    let (prompt, length) = (2 + number % 5, 1 + (number * 3 + u32::from(is_good)) % 6);
    let mut ids: Vec<u32> = (0..prompt).map(|place| 10 + (number * 31 + place * 17) % 150).collect();
    let completion_start = ids.len();
    ids.extend(
        (0..length).map(|place| if place % 2 == 0 { if is_good { 7 } else { 8 } } else { 20 + number % 100 }),
    );
    ids.push(1);
    TrainingSequence { ids, completion_start, skipped: Vec::new() }
}

fn demonstrations(count: u32) -> TrainingData {
    TrainingData::Demonstrations((0..count).map(|number| sequence(number, true)).collect())
}

fn pairs(count: u32) -> TrainingData {
    let pair = |number: u32| TokenPair {
        chosen: sequence(number, true),
        rejected: sequence(number, false),
        margin: if number.is_multiple_of(3) { 0.5 } else { 0.0 },
        is_unsafe: Some([false, number.is_multiple_of(2)]),
    };
    TrainingData::Pairs((0..count).map(pair).collect())
}

fn settings() -> Hyperparameters {
    Hyperparameters {
        learning_rate: 5e-3,
        schedule: Schedule::Cosine,
        warmup: Warmup::Steps(1),
        epochs: 3.0,
        batch_size: 3,
        gradient_accumulation: 2,
        weight_decay: 0.01,
        lora: Some(LoraSettings { r: 4, alpha: 8.0, targets: vec![] }),
        seed: 11,
        ..Hyperparameters::default()
    }
}

const OBJECTIVES: [Objective; 6] = [
    Objective::Sft,
    Objective::Reward { center: 0.01 },
    Objective::Cost,
    Objective::Dpo { loss: DpoLoss::Sigmoid, beta: 0.1, linear: 0.0 },
    Objective::Dpo { loss: DpoLoss::Ipo, beta: 0.1, linear: 0.0 },
    Objective::Dpo { loss: DpoLoss::Hinge, beta: 0.1, linear: 0.0 },
];

fn data(objective: Objective, count: u32) -> TrainingData {
    match objective {
        Objective::Sft => demonstrations(count),
        Objective::Reward { .. } | Objective::Cost | Objective::Dpo { .. } => pairs(count),
    }
}

/// Returns a training of a tiny model, or `None` where there is no runtime.
fn trainer(
    base: &str,
    objective: Objective,
    settings: Hyperparameters,
    data: TrainingData,
) -> Option<Trainer> {
    let runtime = runtime()?;
    let setup = TrainingSetup { objective, settings, order: DataOrder::Shuffled };
    Some(Trainer::open(runtime, &tiny(base), None, setup, data, &options(1)).expect("a training"))
}

fn run(trainer: &mut Trainer) -> Vec<StepMetrics> {
    while trainer.step(&CancelFlag::new()).expect("a step").is_some() {}
    trainer.metrics().to_vec()
}

#[test]
fn every_objective_reduces_its_loss() {
    for (base, objective) in OBJECTIVES.into_iter().map(|objective| ("llama", objective)).chain([
        ("neox-parallel", Objective::Reward { center: 0.0 }),
        ("neox-sequential", Objective::Sft),
        ("llama-bf16", Objective::Dpo { loss: DpoLoss::Sigmoid, beta: 0.1, linear: 0.0 }),
    ]) {
        let everywhere = if base.starts_with("llama") {
            ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"].map(str::to_owned).to_vec()
        } else {
            ["query_key_value", "dense", "dense_4h_to_h"].map(str::to_owned).to_vec()
        };
        let lora = Some(LoraSettings { r: 8, alpha: 32.0, targets: everywhere });
        let settings = Hyperparameters { epochs: 12.0, learning_rate: 1e-2, lora, ..settings() };
        let Some(mut trainer) = trainer(base, objective, settings, data(objective, 14)) else { return };
        let evaluate = |trainer: &mut Trainer| -> Evaluation {
            trainer.evaluate(&data(objective, 30), &CancelFlag::new()).expect("an evaluation")
        };
        let before = evaluate(&mut trainer);
        let metrics = run(&mut trainer);
        assert_eq!(metrics.len(), 36);
        let after = evaluate(&mut trainer);
        assert!(after.loss < 0.7 * before.loss, "{base} {objective:?}: {} then {}", before.loss, after.loss);
        match after.details {
            Details::Imitation(imitation) => {
                let Details::Imitation(at_first) = before.details else { panic!("{before:?}") };
                assert!(
                    imitation.mean_token_accuracy > at_first.mean_token_accuracy,
                    "{base}: {imitation:?}"
                );
                assert!(
                    imitation.entropy > 0.0 && imitation.entropy < at_first.entropy,
                    "{base}: {imitation:?}"
                );
            }
            Details::Scores(scores) => assert!(scores.accuracy > 0.9, "{base} {objective:?}: {scores:?}"),
            Details::Preferences(preferences) => {
                assert!(preferences.rewards_accuracies > 0.9, "{base} {objective:?}: {preferences:?}");
            }
        }
    }
}

/// Returns the metrics without their time.
fn timeless(metrics: &[StepMetrics]) -> Vec<StepMetrics> {
    metrics.iter().map(|metrics| StepMetrics { tokens_per_second: 0.0, ..metrics.clone() }).collect()
}

#[test]
fn a_training_resumes_bit_for_bit_from_any_step() {
    for objective in [Objective::Sft, Objective::Reward { center: 0.0 }, OBJECTIVES[3]] {
        let fresh = || trainer("llama", objective, settings(), data(objective, 14));
        let Some(mut whole) = fresh() else { return };
        let expected = run(&mut whole);
        assert_eq!(expected.len(), 9);
        let adapter = whole.adapter(None).expect("an adapter").to_artifact().expect("bytes");
        for stop in 0..expected.len() {
            let mut first = fresh().expect("a runtime");
            for _ in 0..stop {
                first.step(&CancelFlag::new()).expect("a step");
            }
            let bytes = first.checkpoint().expect("a checkpoint");
            let mut second = fresh().expect("a runtime");
            second.resume(&bytes).expect("the same training");
            assert_eq!(second.checkpoint().expect("a checkpoint"), bytes);
            assert_eq!(timeless(&run(&mut second)), timeless(&expected), "{objective:?} after {stop}");
            let artifact = second.adapter(None).expect("an adapter").to_artifact().expect("bytes");
            assert!(artifact == adapter, "{objective:?} after {stop}: another adapter");
        }
    }
}

#[test]
fn a_checkpoint_of_another_training_is_refused() {
    let Some(first) = trainer("llama", Objective::Sft, settings(), demonstrations(7)) else { return };
    let bytes = first.checkpoint().expect("a checkpoint");
    for (base, settings, data) in [
        ("llama", Hyperparameters { seed: 12, ..settings() }, demonstrations(7)),
        ("llama", Hyperparameters { learning_rate: 1e-4, ..settings() }, demonstrations(7)),
        ("llama", settings(), demonstrations(8)),
        ("llama-bf16", settings(), demonstrations(7)),
    ] {
        let mut other = trainer(base, Objective::Sft, settings, data).expect("a runtime");
        let error = other.resume(&bytes).expect_err("another training");
        assert_eq!(error.invalid_kind(), Some(InvalidKind::Checkpoint), "{error}");
    }
    let mut same = trainer("llama", Objective::Sft, settings(), demonstrations(7)).expect("a runtime");
    same.resume(&bytes).expect("the same training");
    assert!(same.resume(&bytes[..bytes.len() - 1]).is_err());
}

fn relative_distance(seen: &LoraAdapter, expected: &LoraAdapter) -> f64 {
    let numbers = |adapter: &LoraAdapter| -> Vec<f64> {
        let pairs = adapter.layers.values().flat_map(|pair| pair.a.iter().chain(&pair.b));
        pairs.chain(adapter.score.iter().flat_map(|score| &score.weight)).map(|&x| f64::from(x)).collect()
    };
    let (seen, expected) = (numbers(seen), numbers(expected));
    let norm = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut seen.iter().zip(&expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
}

#[test]
fn accumulated_micro_batches_are_one_batch() {
    for objective in OBJECTIVES {
        let trained = |batch_size, gradient_accumulation| {
            let settings = Hyperparameters { batch_size, gradient_accumulation, ..settings() };
            let mut trainer = trainer("llama", objective, settings, data(objective, 14))?;
            let metrics = run(&mut trainer);
            Some((metrics, trainer.adapter(None).expect("an adapter")))
        };
        let Some((whole_metrics, whole)) = trained(6, 1) else { return };
        for (batch_size, accumulation) in [(1, 6), (2, 3)] {
            let (metrics, adapter) = trained(batch_size, accumulation).expect("a runtime");
            for (seen, expected) in metrics.iter().zip(&whole_metrics) {
                let near = |a: f64, b: f64| (a - b).abs() <= 1e-5 * b.abs().max(1.0);
                assert!(near(seen.loss, expected.loss), "{objective:?}: {seen:?} {expected:?}");
                assert!(near(seen.grad_norm, expected.grad_norm), "{objective:?}: {seen:?} {expected:?}");
                assert_eq!(seen.num_tokens, expected.num_tokens);
            }
            let distance = relative_distance(&adapter, &whole);
            assert!(distance <= 1e-4, "{objective:?}, {accumulation} micro-batches: {distance}");
        }
    }
}

#[test]
fn the_loss_of_a_step_equals_an_evaluation_before_it() {
    for objective in OBJECTIVES {
        let settings =
            Hyperparameters { batch_size: 14, gradient_accumulation: 1, steps: Some(3), ..settings() };
        let Some(mut trainer) = trainer("llama", objective, settings, data(objective, 14)) else { return };
        for _ in 0..3 {
            let before = trainer.evaluate(&data(objective, 14), &CancelFlag::new()).expect("an evaluation");
            let step = trainer.step(&CancelFlag::new()).expect("a step").expect("not done");
            assert!(
                (before.loss - step.loss).abs() <= 1e-5 * step.loss.abs().max(1.0),
                "{objective:?}: {} {}",
                before.loss,
                step.loss
            );
            for ((name, seen), (_, expected)) in before.details.named().zip(step.details.named()) {
                assert!((seen - expected).abs() <= 1e-4, "{objective:?}, {name}: {seen} {expected}");
            }
        }
    }
}

#[test]
fn a_policy_starts_equal_to_its_reference() {
    let Some(mut trainer) = trainer("llama", OBJECTIVES[3], settings(), pairs(14)) else { return };
    let first = trainer.step(&CancelFlag::new()).expect("a step").expect("not done");
    assert!((first.loss - std::f64::consts::LN_2).abs() <= 1e-6, "{}", first.loss);
    let Details::Preferences(preferences) = first.details else { panic!("{:?}", first.details) };
    assert!(preferences.rewards_chosen.abs() <= 1e-6 && preferences.rewards_margins.abs() <= 1e-6);
    assert!(preferences.logps_chosen < -1.0);
}

#[test]
fn a_continued_adapter_may_be_its_own_reference() {
    let objective = Objective::Dpo { loss: DpoLoss::Sigmoid, beta: 0.1, linear: 0.0 };
    let Some(mut first) = trainer("llama", objective, settings(), data(objective, 9)) else { return };
    run(&mut first);
    let adapter = first.adapter(None).expect("an adapter");
    let first_loss = |held: bool| {
        let setup = TrainingSetup { objective, settings: settings(), order: DataOrder::AsGiven };
        let (model, data) = (tiny("llama"), data(objective, 9));
        let runtime = runtime().expect("the runtime of before");
        let mut again =
            Trainer::open(runtime, &model, Some(&adapter), setup, data, &options(1)).expect("a training");
        if held {
            again.set_reference(&adapter).expect("the same projections");
        }
        again.step(&CancelFlag::new()).expect("a step").expect("one is left").loss
    };
    assert!((first_loss(true) - std::f64::consts::LN_2).abs() < 1e-6, "it is its reference");
    assert!(
        (first_loss(false) - std::f64::consts::LN_2).abs() > 1e-3,
        "it has left the model without a change"
    );
}

#[test]
fn a_trained_reward_adapter_reproduces_its_training_scores() {
    let objective = Objective::Reward { center: 0.0 };
    for base in ["llama", "neox-parallel"] {
        let Some(mut trainer) = trainer(base, objective, settings(), pairs(14)) else { return };
        run(&mut trainer);
        let evaluation = trainer.evaluate(&pairs(20), &CancelFlag::new()).expect("an evaluation");
        let folder = tempfile::tempdir().expect("a folder");
        trainer.save(Some(base.to_owned()), folder.path()).expect("saved");
        let adapter = LoraAdapter::open(folder.path()).expect("the adapter opens");
        let TrainingData::Pairs(pairs) = pairs(20) else { unreachable!() };
        let sequences: Vec<Vec<u32>> =
            pairs.iter().flat_map(|pair| [pair.chosen.ids.clone(), pair.rejected.ids.clone()]).collect();
        let mut model =
            RewardModel::open(runtime().expect("a runtime"), &tiny(base), Some(&adapter), &options(1))
                .expect("the model opens");
        let rewards = model.score(&sequences, &CancelFlag::new(), &mut |_| {}).expect("rewards");
        for (seen, expected) in rewards.iter().zip(evaluation.pairs.as_flattened()) {
            assert!((seen - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{seen} {expected}");
        }
    }
}

#[test]
fn a_fully_trained_model_is_a_complete_checkpoint() {
    let settings = Hyperparameters { lora: None, learning_rate: 1e-3, ..settings() };
    for base in ["llama", "llama-bf16", "neox-sequential"] {
        let Some(mut trainer) = trainer(base, Objective::Sft, settings.clone(), demonstrations(14)) else {
            return;
        };
        let metrics = run(&mut trainer);
        assert!(metrics[8].loss < metrics[0].loss, "{base}");
        let evaluation = trainer.evaluate(&demonstrations(5), &CancelFlag::new()).expect("an evaluation");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("trained");
        trainer.save(None, &path).expect("saved");
        assert!(trainer.adapter(None).is_err());
        let mut scorer =
            PolicyScorer::open(runtime().expect("a runtime"), &open(&path, None), None, &options(1))
                .expect("the model opens");
        let TrainingData::Demonstrations(sequences) = demonstrations(5) else { unreachable!() };
        let items: Vec<ScoreItem> = sequences
            .iter()
            .map(|TrainingSequence { ids, completion_start, .. }| ScoreItem {
                prompt_ids: ids[..*completion_start].to_vec(),
                completion_ids: ids[*completion_start..].to_vec(),
            })
            .collect();
        let logprobs =
            scorer.score(&items, &CancelFlag::new(), &mut |_| {}).expect("log-probabilities").concat();
        let loss = -logprobs.iter().map(|&logprob| f64::from(logprob)).sum::<f64>() / logprobs.len() as f64;
        assert!((loss - evaluation.loss).abs() <= 1e-5, "{base}: {loss} {}", evaluation.loss);
    }
}

#[test]
fn training_continues_from_an_adapter() {
    let objective = Objective::Reward { center: 0.0 };
    let Some(mut first) = trainer("llama", objective, settings(), pairs(14)) else { return };
    run(&mut first);
    let adapter = first.adapter(None).expect("an adapter");
    let expected = first.evaluate(&pairs(14), &CancelFlag::new()).expect("an evaluation");
    let setup = TrainingSetup { objective, settings: settings(), order: DataOrder::AsGiven };
    let runtime = runtime().expect("a runtime");
    let mut second = Trainer::open(runtime, &tiny("llama"), Some(&adapter), setup, pairs(14), &options(1))
        .expect("a training");
    let begun = second.evaluate(&pairs(14), &CancelFlag::new()).expect("an evaluation");
    assert!((begun.loss - expected.loss).abs() <= 1e-6, "{} {}", begun.loss, expected.loss);
}

#[derive(Default)]
struct Kept {
    steps: Vec<u64>,
    checkpoints: Vec<(u64, Vec<u8>)>,
    cancel: Option<(u64, CancelFlag)>,
}

impl TrainingObserver for Kept {
    fn on_step(&mut self, metrics: &StepMetrics) -> Result<(), ModelError> {
        self.steps.push(metrics.step);
        if let Some((step, flag)) = &self.cancel
            && *step == metrics.step
        {
            flag.cancel();
        }
        Ok(())
    }

    fn on_checkpoint(&mut self, step: u64, bytes: Vec<u8>) -> Result<(), ModelError> {
        self.checkpoints.push((step, bytes));
        Ok(())
    }
}

#[test]
fn a_run_reports_each_step_and_is_cancelled_between_two() {
    let Some(mut whole) = trainer("llama", Objective::Sft, settings(), demonstrations(14)) else { return };
    let expected = run(&mut whole);
    let mut trainer = trainer("llama", Objective::Sft, settings(), demonstrations(14)).expect("a runtime");
    let flag = CancelFlag::new();
    let mut observer = Kept { cancel: Some((5, flag.clone())), ..Kept::default() };
    let stopped = trainer.run(2, &mut observer, &flag);
    assert!(matches!(stopped, Err(ModelError::Cancelled)), "{stopped:?}");
    let mut observer = Kept { cancel: None, ..observer };
    trainer.run(2, &mut observer, &CancelFlag::new()).expect("the rest");
    assert_eq!(observer.steps, (1..=9).collect::<Vec<_>>());
    let taken: Vec<u64> = observer.checkpoints.iter().map(|(step, _)| *step).collect();
    assert_eq!(taken, [2, 4, 6, 8]);
    assert_eq!(timeless(trainer.metrics()), timeless(&expected));
}

#[test]
fn untrainable_examples_are_named() {
    let Some(runtime) = runtime() else { return };
    let refused = |objective, data| {
        let setup = TrainingSetup { objective, settings: settings(), order: DataOrder::AsGiven };
        Trainer::open(runtime, &tiny("llama"), None, setup, data, &options(1))
            .err()
            .expect("refused")
            .to_string()
    };
    let TrainingData::Pairs(mut pairs) = pairs(3) else { unreachable!() };
    pairs[1].is_unsafe = None;
    assert!(refused(Objective::Cost, TrainingData::Pairs(pairs.clone())).contains("pair 2"));
    pairs[2].rejected.completion_start = 0;
    assert!(refused(OBJECTIVES[3], TrainingData::Pairs(pairs.clone())).contains("example 3"));
    assert!(refused(Objective::Sft, TrainingData::Pairs(pairs)).contains("Sft"));
    assert!(refused(Objective::Sft, TrainingData::Demonstrations(vec![])).contains("no training examples"));
    let setup = TrainingSetup {
        objective: Objective::Sft,
        settings: Hyperparameters { learning_rate: -1.0, ..settings() },
        order: DataOrder::AsGiven,
    };
    let error = Trainer::open(runtime, &tiny("llama"), None, setup, demonstrations(2), &options(1))
        .err()
        .expect("refused");
    assert_eq!(error.invalid_kind(), Some(InvalidKind::Setting), "{error}");
}
