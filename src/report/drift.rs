//! Drift: conflicts that are born, resolved and reopened from round to round. The prompts are the same in
//! every round, so all of them are probes.

use std::collections::HashMap;

use dissent_domain::conflict::{resample, z_scores};
use dissent_domain::drift::{Drift, Probe, ProbeState, drift};
use dissent_domain::experiment::Experiment;
use dissent_domain::id::PromptId;
use dissent_domain::outcome::Outcome;
use dissent_domain::round::{PromptProgress, Round};

use super::outcomes;

/// Returns the drift over the measured rounds up to `last`; `None` before the second of them.
pub(super) fn of_rounds(experiment: &Experiment, last: u32) -> Option<Drift> {
    let rounds: Vec<&Round> = experiment
        .rounds()
        .iter()
        .filter(|round| round.number() <= last && round.evaluation().is_some())
        .collect();
    if rounds.len() < 2 {
        return None;
    }
    let prompts: Vec<&PromptId> = rounds[0].prompts().map(|(prompt_id, _)| prompt_id).collect();
    let states: Vec<Vec<Probe>> = rounds.iter().map(|round| probes(round, &prompts)).collect();
    drift(&states).ok()
}

fn probes(round: &Round, prompts: &[&PromptId]) -> Vec<Probe> {
    let progress: HashMap<&PromptId, &PromptProgress> =
        round.prompts().map(|(prompt_id, progress)| (prompt_id, progress)).collect();
    let mut found: HashMap<&PromptId, Probe> = prompts
        .iter()
        .map(|&prompt_id| {
            let state = progress.get(prompt_id).map(|progress| state(progress)).unwrap_or_default();
            (prompt_id, Probe { state, ..Probe::default() })
        })
        .collect();
    for (prompt_id, outcome) in outcomes::of_round(round) {
        let Some(probe) = found.get_mut(prompt_id) else { continue };
        if outcome == Outcome::FalseAlarm {
            probe.right += 1;
        } else {
            probe.wrong += 1;
        }
    }
    prompts.iter().map(|prompt_id| found[prompt_id]).collect()
}

fn state(progress: &PromptProgress) -> ProbeState {
    let PromptProgress::Measured { conflict, rewards, .. } = progress else { return ProbeState::Unclear };
    // PACS is z(reward) − z(log-probability), and tau depends on orders only.
    let Some(z_rewards) = z_scores(rewards) else { return ProbeState::Unclear };
    let z_logprobs: Vec<f64> = z_rewards.iter().zip(&conflict.pacs).map(|(z, pacs)| z - pacs).collect();
    let resampled = resample(rewards, &z_logprobs).ok();
    ProbeState::of_tau(resampled.and_then(|resampled| resampled.kendall_tau).as_ref())
}
