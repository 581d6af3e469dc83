//! Tokenised training data.

use super::packing::TrainingSequence;
use super::spec::{Loss, TrainingHead};
use crate::error::{InvalidKind, ModelError};

/// Two completions of one prompt, each with the prompt before it.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenPair {
    /// The preferred completion; for costs, the safer one.
    pub chosen: TrainingSequence,
    /// The other completion.
    pub rejected: TrainingSequence,
    /// The minimum difference between the scores of the chosen and the rejected completion.
    pub margin: f32,
    /// Whether each completion is unsafe, `[chosen, rejected]`; required for costs.
    pub is_unsafe: Option<[bool; 2]>,
}

/// The examples of a training or an evaluation.
#[derive(Debug, Clone, PartialEq)]
pub enum TrainingData {
    /// Completions to imitate.
    Demonstrations(Vec<TrainingSequence>),
    /// Preferences.
    Pairs(Vec<TokenPair>),
}

impl TrainingData {
    /// Returns the number of examples; a pair is one example.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Demonstrations(sequences) => sequences.len(),
            Self::Pairs(pairs) => pairs.len(),
        }
    }

    /// Returns whether there are no examples.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks that a loss can use every example.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] that names the example, counted from 1.
    pub(super) fn check(&self, loss: Loss) -> Result<(), ModelError> {
        let invalid = |reason: String| Err(ModelError::invalid(InvalidKind::Data, reason));
        if self.is_empty() {
            return invalid("there are no training examples".to_owned());
        }
        match (self, loss) {
            (Self::Demonstrations(_), Loss::Sft) => {}
            (Self::Pairs(_), Loss::BradleyTerry | Loss::Dpo(_)) => {}
            (Self::Pairs(pairs), Loss::Cost) => {
                if let Some(place) = pairs.iter().position(|pair| pair.is_unsafe.is_none()) {
                    return invalid(format!("pair {} has no is_unsafe: add it for a cost model", place + 1));
                }
            }
            (
                Self::Demonstrations(_) | Self::Pairs(_),
                Loss::Sft
                | Loss::BradleyTerry
                | Loss::Cost
                | Loss::Dpo(_)
                | Loss::Ppo
                | Loss::Grpo
                | Loss::Rloo,
            ) => return invalid(format!("{loss:?} cannot use examples of this kind")),
        }
        if let Self::Pairs(pairs) = self
            && let Some(place) = pairs.iter().position(|pair| !pair.margin.is_finite())
        {
            return invalid(format!("the margin of pair {} is not a finite number", place + 1));
        }
        for (place, sequence) in self.sequences() {
            let TrainingSequence { ids, completion_start, .. } = sequence;
            let has_both = (1..ids.len()).contains(completion_start);
            if ids.is_empty() || (loss.head() != TrainingHead::Score && !has_both) {
                return invalid(format!(
                    "example {place} has {} tokens and its completion begins at token {completion_start}: use at least one \
                     token of a prompt and one of a completion",
                    ids.len()
                ));
            }
        }
        Ok(())
    }

    /// Returns all sequences, each with the number of its example, from 1.
    fn sequences(&self) -> Box<dyn Iterator<Item = (usize, &TrainingSequence)> + '_> {
        match self {
            Self::Demonstrations(sequences) => {
                Box::new(sequences.iter().enumerate().map(|(place, sequence)| (place + 1, sequence)))
            }
            Self::Pairs(pairs) => Box::new(pairs.iter().enumerate().flat_map(|(place, pair)| {
                [&pair.chosen, &pair.rejected].map(|completion| (place + 1, completion))
            })),
        }
    }

    /// Returns the BLAKE3 hash of all numbers, in hex: different examples have different fingerprints.
    pub(super) fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(match self {
            Self::Demonstrations(_) => b"demonstrations",
            Self::Pairs(_) => b"pairs",
        });
        for (_, TrainingSequence { ids, completion_start, skipped }) in self.sequences() {
            hasher
                .update(&(ids.len() as u64).to_le_bytes())
                .update(&(*completion_start as u64).to_le_bytes());
            ids.iter().for_each(|id| {
                hasher.update(&id.to_le_bytes());
            });
            // Nothing is added for sequences that are learnt to their end, as before there were others.
            skipped.iter().for_each(|&place| {
                hasher.update(b"skipped").update(&(place as u64).to_le_bytes());
            });
        }
        if let Self::Pairs(pairs) = self {
            for pair in pairs {
                hasher.update(&pair.margin.to_le_bytes());
                hasher.update(&pair.is_unsafe.map_or([2, 2], |flags| flags.map(u8::from)));
            }
        }
        hasher.finalize().to_hex().to_string()
    }
}
