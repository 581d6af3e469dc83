//! Events of the training step.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::stage::Stage;

/// A training of the reward model or the policy was requested. Its data are the events of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingRequested {
    /// The round.
    pub round: u32,
    /// The trained model.
    pub stage: Stage,
    /// The attempt, from 0: the number of expired leases.
    pub attempt: u32,
    /// BLAKE3 of the checkpoint artifact to resume from; `None`: start from the beginning.
    pub resume_from: Option<String>,
}

/// A worker started a training.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingStarted {
    /// The round.
    pub round: u32,
    /// The trained model.
    pub stage: Stage,
    /// The attempt.
    pub attempt: u32,
    /// The worker, for people to read.
    pub worker: String,
    /// The lease, in milliseconds. Without a heartbeat for this time the training is requested again.
    pub lease_ms: u64,
}

/// A heartbeat of a training, with its progress. A checkpoint allows another attempt to resume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingProgressed {
    /// The round.
    pub round: u32,
    /// The trained model.
    pub stage: Stage,
    /// The attempt.
    pub attempt: u32,
    /// The number of the heartbeat in its attempt, from 0.
    pub sequence: u32,
    /// Number of optimiser steps done, or of iterations for methods that sample as they learn.
    pub step: u64,
    /// Total number of steps.
    pub steps: u64,
    /// BLAKE3 of the checkpoint artifact.
    pub checkpoint: Option<String>,
    /// Figures of the last step, named as in TRL.
    pub metrics: BTreeMap<String, f64>,
}

/// The lease of a training expired without a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingLeaseExpired {
    /// The round.
    pub round: u32,
    /// The trained model.
    pub stage: Stage,
    /// The attempt that expired.
    pub attempt: u32,
}

/// The reward model was refined on the feedback.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardModelRefined {
    /// The round.
    pub round: u32,
    /// The attempt.
    pub attempt: u32,
    /// BLAKE3 of the adapter artifact.
    pub adapter: String,
    /// Fingerprint of the refined model, the adapter included.
    pub fingerprint: String,
    /// Number of preferences from the feedback of all rounds so far in its training data.
    pub preferences: u32,
    /// Number of original preferences in its training data.
    pub rehearsed: u32,
    /// Final figures, named as in TRL.
    pub metrics: BTreeMap<String, f64>,
}

/// The policy was tuned against the current reward model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyTuned {
    /// The round.
    pub round: u32,
    /// The attempt.
    pub attempt: u32,
    /// BLAKE3 of the adapter artifact.
    pub adapter: String,
    /// Fingerprint of the tuned policy, the adapter included.
    pub fingerprint: String,
    /// Final figures, named as in TRL. A method that learns from pairs has their number under
    /// [`PolicyTuned::PAIRS`].
    pub metrics: BTreeMap<String, f64>,
}

impl PolicyTuned {
    /// Name of the metric with the number of training pairs.
    pub const PAIRS: &str = "pairs";

    /// Whether the training had no pairs, so that the policy is unchanged.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.metrics.get(Self::PAIRS).is_some_and(|&pairs| pairs <= 0.0)
    }
}
