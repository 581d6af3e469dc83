//! The selection of a round: pairs with a high conflict, the comparisons that judge them, and the figures of
//! the round. The selection follows from the measured prompts, the plan and the round's number.

use super::prompts::{MeasuredPrompt, Prompts};
use crate::analysis::mean;
use crate::conflict::{self, ScoredCompletions, Selection};
use crate::event::{FeedbackRequested, PairSelected, RoundEvaluated};
use crate::feedback::{self, Opponent};
use crate::plan::Plan;

/// The selection from the prompts measured so far.
pub(crate) struct RoundSelection<'a> {
    round: u32,
    /// The seed of this round's random choices, from the seed of the experiment.
    seed: u64,
    measured: Vec<MeasuredPrompt<'a>>,
    selection: Selection,
}

impl<'a> RoundSelection<'a> {
    /// Selects by the rule of the plan.
    pub(crate) fn of(plan: &Plan, round: u32, prompts: &'a Prompts) -> Self {
        let seed = plan.seed.wrapping_add(u64::from(round));
        let measured: Vec<MeasuredPrompt<'a>> = prompts.measured().collect();
        let scored: Vec<ScoredCompletions<'_>> = measured
            .iter()
            .map(|prompt| ScoredCompletions { conflict: prompt.conflict, rewards: prompt.rewards })
            .collect();
        let selection = conflict::select(&plan.conflict.selection, &scored, seed);
        Self { round, seed, measured, selection }
    }

    /// The selected pairs of prompt and completion, in the order of the prompt file.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = PairSelected> + '_ {
        self.measured.iter().zip(&self.selection.completions).flat_map(|(prompt, chosen)| {
            chosen.iter().map(|&completion| PairSelected {
                round: self.round,
                prompt_id: prompt.prompt_id.clone(),
                completion: u32::try_from(completion).unwrap_or(u32::MAX),
                pacs: prompt.conflict.pacs[completion],
            })
        })
    }

    /// The comparisons of the selected completions with their opponents, numbered from 0.
    pub(crate) fn comparisons(&self, opponent: Opponent) -> impl Iterator<Item = FeedbackRequested> + '_ {
        let of_prompt = move |(place, prompt)| {
            self.comparisons_of(opponent, place, prompt).into_iter().map(move |pair| (prompt, pair))
        };
        let completion = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
        (0_u32..).zip(self.measured.iter().enumerate().flat_map(of_prompt)).map(
            move |(comparison, (prompt, pair))| FeedbackRequested {
                round: self.round,
                comparison,
                prompt_id: prompt.prompt_id.clone(),
                prompt_index: prompt.index,
                first: completion(pair.first),
                second: completion(pair.second),
            },
        )
    }

    fn comparisons_of(
        &self,
        opponent: Opponent,
        place: usize,
        prompt: &MeasuredPrompt<'_>,
    ) -> Vec<feedback::Comparison> {
        // Each prompt has its own seed: its comparisons do not depend on other prompts.
        let seed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(prompt.index));
        match &self.selection.pairs {
            Some(pairs) => feedback::in_display_order(&pairs[place], seed),
            None => feedback::comparisons(
                opponent,
                &self.selection.completions[place],
                &prompt.conflict.pacs,
                prompt.rewards,
                seed,
            ),
        }
    }

    /// The figures of the round, after its selection.
    pub(crate) fn evaluation(&self, prompts: &Prompts) -> RoundEvaluated {
        let defined = || self.measured.iter().map(|prompt| prompt.conflict).filter(|c| !c.degenerate);
        let degenerate = self.measured.len() - defined().count();
        let counts = prompts.counts();
        RoundEvaluated {
            round: self.round,
            measured: counts.measured,
            degenerate: u32::try_from(degenerate).unwrap_or(u32::MAX),
            set_aside: counts.set_aside,
            selected: u32::try_from(self.selection.completions.iter().map(Vec::len).sum::<usize>())
                .unwrap_or(u32::MAX),
            mean_abs_pacs: mean(defined().map(|c| c.mean_abs_pacs)),
            kendall_tau: mean(defined().filter_map(|c| c.kendall_tau)),
        }
    }
}
