//! The data of trainings: the settled feedback, the original preferences, the completions of a round. All
//! data is in the log, or in artifacts that the log names.

use std::sync::Arc;

use dissent_domain::event::CompletionsSampled;
use dissent_domain::experiment::Experiment;
use dissent_domain::feedback::Verdict;
use dissent_domain::log::EventLog;
use dissent_domain::plan::{Plan, PreferenceSource};
use dissent_domain::training::Preference;

use crate::error::{StepError, StepFault};
use crate::live_models::completions;
use crate::live_models::versions::Versions;

/// Largest artifact of preferences, in bytes: they are held in memory.
const PREFERENCES_BYTES_MAX: u64 = 4 << 30;

/// A comparison with a majority.
struct Settled {
    round: u32,
    prompt_index: u32,
    chosen: u32,
    rejected: u32,
    is_unsafe: Option<[bool; 2]>,
}

/// The preferences of the feedback up to a round, in the order of their requests.
pub(crate) fn feedback(
    log: &dyn EventLog,
    plan: &Plan,
    versions: &Versions,
    round: u32,
) -> Result<Vec<Preference>, StepError> {
    let settled = versions.states.read(&versions.experiment, |experiment| settled(experiment, round));
    settled.unwrap_or_default().iter().map(|settled| preference(log, plan, settled)).collect()
}

fn settled(experiment: &Experiment, last: u32) -> Vec<Settled> {
    let rounds = experiment.rounds().iter().filter(|round| round.number() <= last);
    let comparisons = rounds
        .filter(|round| round.learning().settled().is_some())
        .flat_map(|round| round.learning().comparisons().iter().map(|requested| (round.number(), requested)));
    comparisons
        .filter_map(|(round, requested)| {
            let request = &requested.request;
            let is_unsafe = requested.judgements.is_unsafe();
            let (chosen, rejected, is_unsafe) = match requested.judgements.majority()? {
                Verdict::First => (request.first, request.second, is_unsafe),
                Verdict::Second => {
                    (request.second, request.first, is_unsafe.map(|[first, second]| [second, first]))
                }
                Verdict::Tie => return None,
            };
            Some(Settled { round, prompt_index: request.prompt_index, chosen, rejected, is_unsafe })
        })
        .collect()
}

fn preference(log: &dyn EventLog, plan: &Plan, settled: &Settled) -> Result<Preference, StepError> {
    let sampled = completions::sampled(log, plan, settled.round, settled.prompt_index)?;
    let text = |completion: u32| {
        let found = sampled.completions.get(completion as usize);
        found
            .map(|completion| completion.text.clone())
            .ok_or_else(|| StepError::fatal(StepFault::TooFewCompletions(sampled.prompt.prompt_id.clone())))
    };
    Ok(Preference {
        chosen: text(settled.chosen)?,
        rejected: text(settled.rejected)?,
        prompt: sampled.prompt.dialogue(),
        margin: 0.0,
        is_unsafe: settled.is_unsafe,
    })
}

/// The original preferences that a plan names.
pub(crate) fn original(source: &PreferenceSource, versions: &Versions) -> Result<Vec<Preference>, StepError> {
    let bytes = versions.read(&source.artifact, PREFERENCES_BYTES_MAX)?;
    let lines = serde_json::Deserializer::from_slice(&bytes).into_iter::<Preference>();
    let read: Result<Vec<Preference>, _> = lines.collect();
    read.map_err(|error| {
        let artifact = source.artifact.clone();
        StepError::fatal(StepFault::Preferences { artifact, source: Arc::new(error) })
    })
}

/// The completions of a round, in the order of the prompt file; prompts without completions are left out.
pub(crate) fn sampled(
    log: &dyn EventLog,
    plan: &Plan,
    round: u32,
) -> Result<Vec<CompletionsSampled>, StepError> {
    let found = (0..plan.prompts.count).map(|prompt| completions::find(log, plan, round, prompt));
    found.filter_map(Result::transpose).collect()
}
