//! A training between two steps, as bytes. A resumed training continues as if it had never stopped.

use serde::{Deserialize, Serialize};

use super::data_order::DataCursor;
use super::metrics::StepMetrics;
use super::step::TrainingState;
use crate::checkpoint::Dtype;
use crate::checkpoint::files::as_bytes;
use crate::checkpoint::weights::decode_f32;
use crate::error::{InvalidKind, ModelError};

/// The first bytes of a checkpoint.
const MAGIC: &[u8; 16] = b"dissent training";
/// The format version. Raised when older checkpoints can no longer be resumed.
const VERSION: u32 = 1;
/// BLAKE3's length, in bytes.
const HASH_BYTES: usize = 32;

/// The state from which a training resumes.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingCheckpoint {
    /// Fingerprint of the training: model, initial adapter, objective, settings, examples.
    pub training: String,
    /// The trained parameters and the optimiser's moments, bit for bit.
    pub state: TrainingState,
    /// Steps that are done.
    pub step: u64,
    /// The position in the data at which the next step begins.
    pub cursor: DataCursor,
    /// The seed of the initial parameters and of the data order.
    pub seed: u64,
    /// Tokens trained on so far.
    pub num_tokens: u64,
    /// Log-probabilities of the completions under the reference, if the objective has one: `[2 · examples]`.
    pub reference: Vec<f32>,
    /// The reports of the steps so far.
    pub metrics: Vec<StepMetrics>,
}

/// The stored form (MessagePack), with numbers as little-endian bytes.
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    training: &'a str,
    #[serde(serialize_with = "as_bytes")]
    parameters: &'a [u8],
    #[serde(serialize_with = "as_bytes")]
    adam_m: &'a [u8],
    #[serde(serialize_with = "as_bytes")]
    adam_v: &'a [u8],
    step: u64,
    cursor: DataCursor,
    seed: u64,
    num_tokens: u64,
    #[serde(serialize_with = "as_bytes")]
    reference: &'a [u8],
    metrics: Vec<StepMetrics>,
}

impl TrainingCheckpoint {
    /// Returns the checkpoint as bytes, with a checksum (BLAKE3).
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if it cannot be serialised.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        let TrainingState { parameters, first_moment, second_moment } = &self.state;
        let vectors =
            [parameters, first_moment, second_moment, &self.reference].map(|vector| little_endian(vector));
        let stored = Stored {
            training: &self.training,
            parameters: &vectors[0],
            adam_m: &vectors[1],
            adam_v: &vectors[2],
            step: self.step,
            cursor: self.cursor,
            seed: self.seed,
            num_tokens: self.num_tokens,
            reference: &vectors[3],
            metrics: self.metrics.clone(),
        };
        let start = MAGIC.len() + size_of::<u32>() + HASH_BYTES;
        let mut bytes = Vec::with_capacity(start + vectors.iter().map(Vec::len).sum::<usize>() + 4096);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend([0; HASH_BYTES]);
        let mut serialiser = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
        stored.serialize(&mut serialiser).map_err(|error| {
            ModelError::invalid_because(
                InvalidKind::Serialisation,
                "the training checkpoint cannot be written",
                error,
            )
        })?;
        let hash = blake3::hash(bytes.get(start..).unwrap_or_default());
        if let Some(place) = bytes.get_mut(start - HASH_BYTES..start) {
            place.copy_from_slice(hash.as_bytes());
        }
        Ok(bytes)
    }

    /// Reads a checkpoint from bytes.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the bytes are no checkpoint, have another version, or are damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelError> {
        let invalid = |reason: String| {
            ModelError::invalid(
                InvalidKind::Checkpoint,
                format!("the training cannot resume from this checkpoint: {reason}"),
            )
        };
        let damaged = || {
            invalid(
                "the bytes are damaged or truncated; use an earlier checkpoint, or restart the training"
                    .to_owned(),
            )
        };
        let rest = bytes
            .strip_prefix(MAGIC)
            .ok_or_else(|| invalid("the bytes are not a training checkpoint".to_owned()))?;
        let (version, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            return Err(invalid(format!(
                "version {version} is not supported, this program reads version {VERSION}; restart the training"
            )));
        }
        let (hash, body) = rest.split_first_chunk::<HASH_BYTES>().ok_or_else(damaged)?;
        if blake3::hash(body) != *hash {
            return Err(damaged());
        }
        let stored: Stored<'_> = rmp_serde::from_slice(body).map_err(|error| invalid(error.to_string()))?;
        let vector = |bytes: &[u8]| decode_f32(Dtype::F32, bytes);
        Ok(Self {
            training: stored.training.to_owned(),
            state: TrainingState {
                parameters: vector(stored.parameters),
                first_moment: vector(stored.adam_m),
                second_moment: vector(stored.adam_v),
            },
            step: stored.step,
            cursor: stored.cursor,
            seed: stored.seed,
            num_tokens: stored.num_tokens,
            reference: vector(stored.reference),
            metrics: stored.metrics,
        })
    }
}

fn little_endian(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::metrics::{Details, ScoreMetrics};
    use super::*;

    fn checkpoint(parameters: Vec<f32>) -> TrainingCheckpoint {
        let moments = |share: f32| parameters.iter().map(|number| number * share).collect();
        TrainingCheckpoint {
            training: "abc".to_owned(),
            state: TrainingState { first_moment: moments(0.1), second_moment: moments(0.01), parameters },
            step: 7,
            cursor: DataCursor { epoch: 1, position: 24 },
            seed: u64::MAX,
            num_tokens: 12345,
            reference: vec![-1.5, -2.25],
            metrics: vec![StepMetrics {
                step: 7,
                epoch: 1.5,
                loss: 0.1 + 0.2,
                grad_norm: 1.0,
                learning_rate: 1e-4,
                num_tokens: 12345,
                tokens_per_second: 99.5,
                details: Details::Scores(ScoreMetrics::of_rewards(&[[1.0, 0.0]])),
            }],
        }
    }

    fn refusal(bytes: &[u8]) -> ModelError {
        TrainingCheckpoint::from_bytes(bytes).expect_err("refused")
    }

    #[test]
    fn a_checkpoint_of_another_version_or_kind_is_refused() {
        let mut bytes = checkpoint(vec![1.0]).to_bytes().expect("bytes");
        bytes[MAGIC.len()] = 9;
        let error = refusal(&bytes);
        assert_eq!(error.invalid_kind(), Some(InvalidKind::Checkpoint), "{error}");
        assert!(error.to_string().contains("version 9"), "{error}");
        assert_eq!(refusal(b"PK").invalid_kind(), Some(InvalidKind::Checkpoint));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn checkpoints_round_trip_bit_for_bit(bits in prop::collection::vec(any::<u32>(), 0..40)) {
            let made = checkpoint(bits.iter().map(|&bits| f32::from_bits(bits)).collect());
            let back = TrainingCheckpoint::from_bytes(&made.to_bytes().expect("bytes")).expect("a checkpoint");
            let bits_of = |vector: &[f32]| vector.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits_of(&back.state.parameters), bits);
            prop_assert_eq!(bits_of(&back.state.second_moment), bits_of(&made.state.second_moment));
            prop_assert_eq!((back.cursor, back.seed, back.metrics), (made.cursor, made.seed, made.metrics));
        }

        #[test]
        fn damage_anywhere_is_detected(place in any::<prop::sample::Index>(), flip in 1_u8.., cut in any::<bool>()) {
            let mut bytes = checkpoint(vec![1.0, -2.0, 3.5]).to_bytes().expect("bytes");
            let place = place.index(bytes.len());
            if cut {
                bytes.truncate(place);
            } else {
                bytes[place] ^= flip;
            }
            prop_assert!(TrainingCheckpoint::from_bytes(&bytes).is_err());
        }
    }
}
