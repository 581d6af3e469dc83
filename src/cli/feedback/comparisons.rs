//! Comparisons as annotators get to see them.

use anyhow::Context as _;
use dissent_domain::event::{CompletionsSampled, FeedbackRequested};
use dissent_domain::event_ids::completions_sampled_id;
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::learning::RequestedComparison;
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;
use dissent_storage::SledLog;
use serde::Serialize;

/// What an annotator gets to see. Nothing in it says what policy or reward model make of the answers: who
/// knows that judges otherwise.
#[derive(Debug, Serialize)]
pub(super) struct Row<'a> {
    pub(super) experiment: &'a ExperimentId,
    pub(super) round: u32,
    pub(super) comparison: u32,
    pub(super) prompt_id: &'a PromptId,
    pub(super) prompt: &'a str,
    pub(super) first: &'a str,
    pub(super) second: &'a str,
    /// To be filled in, as the rest.
    pub(super) annotator: Option<&'a str>,
    pub(super) verdict: Option<&'a str>,
    pub(super) first_unsafe: Option<bool>,
    pub(super) second_unsafe: Option<bool>,
    pub(super) comment: Option<&'a str>,
}

/// Hands each comparison to `write`, as an annotator gets to see it.
pub(super) fn each(
    log: &SledLog,
    plan: &Plan,
    wanted: &[&RequestedComparison],
    annotator: Option<&str>,
    mut write: impl FnMut(&Row<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // Comparisons of a prompt follow one another.
    let mut at_hand: Option<CompletionsSampled> = None;
    for asked in wanted {
        let request = &asked.request;
        if at_hand.as_ref().is_none_or(|texts| texts.prompt.prompt_id != request.prompt_id) {
            at_hand = Some(completions(log, plan, request)?);
        }
        let Some(texts) = &at_hand else { continue };
        let answer = |index: u32| {
            let found = texts.completions.get(index as usize).map(|completion| completion.text.as_str());
            found.with_context(|| format!("the prompt {} has no answer {index}", request.prompt_id))
        };
        write(&Row {
            experiment: &plan.experiment,
            round: request.round,
            comparison: request.comparison,
            prompt_id: &request.prompt_id,
            prompt: &texts.prompt.text,
            first: answer(request.first)?,
            second: answer(request.second)?,
            annotator,
            verdict: None,
            first_unsafe: None,
            second_unsafe: None,
            comment: None,
        })?;
    }
    Ok(())
}

/// The answers to the prompt of a comparison.
fn completions(
    log: &SledLog,
    plan: &Plan,
    request: &FeedbackRequested,
) -> anyhow::Result<CompletionsSampled> {
    let id = completions_sampled_id(plan, request.round, request.prompt_index);
    let recorded =
        log.find(id)?.with_context(|| format!("the answers to {} are not in the log", request.prompt_id))?;
    let Ok(sampled) = CompletionsSampled::try_from(recorded.decode()?) else {
        anyhow::bail!("event {} is not of the answers to {}", recorded.position, request.prompt_id)
    };
    Ok(sampled)
}
