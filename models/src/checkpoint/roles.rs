//! The roles of models: a policy predicts tokens, a reward model scores texts.

use super::Checkpoint;
use crate::adapter::{AdapterTask, LoraAdapter};
use crate::error::{InvalidKind, ModelError};

impl Checkpoint {
    /// Checks that the checkpoint with its adapter can be a policy: it has a language head, and the adapter
    /// was not trained for another task.
    ///
    /// The rule for checkpoints is stricter than transformers', which gives a classifier a head of random
    /// numbers, or its embeddings.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] that names the checkpoint or the adapter, and the way out.
    pub fn check_policy(&self, adapter: Option<&LoraAdapter>) -> Result<(), ModelError> {
        if adapter.is_some_and(|adapter| adapter.task == AdapterTask::SeqCls) {
            return Err(ModelError::invalid(
                InvalidKind::Adapter,
                "the adapter's task is SEQ_CLS, a reward model's, so no policy can use it: give it to the reward model",
            ));
        }
        let head = self.config.head();
        if self.weights.contains(head) {
            return Ok(());
        }
        let class = self.config.class.as_deref().unwrap_or("a model");
        let scores = self.config.num_labels.is_some() || is_classifier(class);
        if self.config.tied_embeddings && !scores {
            return Ok(());
        }
        let path = self.source.display();
        Err(ModelError::invalid(
            InvalidKind::MissingTensor,
            if scores {
                format!(
                    "{path} is a reward model or classifier ({class}) without a language head ({head}), so it is no policy: \
                     use it as the reward model, and as the policy a causal language model"
                )
            } else {
                format!(
                    "{path} ({class}) has no language head ({head}) and does not tie it to the embeddings, so it is no \
                     policy: use the checkpoint that was saved with its head, such as …ForCausalLM"
                )
            },
        ))
    }
}

/// Whether a class of transformers scores texts or tokens.
fn is_classifier(class: &str) -> bool {
    ["Classification", "QuestionAnswering", "Reward"].iter().any(|part| class.contains(part))
}
