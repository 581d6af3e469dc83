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

use super::prompt_figures::Judged;
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

/// A judged pair: the indices of its completions, and its outcome.
type JudgedPair = ([usize; 2], Outcome);

/// Returns the part of each completion in the judged pairs of a round, by prompt.
pub(super) fn by_completion(round: &Round) -> HashMap<&PromptId, Vec<Judged>> {
    let prompts = progress(round);
    let mut pairs: HashMap<&PromptId, Vec<JudgedPair>> = HashMap::new();
    for comparison in round.learning().comparisons() {
        let Some(outcome) = of_comparison(&prompts, comparison) else { continue };
        let RequestedComparison { request, .. } = comparison;
        let pair = ([request.first as usize, request.second as usize], outcome);
        pairs.entry(&request.prompt_id).or_default().push(pair);
    }
    let of_prompt = |(prompt_id, pairs)| {
        let Some(PromptProgress::Measured { conflict, .. }) = prompts.get(prompt_id) else { return None };
        Some((prompt_id, assigned(pairs, &conflict.pacs)))
    };
    pairs.into_iter().filter_map(of_prompt).collect()
}

/// Gives each judged pair of a prompt to one of its two completions, and no completion two pairs.
///
/// The completion in the fewest remaining pairs comes first, then the one in the fewest pairs, then the one
/// with the larger |PACS|. So a pair stands at the completion that was selected, not at the opponent that it
/// shares with other pairs. If there are more pairs than completions, some pairs stand nowhere.
fn assigned(mut pairs: Vec<JudgedPair>, pacs: &[f64]) -> Vec<Judged> {
    let mut judged = vec![Judged::No; pacs.len()];
    for completion in pairs.iter().flat_map(|(pair, _)| pair) {
        judged[*completion] = Judged::Beside;
    }
    let of_completion = |pairs: &[JudgedPair], completion: usize| {
        pairs.iter().filter(|(pair, _)| pair.contains(&completion)).count()
    };
    let all = pairs.clone();
    loop {
        let free = (0..pacs.len()).filter(|completion| judged[*completion] == Judged::Beside);
        let counts = |completion| [of_completion(&pairs, completion), of_completion(&all, completion)];
        let candidates = free.map(|completion| (counts(completion), completion));
        let next = candidates
            .filter(|([remaining, _], _)| *remaining > 0)
            .min_by(|a, b| a.0.cmp(&b.0).then(pacs[b.1].abs().total_cmp(&pacs[a.1].abs())));
        let Some((_, completion)) = next else { return judged };
        let Some(place) = pairs.iter().position(|(pair, _)| pair.contains(&completion)) else {
            return judged;
        };
        judged[completion] = Judged::At(pairs.remove(place).1);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const PACS: [f64; 5] = [2.0, 1.0, -0.5, -1.5, 0.1];

    fn at(pairs: &[([usize; 2], Outcome)]) -> Vec<Judged> {
        assigned(pairs.to_vec(), &PACS)
    }

    #[test]
    fn a_pair_stands_at_the_completion_that_it_does_not_share() {
        use Judged::{At, Beside, No};
        use Outcome::{BothWrong, FalseAlarm, PolicyWrong, ProxyWrong};
        let shared = [([0, 3], BothWrong), ([1, 3], ProxyWrong), ([3, 2], PolicyWrong)];
        assert_eq!(at(&shared), [At(BothWrong), At(ProxyWrong), At(PolicyWrong), Beside, No]);
        assert_eq!(at(&[([3, 0], FalseAlarm)]), [At(FalseAlarm), No, No, Beside, No], "the larger |PACS|");
    }

    #[test]
    fn pairs_in_a_ring_stand_at_different_completions() {
        use Judged::At;
        use Outcome::{BothWrong, PolicyWrong, ProxyWrong};
        let ring = at(&[([0, 1], ProxyWrong), ([1, 3], PolicyWrong), ([3, 0], BothWrong)]);
        let standing = ring.iter().filter(|judged| matches!(judged, At(_))).count();
        assert_eq!(standing, 3, "{ring:?}");
    }

    #[test]
    fn more_pairs_than_completions_leave_pairs_without_a_place() {
        let all: Vec<_> =
            (0..4).flat_map(|a| (a + 1..4).map(move |b| ([a, b], Outcome::ProxyWrong))).collect();
        let standing =
            at(&all).into_iter().filter(|judged| *judged == Judged::At(Outcome::ProxyWrong)).count();
        assert_eq!((all.len(), standing), (6, 4));
    }
}
