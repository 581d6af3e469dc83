//! Checkpoints of a policy tuning, as bytes.

use rmp_serde::config::BytesMode;
use serde::{Deserialize, Serialize};

use crate::error::{InvalidKind, ModelError};
use crate::training::TrainingState;

/// The format version.
const VERSION: u32 = 1;

/// A tuning between two iterations. It holds no random state, because all seeds derive from the number of the
/// iteration.
#[derive(Debug, Clone, PartialEq)]
pub struct TuningCheckpoint {
    /// BLAKE3, in hex, of the fixed parts: settings, prompts, base model, reference.
    pub plan: String,
    /// Iterations done.
    pub iteration: u32,
    /// Optimiser steps done.
    pub steps: u64,
    /// The weight of the KL divergence, which may adapt.
    pub kl_coefficient: f64,
    /// Parameters and the optimiser's moments.
    pub state: TrainingState,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    plan: String,
    iteration: u32,
    steps: u64,
    kl_coefficient: f64,
    /// Parameters, first and second moments, as 32-bit little-endian floats.
    vectors: [Vec<u8>; 3],
}

impl TuningCheckpoint {
    /// Returns the checkpoint as bytes.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if it cannot be serialised.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        let bytes = |numbers: &[f32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let TrainingState { parameters, first_moment, second_moment } = &self.state;
        let stored = Stored {
            version: VERSION,
            plan: self.plan.clone(),
            iteration: self.iteration,
            steps: self.steps,
            kl_coefficient: self.kl_coefficient,
            vectors: [bytes(parameters), bytes(first_moment), bytes(second_moment)],
        };
        let mut packed = Vec::new();
        stored
            .serialize(&mut rmp_serde::Serializer::new(&mut packed).with_bytes(BytesMode::ForceAll))
            .map_err(|error| {
                ModelError::invalid_because(
                    InvalidKind::Serialisation,
                    "the tuning checkpoint cannot be written",
                    error,
                )
            })?;
        Ok(packed)
    }

    /// Reads a checkpoint from untrusted bytes.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the bytes are no checkpoint, have another format, or are truncated.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelError> {
        let refuse = |reason: String| {
            Err(ModelError::invalid(
                InvalidKind::Checkpoint,
                format!("the bytes are not a tuning checkpoint: {reason}"),
            ))
        };
        let stored: Stored = match rmp_serde::from_slice(bytes) {
            Ok(stored) => stored,
            Err(error) => return refuse(error.to_string()),
        };
        if stored.version != VERSION {
            return refuse(format!(
                "format {} is not supported, this program reads format {VERSION}; restart the tuning",
                stored.version
            ));
        }
        if stored.vectors.iter().any(|vector| vector.len() % 4 != 0) {
            return refuse("the vectors are truncated".to_owned());
        }
        let [parameters, first_moment, second_moment] = stored
            .vectors
            .map(|vector| vector.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect());
        Ok(Self {
            plan: stored.plan,
            iteration: stored.iteration,
            steps: stored.steps,
            kl_coefficient: stored.kl_coefficient,
            state: TrainingState { parameters, first_moment, second_moment },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> TuningCheckpoint {
        TuningCheckpoint {
            plan: "ab".to_owned(),
            iteration: 3,
            steps: 24,
            kl_coefficient: 0.051,
            state: TrainingState {
                parameters: vec![1.5, -0.0, f32::MIN_POSITIVE],
                first_moment: vec![0.1, 0.2, 0.3],
                second_moment: vec![1e-30, 2.0, 3.0],
            },
        }
    }

    #[test]
    fn checkpoints_round_trip_bit_for_bit() {
        let bytes = checkpoint().to_bytes().expect("bytes");
        assert_eq!(TuningCheckpoint::from_bytes(&bytes).expect("a checkpoint"), checkpoint());
        assert!(bytes.len() < 3 * 12 + 64, "numbers are packed as bytes: {}", bytes.len());
    }

    #[test]
    fn invalid_checkpoint_bytes_are_refused() {
        let bytes = checkpoint().to_bytes().expect("bytes");
        for wrong in [&bytes[..bytes.len() - 1], b"", b"PK\x03\x04"] {
            let error = TuningCheckpoint::from_bytes(wrong).expect_err("not a tuning checkpoint");
            assert_eq!(error.invalid_kind(), Some(InvalidKind::Checkpoint), "{error}");
        }
    }
}
