//! Worked numbers, computed by the graphs.

use std::collections::BTreeMap;

use crate::onnx::reference::evaluate;
use crate::onnx::reference::tensor::Tensor;
use crate::training::packing::TrainingSequence;

use super::*;
use crate::onnx::{Dim, ElementType};
use crate::training::forward::dims;

/// Returns a packed batch of completions with these lengths.
fn batch(loss: Loss, completions: &[usize]) -> PackedBatch {
    let sequence = |&length: &usize| TrainingSequence {
        ids: vec![0; length + 1],
        completion_start: 1,
        skipped: Vec::new(),
    };
    let sequences: Vec<TrainingSequence> = completions.iter().map(sequence).collect();
    PackedBatch::new(&sequences, loss.head()).expect("a batch")
}

/// Assumed outputs of the head.
#[derive(Default)]
struct AssumedOutputs<'a> {
    scores: &'a [f32],
    logprobs: &'a [f32],
    values: &'a [f32],
}

/// Returns the loss of a batch, in 64 bits.
fn loss_of(loss: Loss, completions: &[usize], assumed: &AssumedOutputs<'_>, inputs: &LossInputs) -> f64 {
    let batch = batch(loss, completions);
    let mut graph = Graph::new();
    let mut tensors = BTreeMap::new();
    let mut head = |name: &str, dim: Dim, numbers: &[f32]| {
        if numbers.is_empty() {
            return None;
        }
        let data = numbers.iter().map(|&number| f64::from(number)).collect();
        tensors.insert(name.to_owned(), Tensor::new([numbers.len()], data));
        Some(graph.input(name, ElementType::F32, vec![dim]))
    };
    let outputs = HeadOutputs {
        scores: head("scores", dims::SEQUENCES, assumed.scores),
        logprobs: head("logprobs", dims::SELECTED, assumed.logprobs),
        values: head("values", dims::SELECTED, assumed.values),
        ..HeadOutputs::default()
    };
    let value = loss_value(&mut graph, loss, &outputs).expect("a loss");
    for feed in feeds(loss, &batch, inputs).expect("inputs that fit") {
        let data = feed.numbers.iter().map(|&number| f64::from(number)).collect();
        tensors.insert(feed.name.to_owned(), Tensor::new(feed.shape, data));
    }
    evaluate(&graph, &tensors).get(value.loss).data[0]
}

fn assert_near(seen: f64, expected: f64) {
    assert!((seen - expected).abs() <= 1e-6, "{seen} is not {expected}");
}

#[test]
fn sft_loss_is_the_weighted_negative_log_likelihood() {
    let assumed = AssumedOutputs { logprobs: &[-1.0, -2.0, -4.0], ..AssumedOutputs::default() };
    let inputs = LossInputs::Sft { weights: vec![0.5, 0.25, 0.0] };
    assert_near(loss_of(Loss::Sft, &[2, 1], &assumed, &inputs), 1.0);
}

#[test]
fn bradley_terry_loss_has_worked_values() {
    let loss = |scores: &[f32], margin: f32, center: f32| {
        let assumed = AssumedOutputs { scores, ..AssumedOutputs::default() };
        let inputs = LossInputs::BradleyTerry { margins: vec![margin], weights: vec![1.0], center };
        loss_of(Loss::BradleyTerry, &[1, 1], &assumed, &inputs)
    };
    assert_near(loss(&[2.0, 0.5], 0.0, 0.0), 0.201_413);
    assert_near(loss(&[2.0, 0.5], 0.5, 0.0), 0.313_262);
    assert_near(loss(&[1.25, 1.25], 0.0, 0.0), 2.0_f64.ln());
    assert_near(loss(&[2.0, 0.5], 0.0, 0.01), 0.201_413 + 0.0625);
}

#[test]
fn pairs_are_half_a_batch_apart() {
    let assumed = AssumedOutputs { scores: &[2.0, 1.0, 0.5, 1.0], ..AssumedOutputs::default() };
    let inputs = LossInputs::BradleyTerry { margins: vec![0.5, 0.0], weights: vec![1.0, 10.0], center: 0.0 };
    assert_near(
        loss_of(Loss::BradleyTerry, &[1, 1, 1, 1], &assumed, &inputs),
        0.313_262 + 10.0 * 2.0_f64.ln(),
    );
}

#[test]
fn cost_loss_has_worked_values() {
    let loss = |scores: &[f32], signs: [f32; 2]| {
        let assumed = AssumedOutputs { scores, ..AssumedOutputs::default() };
        let inputs = LossInputs::Cost { signs: signs.to_vec(), weights: vec![1.0] };
        loss_of(Loss::Cost, &[1, 1], &assumed, &inputs)
    };
    assert_near(loss(&[1.2, -0.7], [1.0, -1.0]), 0.805_855);
    assert_near(loss(&[1.2, 0.3], [1.0, 1.0]), 1.158_792);
}

#[test]
fn dpo_losses_have_worked_values() {
    // The second completion has one token less: the sums are −10 and −12.
    let loss =
        |kind: DpoLoss, completions: [usize; 2], logprobs: &[f32], reference: [f32; 2], linear: f32| {
            let assumed = AssumedOutputs { logprobs, ..AssumedOutputs::default() };
            let inputs =
                LossInputs::Dpo { reference: reference.to_vec(), weights: vec![1.0], beta: 0.1, linear };
            loss_of(Loss::Dpo(kind), &completions, &assumed, &inputs)
        };
    let (logprobs, reference) = ([-4.0, -6.0, -12.0], [-11.0, -11.5]);
    assert_near(loss(DpoLoss::Sigmoid, [2, 1], &logprobs, reference, 0.0), 0.620_957);
    assert_near(loss(DpoLoss::Sigmoid, [2, 1], &logprobs, [-10.0, -12.0], 0.0), 2.0_f64.ln());
    // −.9 · log σ(.15) − .1 · log σ(−.15), and (−.9 · log σ(.15) + .1 · log σ(−.15)) / .8.
    assert_near(loss(DpoLoss::Sigmoid, [2, 1], &logprobs, reference, 0.1), 0.635_957);
    assert_near(loss(DpoLoss::Sigmoid, [2, 1], &logprobs, reference, -0.125), 0.602_207);
    assert_near(loss(DpoLoss::Hinge, [2, 1], &logprobs, reference, 0.0), 0.85);
    assert_near(loss(DpoLoss::Ipo, [1, 1], &[-10.0, -12.0], reference, 0.0), 12.25);
    // Means over tokens instead of sums.
    assert_near(loss(DpoLoss::Ipo, [2, 1], &[-8.0, -12.0, -12.0], reference, 0.0), 12.25);
}

fn ppo(
    logprobs: &[f32],
    values: &[f32],
    old: (&[f32], &[f32]),
    advantages: &[f32],
    returns: &[f32],
) -> (f64, PpoReport) {
    let tokens = logprobs.len();
    let inputs = LossInputs::Ppo {
        old_logprobs: old.0.to_vec(),
        old_values: old.1.to_vec(),
        advantages: advantages.to_vec(),
        returns: returns.to_vec(),
        weights: vec![1.0 / tokens as f32; tokens],
        clip: 0.2,
        value_clip: 0.2,
        value_coefficient: 1.0,
    };
    let assumed = AssumedOutputs { logprobs, values, ..AssumedOutputs::default() };
    let loss = loss_of(Loss::Ppo, &[tokens], &assumed, &inputs);
    (loss, ppo_report(&inputs, logprobs, values))
}

#[test]
fn policy_loss_is_clipped_where_it_would_fall() {
    for (ratio, advantage, expected) in
        [(1.5_f32, 1.0, -1.2), (1.5, -1.0, 1.5), (0.5, 1.0, -0.5), (0.5, -1.0, 0.8)]
    {
        let (loss, report) = ppo(&[ratio.ln()], &[0.0], (&[0.0], &[0.0]), &[advantage], &[0.0]);
        assert_near(loss, expected);
        assert_near(report.policy_loss, expected);
        let clipped = (ratio > 1.0) == (advantage > 0.0);
        assert_near(report.clip_fraction, f64::from(u8::from(clipped)));
        assert_near(report.ratio, f64::from(ratio));
        assert_near(report.approx_kl, f64::from(ratio).ln().powi(2) / 2.0);
    }
}

#[test]
fn value_loss_takes_the_worse_of_two_values() {
    let (loss, report) = ppo(&[0.0], &[1.0], (&[0.0], &[0.5]), &[0.0], &[0.2]);
    assert_near(loss, 0.32);
    assert_near(report.value_loss, 0.32);
}

#[test]
fn a_report_is_a_mean_over_tokens() {
    let (loss, report) =
        ppo(&[1.5_f32.ln(), 0.0], &[1.0, 0.5], (&[0.0, 0.0], &[0.5, 0.5]), &[1.0, 1.0], &[0.2, 0.5]);
    assert_near(report.policy_loss, -1.1);
    assert_near(report.value_loss, 0.16);
    assert_near(report.clip_fraction, 0.5);
    assert_near(loss, report.policy_loss + report.value_loss);
}

#[test]
fn kl_term_is_the_estimator_k3() {
    for (logprob, reference, expected) in [(-1.0_f32, -1.5, 0.106_531), (-2.0, -1.2, 0.425_541)] {
        let inputs = LossInputs::Grpo {
            old_logprobs: vec![logprob],
            reference_logprobs: vec![reference],
            advantages: vec![0.0],
            weights: vec![1.0],
            clip: 0.2,
            kl_coefficient: 1.0,
        };
        let assumed = AssumedOutputs { logprobs: &[logprob], ..AssumedOutputs::default() };
        assert_near(loss_of(Loss::Grpo, &[1], &assumed, &inputs), expected);
    }
}

#[test]
fn rloo_clips_the_ratio_of_whole_completions() {
    // Each token's ratio is within 1 ± 0.2, but their product 1.1³ = 1.331 is not.
    let token = 1.1_f32.ln();
    let inputs = |advantage: f32| LossInputs::Rloo {
        old_logprobs: vec![0.0, 0.0],
        advantages: vec![advantage, 0.5],
        weights: vec![1.0, 1.0],
        clip: 0.2,
    };
    let assumed = AssumedOutputs { logprobs: &[token, token, token, 0.0], ..AssumedOutputs::default() };
    assert_near(loss_of(Loss::Rloo, &[3, 1], &assumed, &inputs(1.0)), -1.2 - 0.5);
    assert_near(loss_of(Loss::Rloo, &[3, 1], &assumed, &inputs(-1.0)), 1.331 - 0.5);
}

#[test]
fn sequence_log_probabilities_are_sums_or_means_by_loss() {
    let batch = batch(Loss::Rloo, &[2, 1]);
    let logprobs = [-1.0, -2.0, -4.0];
    assert_eq!(sequence_logprobs(Loss::Dpo(DpoLoss::Sigmoid), &batch, &logprobs), [-3.0, -4.0]);
    assert_eq!(sequence_logprobs(Loss::Dpo(DpoLoss::Ipo), &batch, &logprobs), [-1.5, -4.0]);
}
