//! What a model's failure says: of a model that has worked in this process, that this prompt is at fault; of one that
//! never has, that the model is.

use dissent_models::ModelError;

use crate::step::StepError;

/// Judges the outcomes of one model's runs. Inputs that cannot fit have been told apart before.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    has_worked: bool,
}

impl Judge {
    /// Takes note of outcomes that belong together, and turns their failures into what is to be done.
    pub(crate) fn judge<T>(&mut self, outcomes: Vec<Result<T, ModelError>>) -> Vec<Result<T, StepError>> {
        self.has_worked |= outcomes.iter().any(Result::is_ok);
        outcomes.into_iter().map(|outcome| outcome.map_err(|error| self.step_error(&error))).collect()
    }

    /// As [`judge`](Self::judge), for a single outcome.
    pub(crate) fn one<T>(&mut self, outcome: Result<T, ModelError>) -> Result<T, StepError> {
        self.has_worked |= outcome.is_ok();
        outcome.map_err(|error| self.step_error(&error))
    }

    fn step_error(&self, error: &ModelError) -> StepError {
        if matches!(error, ModelError::Cancelled) {
            StepError::Cancelled
        } else if self.has_worked {
            StepError::Retry(error.to_string())
        } else {
            // Setting every prompt aside would end the experiment with nothing, and use up its name.
            StepError::Fatal(error.to_string())
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
    fn a_model_that_never_worked_stops_the_step() {
        let judged = Judge::default().judge(vec![failed(), failed()]);
        assert!(judged.iter().all(|outcome| matches!(outcome, Err(StepError::Fatal(_)))));
    }

    #[test]
    fn a_failure_beside_a_success_or_after_one_is_the_prompts() {
        let mut judge = Judge::default();
        assert!(matches!(judge.judge(vec![failed(), Ok(())])[0], Err(StepError::Retry(_))));
        assert!(matches!(judge.judge(vec![failed()])[0], Err(StepError::Retry(_))));
    }

    #[test]
    fn a_cancelled_run_is_nobodys_fault() {
        let judged = Judge::default().judge(vec![Err::<(), _>(ModelError::Cancelled)]);
        assert_eq!(judged, [Err(StepError::Cancelled)]);
    }
}
