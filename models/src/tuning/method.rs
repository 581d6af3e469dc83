//! The methods that sample while they train, and the dispatch to their files.

use std::collections::BTreeMap;

use dissent_domain::training::{PolicyMethod, PpoSettings};

use super::rollout::Rollout;
use super::rollout_math::{AdvantageEstimate, Means, MicroBatch};
use super::{grpo, ppo, rloo};
use crate::error::{InvalidKind, ModelError};
use crate::training::{BatchOutput, Loss, LossInputs};

/// The methods that sample while they train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Ppo,
    Grpo,
    Rloo,
}

impl TryFrom<PolicyMethod> for Method {
    type Error = ModelError;

    fn try_from(method: PolicyMethod) -> Result<Self, ModelError> {
        match method {
            PolicyMethod::Ppo => Ok(Self::Ppo),
            PolicyMethod::Grpo => Ok(Self::Grpo),
            PolicyMethod::Rloo => Ok(Self::Rloo),
            PolicyMethod::Dpo | PolicyMethod::Rso => Err(ModelError::invalid(
                InvalidKind::Unsupported,
                "dpo and rso do not sample while they train: build preference pairs from scored completions, \
                 or use ppo, grpo or rloo",
            )),
        }
    }
}

impl Method {
    pub(super) fn loss(self) -> Loss {
        match self {
            Self::Ppo => Loss::Ppo,
            Self::Grpo => Loss::Grpo,
            Self::Rloo => Loss::Rloo,
        }
    }

    /// Returns the advantages of each rollout. Adds the metrics of the rollouts.
    pub(super) fn advantages(
        self,
        rollouts: &[Rollout],
        settings: &PpoSettings,
        kl_coefficient: f64,
        metrics: &mut BTreeMap<String, f64>,
    ) -> Vec<AdvantageEstimate> {
        match self {
            Self::Ppo => ppo::advantages(rollouts, settings, kl_coefficient, metrics),
            Self::Grpo => grpo::advantages(rollouts, settings, metrics),
            Self::Rloo => rloo::advantages(rollouts, settings, kl_coefficient, metrics),
        }
    }

    pub(super) fn inputs(
        self,
        batch: &MicroBatch<'_>,
        settings: &PpoSettings,
        kl_coefficient: f64,
    ) -> LossInputs {
        match self {
            Self::Ppo => ppo::inputs(batch, settings),
            Self::Grpo => grpo::inputs(batch, settings, kl_coefficient),
            Self::Rloo => rloo::inputs(batch, settings),
        }
    }

    /// Adds the metrics of a micro-batch.
    pub(super) fn observe(self, inputs: &LossInputs, output: &BatchOutput, means: &mut Means) {
        match self {
            Self::Ppo => ppo::observe(inputs, output, means),
            Self::Grpo => grpo::observe(inputs, output, means),
            Self::Rloo => rloo::observe(inputs, output, means),
        }
    }
}
