//! The reward head of a checkpoint: its tensors, its form, and the token at which it is read.
//!
//! Every form is that of the program that trains such models. A head of another form is refused by the names
//! of its tensors. A guessed activation function or position would give a wrong reward in silence.

use std::collections::BTreeSet;

use super::layout::SCORE_HEAD;
use super::weights::Weights;
use crate::error::{InvalidKind, ModelError};

/// Beginnings of the names of head tensors. No decoder tensor begins so.
const PREFIXES: [&str; 9] = [
    "score.",
    "v_head.",
    "value_head.",
    "reward_head.",
    "rm_head.",
    "regression_layer.",
    "gating.",
    "classifier.",
    "classification_head.",
];

/// Whether a tensor belongs to a reward head.
pub(crate) fn is_head_tensor(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Returns the index of the token at which a sequence classifier reads its score: the rightmost one that is
/// not padding. If all tokens are padding it is the first, as in transformers.
pub(crate) fn scored_token(ids: &[u32], padding: Option<u32>) -> usize {
    ids.iter().rposition(|&id| Some(id) != padding).unwrap_or(0)
}

/// One linear layer of a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeadLayer {
    /// The tensor `[outputs, inputs]`.
    pub(crate) weight: String,
    /// The tensor `[outputs]`, if there is one.
    pub(crate) bias: Option<String>,
}

/// A reward head: linear layers, with a rectifier (ReLU) between two of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RewardHead {
    /// The layers, from the hidden state to the scores; at least one.
    pub(crate) layers: Vec<HeadLayer>,
    /// Whether it is read at the last token, even if that is padding. Else as [`scored_token`] says.
    pub(crate) at_last_token: bool,
}

impl RewardHead {
    /// Returns the head among the tensors of a model of a class, such as `LlamaForSequenceClassification`;
    /// `None` if there is no tensor of a head.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for a head of an unknown form. The error names its tensors.
    pub(crate) fn find(weights: &Weights, class: &str) -> Result<Option<Self>, ModelError> {
        let names: BTreeSet<&str> =
            weights.iter().map(|(name, _)| name).filter(|name| is_head_tensor(name)).collect();
        if names.is_empty() {
            return Ok(None);
        }
        let unknown = |reason: &str| {
            let list = names.iter().copied().collect::<Vec<_>>().join(", ");
            ModelError::invalid(
                InvalidKind::Unsupported,
                format!(
                    "the reward head of {list} {reason}: use a model with score.weight, v_head.summary or value_head.weight"
                ),
            )
        };
        if names.iter().any(|name| name.starts_with("regression_layer.") || name.starts_with("gating.")) {
            return Err(unknown("mixes several objectives by a gate (ArmoRM), which is not supported"));
        }
        // OpenRLHF's class and the value heads of TRL and GRM read the last token that attention sees.
        let open_rlhf = class == "RewardModel";
        let found = if names.contains(SCORE_HEAD) {
            Self::linear("score", open_rlhf, &names)
        } else if names.contains("value_head.weight") {
            Self::linear("value_head", true, &names)
        } else if names.contains("v_head.summary.weight") {
            Self::linear("v_head.summary", true, &names)
        } else if names.contains("v_head.summary.0.weight") {
            Self::stack("v_head.summary", true, &names)
        } else if names.contains("score.0.weight") && class.ends_with("ForRewardModel") {
            Self::stack("score", false, &names)
        } else if names.contains("score.0.weight") {
            return Err(unknown(&format!(
                "has an unknown activation function between its layers in a model of class {class:?}"
            )));
        } else {
            return Err(unknown("has an unknown form"));
        };
        let known = found.tensors();
        match names.iter().find(|name| !known.contains(*name)) {
            None => Ok(Some(found)),
            Some(other) => Err(unknown(&format!("has an unknown part {other}"))),
        }
    }

    /// A head of one linear layer.
    fn linear(module: &str, at_last_token: bool, names: &BTreeSet<&str>) -> Self {
        Self { layers: vec![HeadLayer::of(module, names)], at_last_token }
    }

    /// Linear layers 0, 2, 4, … of a sequence, with rectifiers as its modules 1, 3, ….
    fn stack(module: &str, at_last_token: bool, names: &BTreeSet<&str>) -> Self {
        let layers = (0..)
            .step_by(2)
            .map(|index| format!("{module}.{index}"))
            .take_while(|layer| names.contains(format!("{layer}.weight").as_str()))
            .map(|layer| HeadLayer::of(&layer, names))
            .collect();
        Self { layers, at_last_token }
    }

    fn tensors(&self) -> BTreeSet<&str> {
        let weights = self.layers.iter().map(|layer| layer.weight.as_str());
        weights.chain(self.layers.iter().filter_map(|layer| layer.bias.as_deref())).collect()
    }

    /// Whether transformers' sequence classifiers have such a head: `score.weight` alone.
    pub(crate) fn is_classifier(&self) -> bool {
        let [layer] = self.layers.as_slice() else { return false };
        layer.weight == SCORE_HEAD && layer.bias.is_none() && !self.at_last_token
    }
}

impl HeadLayer {
    fn of(module: &str, names: &BTreeSet<&str>) -> Self {
        let bias = Some(format!("{module}.bias")).filter(|bias| names.contains(bias.as_str()));
        Self { weight: format!("{module}.weight"), bias }
    }
}
