//! The evaluations of policies on held-out prompts: number 0 of the initial policy, number k of the policy
//! after k rounds.

use serde::{Deserialize, Serialize};

use crate::due::Due;
use crate::event::{
    EvaluationEvent, EvaluationRequested, EventId, EventType, FiguresByPrompt, PolicyEvaluated,
};

/// Reason why an evaluation may not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationRejection {
    /// The evaluation was not requested, or is done.
    #[error("no evaluation with this number is pending")]
    NotPending,
    /// Another policy or reward model was evaluated.
    #[error("the models are not the current models")]
    OtherModels,
    /// A figure is NaN or infinite.
    #[error("a figure is not finite")]
    FigureNotFinite,
    /// The lists of figures by prompt have different lengths.
    #[error("the figures by prompt are not one for each prompt")]
    FiguresByPrompt,
}

/// The evaluations of an experiment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Evaluations {
    requested: u32,
    done: Vec<PolicyEvaluated>,
}

impl Evaluations {
    /// The evaluations so far, number 0 first.
    pub(crate) fn done(&self) -> &[PolicyEvaluated] {
        &self.done
    }

    /// Number of requested evaluations.
    pub(crate) fn requested(&self) -> u32 {
        self.requested
    }

    /// The number of the evaluation that is requested and not done.
    pub(crate) fn pending(&self) -> Option<u32> {
        let done = u32::try_from(self.done.len()).ok()?;
        (done < self.requested).then_some(done)
    }

    /// Checks whether an evaluation may happen. `policy` and `reward_model` are the fingerprints of the
    /// current models.
    pub(crate) fn decide_evaluated(
        &self,
        policy: &str,
        reward_model: &str,
        e: &PolicyEvaluated,
    ) -> Result<(), EvaluationRejection> {
        if self.pending() != Some(e.evaluation) {
            return Err(EvaluationRejection::NotPending);
        }
        // The initial policy is evaluated before any training.
        if (policy, reward_model) != (e.policy.as_str(), e.reward_model.as_str()) {
            return Err(EvaluationRejection::OtherModels);
        }
        let figures = [e.proxy_reward, e.refined_reward, [e.kl, e.response_tokens], [e.stopped, 0.0]];
        let optional = [e.proxy_agreement, e.refined_agreement, e.mean_abs_pacs, e.kendall_tau];
        let mut figures =
            figures.iter().flatten().chain(e.gold_reward.iter().flatten()).chain(optional.iter().flatten());
        if figures.any(|figure| !figure.is_finite()) {
            return Err(EvaluationRejection::FigureNotFinite);
        }
        let of_first = self.done.first().and_then(|first| first.by_prompt.as_deref());
        e.by_prompt.as_deref().map_or(Ok(()), |by_prompt| decide_by_prompt(by_prompt, of_first))
    }

    /// Applies an event.
    pub(crate) fn evolve(&mut self, event: &EvaluationEvent) {
        match event {
            EvaluationEvent::Requested(e) => self.requested = e.evaluation + 1,
            EvaluationEvent::PolicyEvaluated(e) => self.done.push(e.clone()),
        }
    }
}

fn decide_by_prompt(
    figures: &FiguresByPrompt,
    of_first: Option<&FiguresByPrompt>,
) -> Result<(), EvaluationRejection> {
    let FiguresByPrompt {
        prompts,
        gold_reward,
        proxy_reward,
        refined_reward,
        kl,
        response_tokens,
        stopped,
        ordered,
        proxy_agreed,
        refined_agreed,
        first_refined_agreed,
    } = figures;
    let needed = [proxy_reward, refined_reward, kl, response_tokens, stopped];
    let counts = [ordered, proxy_agreed, refined_agreed];
    let is_complete = |length: usize| length == prompts.len();
    let is_optional = |length: usize| length == 0 || is_complete(length);
    let of_first = of_first.map_or(0, |first| first.prompts.len());
    let fits = needed.iter().all(|list| is_complete(list.len()))
        && is_optional(gold_reward.len())
        && counts.iter().all(|list| list.len() == gold_reward.len())
        && (first_refined_agreed.is_empty() || first_refined_agreed.len() == of_first);
    if !fits {
        return Err(EvaluationRejection::FiguresByPrompt);
    }
    let mut all = needed.into_iter().chain([gold_reward]).flatten();
    if all.all(|figure| figure.is_finite()) { Ok(()) } else { Err(EvaluationRejection::FigureNotFinite) }
}

/// The request of an evaluation. `cause` is the event that opened round 0 or, later, the tuned policy.
pub(crate) fn due(cause: EventId, evaluation: u32) -> Due {
    Due::one(cause, EvaluationRequested { evaluation })
}

/// The id of an evaluation's request.
pub(crate) fn requested_id(cause: EventId) -> EventId {
    cause.caused(EventType::EvaluationRequested.name(), 0)
}
