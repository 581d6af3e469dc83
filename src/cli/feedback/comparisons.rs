//! Comparisons as annotators see them.

use anyhow::Context as _;
use dissent_domain::event::{CompletionsSampled, FeedbackRequested};
use dissent_domain::event_ids::completions_sampled_id;
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::learning::RequestedComparison;
use dissent_domain::log::EventLog;
use dissent_domain::plan::Plan;
use serde::Serialize;

/// One comparison as an annotator sees it. The row holds no reward and no log-probability, because these
/// would bias the judgement.
#[derive(Debug, Serialize)]
pub(super) struct Row<'a> {
    pub(super) experiment: &'a ExperimentId,
    pub(super) round: u32,
    pub(super) comparison: u32,
    pub(super) prompt_id: &'a PromptId,
    pub(super) prompt: &'a str,
    pub(super) first: &'a str,
    pub(super) second: &'a str,
    /// Filled in by the annotator if empty, like the fields below.
    pub(super) annotator: Option<&'a str>,
    pub(super) verdict: Option<&'a str>,
    pub(super) first_unsafe: Option<bool>,
    pub(super) second_unsafe: Option<bool>,
    pub(super) comment: Option<&'a str>,
}

/// Calls `write` for each comparison, as an annotator sees it.
pub(super) fn each(
    log: &dyn EventLog,
    plan: &Plan,
    comparisons: &[&RequestedComparison],
    annotator: Option<&str>,
    mut write: impl FnMut(&Row<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // Comparisons of the same prompt are adjacent.
    let mut current: Option<CompletionsSampled> = None;
    for requested in comparisons {
        let request = &requested.request;
        if current.as_ref().is_none_or(|texts| texts.prompt.prompt_id != request.prompt_id) {
            current = Some(completions(log, plan, request)?);
        }
        let Some(texts) = &current else { continue };
        let completion = |index: u32| {
            let found = texts.completions.get(index as usize).map(|completion| completion.text.as_str());
            found.with_context(|| format!("prompt {} has no completion {index}", request.prompt_id))
        };
        write(&Row {
            experiment: &plan.experiment,
            round: request.round,
            comparison: request.comparison,
            prompt_id: &request.prompt_id,
            prompt: &texts.prompt.text,
            first: completion(request.first)?,
            second: completion(request.second)?,
            annotator,
            verdict: None,
            first_unsafe: None,
            second_unsafe: None,
            comment: None,
        })?;
    }
    Ok(())
}

/// Reads the completions of the comparison's prompt.
fn completions(
    log: &dyn EventLog,
    plan: &Plan,
    request: &FeedbackRequested,
) -> anyhow::Result<CompletionsSampled> {
    let id = completions_sampled_id(plan, request.round, request.prompt_index);
    let prompt = &request.prompt_id;
    let recorded =
        log.find(id)?.with_context(|| format!("the log lacks the completions of prompt {prompt}"))?;
    let Ok(sampled) = CompletionsSampled::try_from(recorded.decode()?) else {
        anyhow::bail!("event {} does not hold the completions of prompt {prompt}", recorded.position)
    };
    Ok(sampled)
}
