//! The specification of a training step: the trained parameters and the loss.

use std::collections::BTreeMap;

use dissent_domain::training::{DpoLoss, LoraSettings};

use crate::adapter::{LoraAdapter, LoraTarget};
use crate::checkpoint::ModelConfig;
use crate::checkpoint::layout::projections;
use crate::error::{InvalidKind, ModelError};

/// The trained parameters of a model.
#[derive(Debug, Clone, PartialEq)]
pub enum Trainable {
    /// Low-rank changes of some projections (arXiv 2106.09685). A score or value head is trained in full.
    Lora(LoraPlan),
    /// All weights.
    Full,
}

impl Trainable {
    /// Checks that the trained parameters can express a reference: it changes no other projection, and all
    /// ranks and scalings are equal.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] that names the first different change.
    pub fn check_reference(&self, reference: &LoraAdapter) -> Result<(), ModelError> {
        let Self::Lora(plan) = self else { return Ok(()) };
        for (target, pair) in &reference.layers {
            let same = |tuned: &PairPlan| {
                tuned.rank == pair.rank && tuned.scaling.to_bits() == pair.scaling.to_bits()
            };
            if !plan.pairs.get(target).is_some_and(same) {
                return Err(ModelError::invalid(
                    InvalidKind::ShapeMismatch,
                    format!(
                        "the reference adapter has another shape: rank {} and scaling {} at layers.{}.{}; \
                     train the same projections, rank and alpha",
                        pair.rank, pair.scaling, target.layer, target.module
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// The low-rank changes of a model: W + scaling · B · A for each named projection.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraPlan {
    /// The rank, ≥ 1. Single pairs may have another rank.
    pub r: usize,
    /// The alpha from which scalings are computed.
    pub alpha: f32,
    /// The changed projections; at least one.
    pub pairs: BTreeMap<LoraTarget, PairPlan>,
}

/// One low-rank change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairPlan {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// The factor in front of B · A.
    pub scaling: f32,
}

/// The head on top of the last hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainingHead {
    /// One score for each sequence, read at its last token.
    Score,
    /// The log-probability of each completion token.
    Vocabulary,
    /// As [`TrainingHead::Vocabulary`], with a value for each position before a completion token.
    VocabularyAndValue,
}

/// The loss of a step. Formulas and sources: [`crate::training::losses`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Supervised fine-tuning: the negative log-likelihood of completions.
    Sft,
    /// Pairwise preferences between scores.
    BradleyTerry,
    /// Pairwise preferences and signs of costs (Safe-RLHF).
    Cost,
    /// Direct preference optimisation, in one of its variants.
    Dpo(DpoLoss),
    /// Proximal policy optimisation with a value head.
    Ppo,
    /// Group-relative policy optimisation.
    Grpo,
    /// REINFORCE with a leave-one-out baseline, clipped per completion.
    Rloo,
}

impl Loss {
    /// Returns the head that the loss reads.
    #[must_use]
    pub const fn head(self) -> TrainingHead {
        match self {
            Self::BradleyTerry | Self::Cost => TrainingHead::Score,
            Self::Sft | Self::Dpo(_) | Self::Grpo | Self::Rloo => TrainingHead::Vocabulary,
            Self::Ppo => TrainingHead::VocabularyAndValue,
        }
    }

    /// Returns the additional outputs of a step per completion token.
    #[must_use]
    pub const fn report(self) -> PositionReport {
        match self {
            Self::Sft => PositionReport { entropy: true, hits: true },
            Self::Ppo | Self::Grpo | Self::Rloo => PositionReport { entropy: true, hits: false },
            Self::BradleyTerry | Self::Cost | Self::Dpo(_) => PositionReport { entropy: false, hits: false },
        }
    }
}

/// Additional outputs of a vocabulary head per position, besides the target's log-probability. They have no
/// gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PositionReport {
    /// The entropy of the distribution.
    pub entropy: bool,
    /// Whether the target is a most likely token.
    pub hits: bool,
}

/// The specification of a training step. Together with the checkpoint it determines the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct StepSpec {
    /// The trained parameters.
    pub trainable: Trainable,
    /// The loss.
    pub loss: Loss,
    /// Whether the inner values of each layer are recomputed for the gradient: less memory, more time, the
    /// same result.
    pub recompute: bool,
}

impl LoraPlan {
    /// Returns the changes that the settings ask for. A target is a name that PEFT accepts: the end of a
    /// module's path, such as `q_proj`, `self_attn.q_proj` or `model.layers.3.self_attn.q_proj`. Without
    /// targets, PEFT's defaults for the architecture are used.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for a rank of 0, an alpha that is not finite, or a target that is no
    /// projection of the model.
    pub fn new(config: &ModelConfig, settings: &LoraSettings) -> Result<Self, ModelError> {
        let r = usize::try_from(settings.r).unwrap_or(0);
        #[expect(clippy::cast_possible_truncation, reason = "adapters hold alpha in 32 bits")]
        let alpha = settings.alpha as f32;
        if r == 0 || !alpha.is_finite() {
            return Err(ModelError::invalid(
                InvalidKind::Setting,
                format!(
                    "a LoRA of rank {r} with alpha {alpha} cannot be trained: the rank must be at least 1 and alpha finite"
                ),
            ));
        }
        #[expect(clippy::cast_precision_loss, reason = "a rank is at most 65536")]
        let pair = PairPlan { rank: r, scaling: alpha / r as f32 };
        let mut pairs = BTreeMap::new();
        for name in targets(config, &settings.targets) {
            let found =
                modules(config).filter(|target| matches_name(config, target, name)).collect::<Vec<_>>();
            if found.is_empty() {
                return Err(unknown_target(config, name));
            }
            pairs.extend(found.into_iter().map(|target| (target, pair)));
        }
        Ok(Self { r, alpha, pairs })
    }

    /// Returns the changes of an adapter that is trained further.
    #[must_use]
    pub fn of_adapter(adapter: &LoraAdapter) -> Self {
        let plan = |(target, pair): (&LoraTarget, &crate::adapter::LoraPair)| {
            (target.clone(), PairPlan { rank: pair.rank, scaling: pair.scaling })
        };
        Self { r: adapter.r, alpha: adapter.alpha, pairs: adapter.layers.iter().map(plan).collect() }
    }
}

/// Returns the requested names, or those of the family.
fn targets<'a>(config: &ModelConfig, asked: &'a [String]) -> Vec<&'a str> {
    if !asked.is_empty() {
        return asked.iter().map(String::as_str).collect();
    }
    config.family.lora_targets.to_vec()
}

fn modules(config: &ModelConfig) -> impl Iterator<Item = LoraTarget> {
    let projections = projections(config);
    (0..config.layers).flat_map(move |layer| {
        let target = |&(module, _): &(&str, _)| LoraTarget { layer, module: module.to_owned() };
        projections.iter().map(target).collect::<Vec<_>>()
    })
}

fn matches_name(config: &ModelConfig, target: &LoraTarget, name: &str) -> bool {
    let path = format!("{}.{}", config.layer_name(target.layer), target.module);
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn unknown_target(config: &ModelConfig, name: &str) -> ModelError {
    let known = projections(config);
    let known: Vec<&str> =
        known.iter().map(|(module, _)| module.rsplit('.').next().unwrap_or(module)).collect();
    ModelError::invalid(
        InvalidKind::Setting,
        format!("unknown LoRA target {name:?}: the projections of this model are {}", known.join(", ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::parameters::tests::config;

    fn settings(targets: &[&str]) -> LoraSettings {
        LoraSettings { r: 4, alpha: 8.0, targets: targets.iter().map(|&name| name.to_owned()).collect() }
    }

    fn names(plan: &LoraPlan) -> Vec<String> {
        plan.pairs.keys().map(|target| format!("{}.{}", target.layer, target.module)).collect()
    }

    #[test]
    fn default_targets_are_those_of_peft() {
        let llama = LoraPlan::new(&config("llama"), &settings(&[])).expect("a plan");
        assert_eq!(
            names(&llama),
            ["0.self_attn.q_proj", "0.self_attn.v_proj", "1.self_attn.q_proj", "1.self_attn.v_proj"]
        );
        assert!(llama.pairs.values().all(|pair| *pair == PairPlan { rank: 4, scaling: 2.0 }));
        let neox = LoraPlan::new(&config("gpt_neox"), &settings(&[])).expect("a plan");
        assert_eq!(names(&neox), ["0.attention.query_key_value", "1.attention.query_key_value"]);
    }

    #[test]
    fn a_target_matches_the_end_of_a_path_at_a_dot() {
        let plan = |targets: &[&str]| LoraPlan::new(&config("gpt_neox"), &settings(targets));
        assert_eq!(names(&plan(&["dense"]).expect("a plan")), ["0.attention.dense", "1.attention.dense"]);
        let one = plan(&["gpt_neox.layers.1.mlp.dense_4h_to_h"]).expect("a plan");
        assert_eq!(names(&one), ["1.mlp.dense_4h_to_h"]);
        let error = plan(&["q_proj"]).expect_err("a Llama's").to_string();
        assert!(error.contains("q_proj") && error.contains("query_key_value"), "{error}");
    }
}
