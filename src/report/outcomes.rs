//! Outcomes of judged conflicts: which model was wrong about the judged pairs of each round.

use std::collections::HashMap;

use dissent_domain::analysis::Interval;
use dissent_domain::event::FeedbackRequested;
use dissent_domain::experiment::Experiment;
use dissent_domain::id::PromptId;
use dissent_domain::learning::RequestedComparison;
use dissent_domain::outcome::{CLAIM, Outcome, OutcomeCounts, PairScores, outcome};
use dissent_domain::round::{PromptProgress, Round};
use serde::Serialize;

use crate::text::grouped;

/// How the judged pairs of a row were chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChosenBy {
    /// The rule selected them.
    Rule,
    /// The audit drew them uniformly.
    Audit,
    /// They belong to the focus of a fork.
    Focus,
}

impl ChosenBy {
    fn of(request: &FeedbackRequested) -> Self {
        match request {
            FeedbackRequested { is_focus: true, .. } => Self::Focus,
            FeedbackRequested { propensity: Some(_), .. } => Self::Audit,
            FeedbackRequested { .. } => Self::Rule,
        }
    }
}

/// The outcomes of the judged pairs of a round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OutcomeFigures {
    /// The round.
    pub round: u32,
    /// How the pairs were chosen.
    pub chosen_by: ChosenBy,
    /// Numbers of pairs by outcome.
    pub counts: OutcomeCounts,
}

/// Returns the outcomes of every round up to `last`, of the rule's pairs before those of the audit and
/// of a focus. Rows without a judged pair are left out.
pub(super) fn of_rounds(experiment: &Experiment, last: u32) -> Vec<OutcomeFigures> {
    let rounds = experiment.rounds().iter().filter(|round| round.number() <= last);
    let rows = rounds.flat_map(|round| {
        [ChosenBy::Rule, ChosenBy::Audit, ChosenBy::Focus].map(|chosen_by| OutcomeFigures {
            round: round.number(),
            chosen_by,
            counts: counts(round, chosen_by),
        })
    });
    rows.filter(|row| row.counts.all() > 0).collect()
}

/// The outcome of each judged pair of a round, with its prompt.
pub(super) fn of_round(round: &Round) -> impl Iterator<Item = (&PromptId, Outcome)> {
    let prompts = progress(round);
    round.learning().comparisons().iter().filter_map(move |comparison| {
        Some((&comparison.request.prompt_id, of_comparison(&prompts, comparison)?))
    })
}

fn progress(round: &Round) -> HashMap<&PromptId, &PromptProgress> {
    round.prompts().map(|(prompt_id, progress)| (prompt_id, progress)).collect()
}

fn counts(round: &Round, chosen_by: ChosenBy) -> OutcomeCounts {
    let prompts = progress(round);
    let comparisons = round.learning().comparisons().iter();
    let chosen = comparisons.filter(|comparison| ChosenBy::of(&comparison.request) == chosen_by);
    let outcomes = chosen.filter_map(|comparison| of_comparison(&prompts, comparison));
    outcomes.collect()
}

/// The outcome of a comparison; `None` if nobody judged it.
fn of_comparison(
    prompts: &HashMap<&PromptId, &PromptProgress>,
    RequestedComparison { request, judgements, .. }: &RequestedComparison,
) -> Option<Outcome> {
    let verdict = judgements.majority()?;
    let PromptProgress::Measured { conflict, rewards, .. } = prompts.get(&request.prompt_id)? else {
        return None;
    };
    let (first, second) = (request.first as usize, request.second as usize);
    let scores = PairScores::of_pacs(rewards, &conflict.pacs, first, second)?;
    Some(outcome(scores, verdict, judgements.is_unsafe(), CLAIM))
}

/// A row of the table, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct OutcomeRow {
    round: u32,
    chosen_by: &'static str,
    judged: String,
    /// The share of each outcome, in the order of [`Outcome::ALL`].
    shares: Vec<String>,
}

impl OutcomeRow {
    pub(super) fn new(figures: &OutcomeFigures) -> Self {
        let share = |outcome| {
            let Some(Interval { mean, low, high, .. }) = figures.counts.share(outcome) else {
                return "–".to_owned();
            };
            format!("{:.0} % ({:.0} to {:.0})", 100.0 * mean, 100.0 * low, 100.0 * high)
        };
        Self {
            round: figures.round,
            chosen_by: match figures.chosen_by {
                ChosenBy::Rule => "the rule",
                ChosenBy::Audit => "the audit",
                ChosenBy::Focus => "the focus",
            },
            judged: grouped(figures.counts.all() as u64),
            shares: Outcome::ALL.map(share).to_vec(),
        }
    }
}
