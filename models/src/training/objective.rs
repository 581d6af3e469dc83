//! Objectives of training on examples: supervised fine-tuning, rewards and costs of pairs, and direct
//! preferences.

use dissent_domain::training::DpoLoss;
use serde::Serialize;

use super::data::{TokenPair, TrainingData};
use super::evaluation::ModelOutputs;
use super::losses::{LossInputs, sequence_logprobs};
use super::metrics::{Details, ImitationMetrics, PreferenceMetrics, ScoreMetrics};
use super::packing::{PackedBatch, TrainingSequence};
use super::spec::Loss;
use crate::error::ModelError;

/// The objective of a training on examples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Supervised fine-tuning on demonstrations; the loss is the mean over all completion tokens.
    Sft,
    /// A reward model (Bradley and Terry), with the margins of the pairs.
    Reward {
        /// The weight of the centring term, which draws the rewards' sum to 0 (TRL's
        /// `center_rewards_coefficient`); 0 disables it.
        center: f32,
    },
    /// A cost model (Safe-RLHF): the safer completion should cost less, and unsafe completions more than 0.
    Cost,
    /// Direct preference optimisation. The reference is the model without its low-rank change, or the initial
    /// model if all weights are trained.
    Dpo {
        /// The loss.
        loss: DpoLoss,
        /// β: the strength of the KL constraint, > 0.
        beta: f32,
        /// The weight of the linear term βh, for labels of which a share ε is wrong: ε for smoothed labels
        /// (cDPO), −ε/(1 − 2ε) for robust DPO, 0 for trusted labels. Only for [`DpoLoss::Sigmoid`].
        #[serde(skip_serializing_if = "is_zero")]
        linear: f32,
    },
}

/// The outputs of a model for some examples, as far as they are reported.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Observed {
    /// For each pair, `[chosen, rejected]`: scores, or log-probabilities of whole completions in the form of
    /// the loss. Empty for demonstrations.
    pub(super) pairs: Vec<[f32; 2]>,
    /// Demonstrations only: for each completion token, whether it is the most likely (1 or 0), and the
    /// entropy at its position.
    hits: Vec<f32>,
    entropy: Vec<f32>,
}

impl Observed {
    /// Adds the outputs for another batch.
    pub(super) fn add(&mut self, objective: &Objective, batch: &PackedBatch, outputs: &ModelOutputs) {
        self.pairs.extend(objective.pair_outputs(batch, outputs));
        if matches!(objective, Objective::Sft) {
            self.hits.extend(&outputs.hits);
            self.entropy.extend(&outputs.entropy);
        }
    }
}

impl Objective {
    /// Returns the loss of its steps.
    #[must_use]
    pub const fn loss(&self) -> Loss {
        match self {
            Self::Sft => Loss::Sft,
            Self::Reward { .. } => Loss::BradleyTerry,
            Self::Cost => Loss::Cost,
            Self::Dpo { loss, .. } => Loss::Dpo(*loss),
        }
    }

    /// Whether it compares with a reference.
    pub(super) const fn has_reference(&self) -> bool {
        match self {
            Self::Dpo { .. } => true,
            Self::Sft | Self::Reward { .. } | Self::Cost => false,
        }
    }

    /// Returns the sequences of some examples, in the order in which the loss reads them.
    /// Scores are not read at the padding token.
    pub(super) fn batch(
        &self,
        data: &TrainingData,
        places: &[usize],
        padding: Option<u32>,
    ) -> Result<PackedBatch, ModelError> {
        let mut sequences: Vec<TrainingSequence> = Vec::with_capacity(2 * places.len());
        match data {
            TrainingData::Demonstrations(all) => {
                sequences.extend(places.iter().filter_map(|&place| all.get(place)).cloned());
            }
            TrainingData::Pairs(all) => {
                for first in [true, false] {
                    let completion = |pair: &TokenPair| {
                        if first == self.reads_chosen_first() {
                            pair.chosen.clone()
                        } else {
                            pair.rejected.clone()
                        }
                    };
                    sequences.extend(places.iter().filter_map(|&place| all.get(place)).map(completion));
                }
            }
        }
        PackedBatch::with_padding(&sequences, self.loss().head(), padding)
    }

    /// Cost losses read the less safe completions first, other losses the preferred ones.
    const fn reads_chosen_first(&self) -> bool {
        match self {
            Self::Cost => false,
            Self::Sft | Self::Reward { .. } | Self::Dpo { .. } => true,
        }
    }

    /// Returns the number of units over which the loss of a batch is a mean: completion tokens, or pairs.
    pub(super) fn units(&self, batch: &PackedBatch) -> usize {
        match self {
            Self::Sft => batch.selected(),
            Self::Reward { .. } | Self::Cost | Self::Dpo { .. } => batch.sequences() / 2,
        }
    }

    /// Returns the inputs of the loss, if all batches of its step together have `units` units.
    pub(super) fn inputs(
        &self,
        data: &TrainingData,
        places: &[usize],
        batch: &PackedBatch,
        units: usize,
        reference: &[[f32; 2]],
    ) -> LossInputs {
        #[expect(clippy::cast_precision_loss, reason = "a step has far fewer than 2²⁴ tokens")]
        let weights = vec![1.0 / units.max(1) as f32; self.units(batch)];
        match *self {
            Self::Sft => LossInputs::Sft { weights },
            Self::Reward { center } => LossInputs::BradleyTerry {
                margins: pairs(data, places).map(|pair| pair.margin).collect(),
                weights,
                center,
            },
            Self::Cost => {
                let sign = |side: usize| {
                    pairs(data, places).map(move |pair| if unsafe_flags(pair)[side] { 1.0 } else { -1.0 })
                };
                LossInputs::Cost { signs: sign(1).chain(sign(0)).collect(), weights }
            }
            Self::Dpo { beta, linear, .. } => {
                let of_side = |side: usize| {
                    places.iter().filter_map(move |&place| reference.get(place)).map(move |pair| pair[side])
                };
                LossInputs::Dpo { reference: of_side(0).chain(of_side(1)).collect(), weights, beta, linear }
            }
        }
    }

    /// Returns the outputs for each pair of a batch, `[chosen, rejected]`: scores, or log-probabilities of
    /// whole completions in the form of the loss. Empty for demonstrations.
    pub(super) fn pair_outputs(&self, batch: &PackedBatch, outputs: &ModelOutputs) -> Vec<[f32; 2]> {
        let of_sequences = match self {
            Self::Sft => return Vec::new(),
            Self::Reward { .. } | Self::Cost => outputs.scores.clone(),
            Self::Dpo { .. } => sequence_logprobs(self.loss(), batch, &outputs.logprobs),
        };
        let (first, second) = of_sequences.split_at(of_sequences.len() / 2);
        let ordered =
            |(&first, &second)| if self.reads_chosen_first() { [first, second] } else { [second, first] };
        first.iter().zip(second).map(ordered).collect()
    }

    /// Returns the metrics of these examples.
    pub(super) fn details(
        &self,
        data: &TrainingData,
        places: &[usize],
        observed: &Observed,
        reference: &[[f32; 2]],
    ) -> Details {
        let outputs = &observed.pairs;
        match *self {
            Self::Sft => Details::Imitation(ImitationMetrics::of_tokens(&observed.hits, &observed.entropy)),
            Self::Reward { .. } => Details::Scores(ScoreMetrics::of_rewards(outputs)),
            Self::Cost => {
                let flags: Vec<[bool; 2]> = pairs(data, places).map(unsafe_flags).collect();
                Details::Scores(ScoreMetrics::of_costs(outputs, &flags))
            }
            Self::Dpo { loss, beta, .. } => {
                let reference = places.iter().filter_map(|&place| reference.get(place).copied());
                let lengths: Vec<_> = pairs(data, places)
                    .map(|pair| [&pair.chosen, &pair.rejected].map(completion_tokens))
                    .collect();
                // As in TRL: sums over whole completions are reported for every loss.
                let whole = |(numbers, lengths): ([f32; 2], [f32; 2])| match loss {
                    DpoLoss::Ipo => [numbers[0] * lengths[0], numbers[1] * lengths[1]],
                    DpoLoss::Sigmoid | DpoLoss::Hinge => numbers,
                };
                let policy: Vec<_> =
                    outputs.iter().copied().zip(lengths.iter().copied()).map(whole).collect();
                let reference: Vec<_> = reference.zip(lengths).map(whole).collect();
                Details::Preferences(PreferenceMetrics::of_logprobs(&policy, &reference, beta))
            }
        }
    }

    /// Returns the loss of one pair from the model's outputs, in 64 bits; 0 for demonstrations, which have no
    /// pairs. The formulas are those of [`super::losses`].
    pub(super) fn pair_loss(&self, pair: &TokenPair, outputs: [f32; 2], reference: Option<&[f32; 2]>) -> f64 {
        let [chosen, rejected] = outputs.map(f64::from);
        match *self {
            Self::Sft => 0.0,
            Self::Reward { center } => {
                softplus(rejected - chosen + f64::from(pair.margin))
                    + f64::from(center) * (chosen + rejected).powi(2)
            }
            Self::Cost => {
                let sign = |is_unsafe: bool| if is_unsafe { 1.0 } else { -1.0 };
                let [chosen_sign, rejected_sign] = unsafe_flags(pair).map(sign);
                softplus(chosen - rejected)
                    + softplus(-chosen_sign * chosen)
                    + softplus(-rejected_sign * rejected)
            }
            Self::Dpo { loss, beta, linear } => {
                let beta = f64::from(beta);
                let [chosen_reference, rejected_reference] =
                    reference.copied().unwrap_or_default().map(f64::from);
                let ahead = (chosen - chosen_reference) - (rejected - rejected_reference);
                match loss {
                    DpoLoss::Sigmoid => softplus(-beta * ahead) + f64::from(linear) * beta * ahead,
                    DpoLoss::Hinge => (1.0 - beta * ahead).max(0.0),
                    DpoLoss::Ipo => (ahead - 0.5 / beta).powi(2),
                }
            }
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_zero(number: &f32) -> bool {
    number.to_bits() == 0
}

fn pairs<'a>(data: &'a TrainingData, places: &'a [usize]) -> impl Iterator<Item = &'a TokenPair> {
    let all = match data {
        TrainingData::Demonstrations(_) => &[][..],
        TrainingData::Pairs(all) => all,
    };
    places.iter().filter_map(|&place| all.get(place))
}

#[expect(clippy::cast_precision_loss, reason = "a completion has far fewer than 2²⁴ tokens")]
fn completion_tokens(sequence: &TrainingSequence) -> f32 {
    sequence.ids.len().saturating_sub(sequence.completion_start) as f32
}

/// `[chosen, rejected]`. Their presence is checked where they are needed.
fn unsafe_flags(pair: &TokenPair) -> [bool; 2] {
    pair.is_unsafe.unwrap_or_default()
}

/// ln(1 + eˣ) = −ln σ(−x), without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use std::f64::consts::LN_2;

    use super::*;

    fn pair(margin: f32, is_unsafe: Option<[bool; 2]>) -> TokenPair {
        let sequence =
            |ids: &[u32]| TrainingSequence { ids: ids.to_vec(), completion_start: 1, skipped: Vec::new() };
        TokenPair { chosen: sequence(&[1, 2]), rejected: sequence(&[1, 3, 4]), margin, is_unsafe }
    }

    fn near(seen: f64, expected: f64) {
        assert!((seen - expected).abs() < 5e-7, "{seen} is not {expected}");
    }

    #[test]
    fn losses_of_pairs_have_their_worked_values() {
        let reward = Objective::Reward { center: 0.0 };
        near(reward.pair_loss(&pair(0.0, None), [2.0, 0.5], None), 0.201_413);
        near(reward.pair_loss(&pair(0.5, None), [2.0, 0.5], None), 0.313_262);
        near(reward.pair_loss(&pair(0.0, None), [1.0, 1.0], None), LN_2);
        // The less safe completion, 1.2, is the rejected one.
        near(Objective::Cost.pair_loss(&pair(0.0, Some([false, true])), [-0.7, 1.2], None), 0.805_855);
        near(Objective::Cost.pair_loss(&pair(0.0, Some([true, true])), [0.3, 1.2], None), 1.158_792);
        let dpo = |loss| Objective::Dpo { loss, beta: 0.1, linear: 0.0 };
        let value = |loss, policy| dpo(loss).pair_loss(&pair(0.0, None), policy, Some(&[-11.0, -11.5]));
        near(value(DpoLoss::Sigmoid, [-10.0, -12.0]), 0.620_957);
        near(value(DpoLoss::Sigmoid, [-11.0, -11.5]), LN_2);
        // β = .1 is not exact in 32 bits.
        assert!((value(DpoLoss::Ipo, [-10.0, -12.0]) - 12.25).abs() < 1e-6);
        near(value(DpoLoss::Hinge, [-10.0, -12.0]), 0.85);
    }

    #[test]
    fn centring_pulls_rewards_to_zero() {
        let loss = Objective::Reward { center: 0.01 }.pair_loss(&pair(0.0, None), [2.0, 0.5], None);
        near(loss, 0.201_413_3 + 0.0625);
    }

    #[test]
    fn costs_read_the_less_safe_completions_first_and_report_the_chosen_first() {
        let data = TrainingData::Pairs(vec![pair(0.0, Some([false, true]))]);
        let batch = Objective::Cost.batch(&data, &[0], None).expect("a batch");
        assert_eq!(batch.ids, [1, 3, 4, 1, 2]);
        let LossInputs::Cost { signs, weights } = Objective::Cost.inputs(&data, &[0], &batch, 4, &[]) else {
            panic!("the inputs of another loss");
        };
        assert_eq!((signs, weights), (vec![1.0, -1.0], vec![0.25]));
        let outputs = ModelOutputs { scores: vec![2.0, -1.0], ..ModelOutputs::default() };
        assert_eq!(Objective::Cost.pair_outputs(&batch, &outputs), [[-1.0, 2.0]]);
    }

    #[test]
    fn sums_are_reported_also_for_losses_of_means() {
        let data = TrainingData::Pairs(vec![pair(0.0, None)]);
        let objective = Objective::Dpo { loss: DpoLoss::Ipo, beta: 0.5, linear: 0.0 };
        let observed = Observed { pairs: vec![[-1.0, -2.0]], ..Observed::default() };
        let Details::Preferences(metrics) = objective.details(&data, &[0], &observed, &[[-1.5, -1.0]]) else {
            panic!("the report of another objective");
        };
        // The completions have one and two tokens.
        assert_eq!((metrics.logps_chosen, metrics.logps_rejected), (-1.0, -4.0));
        assert_eq!((metrics.rewards_chosen, metrics.rewards_rejected), (0.25, -1.0));
    }

    #[test]
    fn completion_tokens_have_equal_weight_in_every_batch() {
        let sequence =
            |ids: &[u32]| TrainingSequence { ids: ids.to_vec(), completion_start: 1, skipped: Vec::new() };
        let data = TrainingData::Demonstrations(vec![sequence(&[1, 2, 3, 4]), sequence(&[1, 2])]);
        let mut observed = Observed::default();
        for (place, hits, entropy) in
            [(0, vec![1.0, 0.0, 1.0], vec![0.5, 1.0, 1.5]), (1, vec![0.0], vec![3.0])]
        {
            let batch = Objective::Sft.batch(&data, &[place], None).expect("a batch");
            observed.add(&Objective::Sft, &batch, &ModelOutputs { hits, entropy, ..ModelOutputs::default() });
        }
        let Details::Imitation(metrics) = Objective::Sft.details(&data, &[0, 1], &observed, &[]) else {
            panic!("the report of another objective");
        };
        assert_eq!((metrics.mean_token_accuracy, metrics.entropy), (0.5, 1.5));
    }

    #[test]
    fn reference_log_probabilities_follow_the_data_order() {
        let data = TrainingData::Pairs(vec![pair(0.0, None); 3]);
        let objective = Objective::Dpo { loss: DpoLoss::Sigmoid, beta: 0.1, linear: 0.0 };
        let batch = objective.batch(&data, &[2, 0], None).expect("a batch");
        let all = [[-1.0, -2.0], [-3.0, -4.0], [-5.0, -6.0]];
        let LossInputs::Dpo { reference, .. } = objective.inputs(&data, &[2, 0], &batch, 2, &all) else {
            panic!("the inputs of another loss");
        };
        assert_eq!(reference, [-5.0, -1.0, -6.0, -2.0]);
    }
}
