//! The feedback step with an oracle in place of people: `FeedbackRequested` → `FeedbackReceived`.
//!
//! The oracle prefers the completion with the higher gold reward. It looks up the completions in the log, as
//! the conflict step does.

use std::sync::Arc;

use dissent_domain::event::{FeedbackReceived, FeedbackRequested, StepName};
use dissent_domain::feedback::{ORACLE_ANNOTATOR, Verdict};
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;

use crate::error::{StepError, StepFault};
use crate::live_models::completions;
use crate::live_models::gold::SharedGold;
use crate::live_models::shared::lock;
use crate::runner::step::{Consequence, Received, Step};

/// Judges comparisons by the gold reward.
pub(crate) struct OracleStep {
    log: Arc<dyn EventLog>,
    plan: Arc<Plan>,
    gold: SharedGold,
}

impl OracleStep {
    pub(crate) fn new(log: Arc<dyn EventLog>, plan: Arc<Plan>, gold: SharedGold) -> Self {
        Self { log, plan, gold }
    }

    fn judge(&self, requested: &FeedbackRequested) -> Result<FeedbackReceived, StepError> {
        let sampled = completions::sampled(&*self.log, &self.plan, requested.round, requested.prompt_index)?;
        let text = |completion: u32| {
            let completion = sampled.completions.get(completion as usize);
            completion
                .map(|completion| completion.text.clone())
                .ok_or_else(|| StepError::fatal(StepFault::TooFewCompletions(requested.prompt_id.clone())))
        };
        let pair = [text(requested.first)?, text(requested.second)?];
        let (verdict, comment) = match lock(&self.gold).score(&sampled.prompt, &pair) {
            Ok(scores) => (verdict(&scores)?, None),
            // The round must not wait forever for a comparison that cannot be judged.
            Err(StepError::SetAside(fault)) => (Verdict::Tie, Some(format!("cannot be judged: {fault}"))),
            Err(error) => return Err(error),
        };
        Ok(FeedbackReceived {
            round: requested.round,
            comparison: requested.comparison,
            annotator: ORACLE_ANNOTATOR.to_owned(),
            verdict,
            is_unsafe: None,
            comment,
        })
    }
}

fn verdict(scores: &[f64]) -> Result<Verdict, StepError> {
    let &[first, second] = scores else {
        return Err(StepError::fatal(StepFault::GoldCount));
    };
    match first.partial_cmp(&second) {
        Some(std::cmp::Ordering::Greater) => Ok(Verdict::First),
        Some(std::cmp::Ordering::Less) => Ok(Verdict::Second),
        Some(std::cmp::Ordering::Equal) => Ok(Verdict::Tie),
        None => Err(StepError::fatal(StepFault::GoldNotFinite(if first.is_nan() { first } else { second }))),
    }
}

impl Step for OracleStep {
    const NAME: StepName = StepName::Feedback;
    type Input = FeedbackRequested;

    fn batch(&self) -> usize {
        16
    }

    fn handle(&mut self, received: &Received<FeedbackRequested>) -> Result<Consequence, StepError> {
        self.judge(&received.event).map(|judged| received.leads_to([judged.into()]))
    }
}
