//! The reward head of an opened checkpoint, and the token at which it is read.

use super::Checkpoint;
use super::reading::ReadingRules;
use super::score_head::RewardHead;
use crate::adapter::LoraAdapter;
use crate::error::ModelError;

impl Checkpoint {
    /// Returns the number of outputs of the reward head: the adapter's, else the checkpoint's own. `None` if
    /// neither has one.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] for a head of an unknown form. The error names its tensors.
    pub fn reward_outputs(&self, adapter: Option<&LoraAdapter>) -> Result<Option<usize>, ModelError> {
        if let Some(head) = adapter.and_then(|adapter| adapter.score.as_ref()) {
            return Ok(Some(head.labels));
        }
        let Some(head) = self.reward_head()? else { return Ok(None) };
        let last = head.layers.last().map(|layer| self.weights.get(&layer.weight)).transpose()?;
        Ok(last.and_then(|weight| weight.shape.first().copied()))
    }

    /// Returns the checkpoint's own reward head, if it has one.
    ///
    /// # Errors
    /// As [`RewardHead::find`].
    pub(crate) fn reward_head(&self) -> Result<Option<RewardHead>, ModelError> {
        RewardHead::find(&self.weights, self.config.class.as_deref().unwrap_or_default())
    }

    /// Returns the padding token, which the checkpoint's own head does not read.
    ///
    /// # Errors
    /// As [`RewardHead::find`].
    pub(crate) fn own_head_padding(&self) -> Result<Option<u32>, ModelError> {
        let at_last_token = self.reward_head()?.is_some_and(|head| head.at_last_token);
        Ok(self.classifier_padding().filter(|_| !at_last_token))
    }

    /// Returns the padding token, which sequence classifiers of transformers do not read: those that training
    /// makes, and adapters on this checkpoint. Version 0.1 read padding, too.
    pub(crate) fn classifier_padding(&self) -> Option<u32> {
        match self.reading {
            ReadingRules::V1 => None,
            ReadingRules::V2 => self.config.pad_token_id,
        }
    }

    /// Whether the versions of the reading rules may score texts differently: the padding token also ends
    /// texts.
    pub(crate) fn pads_with_end_of_sequence(&self) -> bool {
        let ends = |id: u32| {
            let named = self.tokenizer.eos_token().and_then(|end| self.tokenizer.token_id(end));
            self.config.eos_token_ids.contains(&id) || named == Some(id)
        };
        self.config.pad_token_id.is_some_and(ends)
    }
}
