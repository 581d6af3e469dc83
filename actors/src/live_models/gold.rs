//! The gold reward, which stands for the truth. The oracle judges by it and evaluations report it; no
//! selection sees it.

use dissent_domain::prompt::Prompt;
use dissent_models::runtime::CancelFlag;

use super::proxy::Proxy;
use super::run_failure::RunFailures;
use super::versions::Shared;
use crate::error::StepError;

/// A gold reward of completions.
pub trait Gold: Send {
    /// One finite reward for each completion, in order; larger is better.
    ///
    /// # Errors
    /// [`StepError::SetAside`] if a completion can never be scored, [`StepError::Cancelled`], and
    /// [`StepError::Retry`] or [`StepError::Fatal`] for a failure of the scorer.
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
    /// A reward model, opened as a proxy is.
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
            Some(score) => Err(StepError::SetAside(format!("the gold reward of a completion is {score}"))),
        }
    }
}
