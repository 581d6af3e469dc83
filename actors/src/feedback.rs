//! The feedback step, where an oracle stands in for people: `FeedbackRequested` → `FeedbackReceived`.
//!
//! The oracle prefers the answer with the higher gold reward. It looks up the answers in the log, as the conflict step does.

use std::sync::Arc;

use dissent_domain::event::{Event, EventType, FeedbackReceived, FeedbackRequested, StepName};
use dissent_domain::feedback::{ORACLE_ANNOTATOR, Verdict};
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;

use crate::answers;
use crate::gold::SharedGold;
use crate::model::lock;
use crate::step::{Consequence, Perform, Received, StepError, follows};

/// Judges comparisons by the gold reward.
pub(crate) struct Oracle {
    log: Arc<dyn EventLog>,
    plan: Arc<Plan>,
    gold: SharedGold,
}

impl Oracle {
    pub(crate) fn new(log: Arc<dyn EventLog>, plan: Arc<Plan>, gold: SharedGold) -> Self {
        Self { log, plan, gold }
    }

    fn judge(&self, asked: &FeedbackRequested) -> Result<FeedbackReceived, StepError> {
        let sampled = answers::sampled(&*self.log, &self.plan, asked.round, asked.prompt_index)?;
        let text = |completion: u32| {
            let completion = sampled.completions.get(completion as usize);
            completion.map(|completion| completion.text.clone()).ok_or_else(|| {
                StepError::Fatal(format!("prompt {} has fewer answers than are compared", asked.prompt_id))
            })
        };
        let pair = [text(asked.first)?, text(asked.second)?];
        let (verdict, comment) = match lock(&self.gold).score(&sampled.prompt, &pair) {
            Ok(scores) => (verdict(&scores)?, None),
            // A round must not wait for ever for a comparison that cannot be judged.
            Err(StepError::SetAside(reason)) => (Verdict::Tie, Some(format!("cannot be judged: {reason}"))),
            Err(error) => return Err(error),
        };
        Ok(FeedbackReceived {
            round: asked.round,
            comparison: asked.comparison,
            annotator: ORACLE_ANNOTATOR.to_owned(),
            verdict,
            is_unsafe: None,
            comment,
        })
    }
}

fn verdict(scores: &[f64]) -> Result<Verdict, StepError> {
    let &[first, second] = scores else {
        return Err(StepError::Fatal(
            "the gold reward scored another number of answers than it was given".to_owned(),
        ));
    };
    match first.partial_cmp(&second) {
        Some(std::cmp::Ordering::Greater) => Ok(Verdict::First),
        Some(std::cmp::Ordering::Less) => Ok(Verdict::Second),
        Some(std::cmp::Ordering::Equal) => Ok(Verdict::Tie),
        None => Err(StepError::Fatal("a gold reward is not a number".to_owned())),
    }
}

impl Perform for Oracle {
    const STEP: StepName = StepName::Feedback;
    const CONSUMES: &'static [EventType] = &[EventType::FeedbackRequested];

    fn batch(&self) -> usize {
        16
    }

    fn perform(&mut self, batch: &[Received]) -> Vec<Result<Consequence, StepError>> {
        batch
            .iter()
            .map(|received| {
                let Event::FeedbackRequested(asked) = &received.event else {
                    return Ok(follows(received, []));
                };
                self.judge(asked).map(|judged| follows(received, [judged.into()]))
            })
            .collect()
    }
}
