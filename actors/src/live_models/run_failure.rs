//! Classifies the failed runs of a model. If the model has worked in this process, the prompt causes the
//! failure, and the run is retryable. Otherwise the model causes the failure, which is fatal.

use dissent_models::ModelError;

use crate::error::StepError;

/// Classifies the outcomes of one model's runs. Inputs that do not fit are rejected before they run.
#[derive(Debug, Default)]
pub(crate) struct RunFailures {
    has_worked: bool,
}

impl RunFailures {
    /// Classifies outcomes of one batch.
    pub(crate) fn classify<T>(&mut self, outcomes: Vec<Result<T, ModelError>>) -> Vec<Result<T, StepError>> {
        self.has_worked |= outcomes.iter().any(Result::is_ok);
        outcomes.into_iter().map(|outcome| outcome.map_err(|error| self.step_error(error))).collect()
    }

    /// As [`classify`](Self::classify), for one outcome.
    pub(crate) fn classify_one<T>(&mut self, outcome: Result<T, ModelError>) -> Result<T, StepError> {
        self.has_worked |= outcome.is_ok();
        outcome.map_err(|error| self.step_error(error))
    }

    fn step_error(&self, error: ModelError) -> StepError {
        if matches!(error, ModelError::Cancelled) {
            StepError::Cancelled
        } else if self.has_worked {
            StepError::retry(error)
        } else {
            // Setting every prompt aside would end the experiment without a result.
            StepError::fatal(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> Result<(), ModelError> {
        Err(ModelError::Runtime("no".to_owned()))
    }

    #[test]
    fn a_failure_of_a_model_that_never_worked_is_fatal() {
        let classified = RunFailures::default().classify(vec![failed(), failed()]);
        assert!(classified.iter().all(|outcome| matches!(outcome, Err(StepError::Fatal(_)))));
    }

    #[test]
    fn a_failure_beside_or_after_a_success_is_retryable() {
        let mut failures = RunFailures::default();
        assert!(matches!(failures.classify(vec![failed(), Ok(())])[0], Err(StepError::Retry(_))));
        assert!(matches!(failures.classify(vec![failed()])[0], Err(StepError::Retry(_))));
    }

    #[test]
    fn a_cancelled_run_stays_cancelled() {
        let classified = RunFailures::default().classify(vec![Err::<(), _>(ModelError::Cancelled)]);
        assert!(matches!(classified[..], [Err(StepError::Cancelled)]), "{classified:?}");
    }
}
