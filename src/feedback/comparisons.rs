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
pub(crate) struct Row<'a> {
    pub(crate) experiment: &'a ExperimentId,
    pub(crate) round: u32,
    pub(crate) comparison: u32,
    pub(crate) prompt_id: &'a PromptId,
    pub(crate) prompt: &'a str,
    pub(crate) first: &'a str,
    pub(crate) second: &'a str,
    /// Filled in by the annotator if empty, like the fields below.
    pub(crate) annotator: Option<&'a str>,
    pub(crate) verdict: Option<&'a str>,
    pub(crate) first_unsafe: Option<bool>,
    pub(crate) second_unsafe: Option<bool>,
    pub(crate) comment: Option<&'a str>,
}

/// Calls `write` for each comparison, as an annotator sees it.
pub(crate) fn each(
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
