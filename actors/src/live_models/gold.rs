//! The gold reward, which represents the truth. The oracle judges by it, and evaluations report it. No
//! selection uses it.

use dissent_domain::prompt::Prompt;
use dissent_models::runtime::CancelFlag;

use super::proxy::Proxy;
use super::run_failure::RunFailures;
use super::shared::Shared;
use crate::error::{StepError, StepFault};

/// A gold reward of completions.
pub trait Gold: Send {
    /// One finite reward for each completion, in order; larger is better.
    ///
    /// # Errors
    /// [`StepError::SetAside`] if a completion can never be scored; [`StepError::Cancelled`];
    /// [`StepError::Retry`] or [`StepError::Fatal`] if the scorer fails.
    fn score(&mut self, prompt: &Prompt, completions: &[String]) -> Result<Vec<f64>, StepError>;
}

/// The gold reward that the steps share.
pub(crate) type SharedGold = Shared<Box<dyn Gold>>;

/// A reward model as the gold reward.
pub struct GoldModel {
    model: Proxy,
    cancel: CancelFlag,
    failures: RunFailures,
}

impl GoldModel {
    /// The gold reward of this reward model, opened as a proxy.
    #[must_use]
    pub fn new(model: Proxy, cancel: CancelFlag) -> Self {
        Self { model, cancel, failures: RunFailures::default() }
    }
}

impl Gold for GoldModel {
    fn score(&mut self, prompt: &Prompt, completions: &[String]) -> Result<Vec<f64>, StepError> {
        let completions = completions.iter().map(String::as_str);
        let scores = self.model.score(prompt, completions, &mut self.failures, &self.cancel)?;
        match scores.iter().find(|score| !score.is_finite()) {
            None => Ok(scores),
            Some(score) => Err(StepError::set_aside(StepFault::GoldNotFinite(*score))),
        }
    }
}
