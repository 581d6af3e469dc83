//! Fine-tuning, as it goes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::stage::Stage;

/// A training became due. The reward model or the policy is trained on what the log holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingRequested {
    /// The round.
    pub round: u32,
    /// What is trained.
    pub stage: Stage,
    /// From 0; counts the leases that expired.
    pub attempt: u32,
    /// BLAKE3 of the checkpoint artifact to go on from; none: from the beginning.
    pub resume_from: Option<String>,
}

/// A worker took a training up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingStarted {
    /// The round.
    pub round: u32,
    /// What is trained.
    pub stage: Stage,
    /// The attempt.
    pub attempt: u32,
    /// Who trains, for people.
    pub worker: String,
    /// The lease, in milliseconds: without a sign of life for so long the training is requested again.
    pub lease_ms: u64,
}

/// A training is this far: a sign of life, and with a checkpoint a point to go on from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingProgressed {
    /// The round.
    pub round: u32,
    /// What is trained.
    pub stage: Stage,
    /// The attempt.
    pub attempt: u32,
    /// Its number among the attempt's signs of life, from 0.
    pub sequence: u32,
    /// Optimiser steps (or iterations, where policies sample as they learn) done.
    pub step: u64,
    /// Of how many.
    pub steps: u64,
    /// BLAKE3 of the checkpoint artifact.
    pub checkpoint: Option<String>,
    /// Figures of the last step, named as in TRL.
    pub metrics: BTreeMap<String, f64>,
}

/// A training gave no sign of life for the length of its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingLeaseExpired {
    /// The round.
    pub round: u32,
    /// What was trained.
    pub stage: Stage,
    /// The attempt that is given up.
    pub attempt: u32,
}

/// The reward model learnt from the feedback.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardModelRefined {
    /// The round.
    pub round: u32,
    /// The attempt that did it.
    pub attempt: u32,
    /// BLAKE3 of the adapter artifact.
    pub adapter: String,
    /// Fingerprint of the refined model, the adapter included.
    pub fingerprint: String,
    /// Preferences from feedback that it was trained on, of all rounds so far.
    pub preferences: u32,
    /// Preferences of the original data that it was trained on beside them.
    pub rehearsed: u32,
    /// Final figures, named as in TRL.
    pub metrics: BTreeMap<String, f64>,
}

/// The policy was tuned against the current reward model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyTuned {
    /// The round.
    pub round: u32,
    /// The attempt that did it.
    pub attempt: u32,
    /// BLAKE3 of the adapter artifact.
    pub adapter: String,
    /// Fingerprint of the tuned policy, the adapter included.
    pub fingerprint: String,
    /// Final figures, named as in TRL; where it learns from pairs of answers, their number under [`PolicyTuned::PAIRS`].
    pub metrics: BTreeMap<String, f64>,
}

impl PolicyTuned {
    /// The metric that says from how many pairs of its answers a policy learnt.
    pub const PAIRS: &str = "pairs";

    /// Whether there was nothing to learn from, so that the policy stayed as it was.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.metrics.get(Self::PAIRS).is_some_and(|&pairs| pairs <= 0.0)
    }
}
